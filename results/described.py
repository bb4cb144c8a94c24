"""What a study.json says of its study, read as far as it goes: it may say little."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from results.metrics import COSTS


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def objective_names(study: Mapping[str, Any]) -> list[str]:
    """The metrics that the study is after."""
    return [str(mapping(objective).get("metric", "")) for objective in study.get("objectives") or []]


def primary_cost(study: Mapping[str, Any]) -> str:
    """The cost among the study's objectives; FLOPs if there is none."""
    return next((metric for metric in objective_names(study) if metric in COSTS), "macs")


def upper_limit(study: Mapping[str, Any], metric: str) -> float | None:
    """The space's upper bound on a metric, if it has one."""
    bound = mapping(mapping(mapping(study.get("space")).get("limits")).get(metric)).get("max")
    return float(bound) if isinstance(bound, (int, float)) else None


def planned_epochs(study: Mapping[str, Any]) -> int:
    """How long a trial is trained that nobody stops, 0 if the study does not say."""
    epochs = mapping(study.get("recipe")).get("epochs")
    return epochs if isinstance(epochs, int) else 0


def validation_images(study: Mapping[str, Any]) -> int:
    """The size of the validation split, 0 if the study does not say."""
    count = mapping(mapping(study.get("data")).get("splits")).get("val")
    return count if isinstance(count, int) and count > 0 else 0
