"""What a search is after: metrics of a finished trial, each with a direction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from crossvit_core.config import suggest


@dataclass(frozen=True)
class Objective:
    """``log`` metrics are told to the searcher as logarithms: a tenth saved weighs the same at every size."""

    metric: str
    direction: Literal["max", "min"]
    log: bool = False

    def value(self, metrics: Mapping[str, float]) -> float | None:
        """What the searcher is told; None if the metric is missing or not a finite number."""
        value = metrics.get(self.metric)
        if value is None or not math.isfinite(value) or (self.log and value <= 0):
            return None
        return math.log10(value) if self.log else float(value)

    def loss(self, metrics: Mapping[str, float]) -> float | None:
        """The same, turned so that lower is better."""
        value = self.value(metrics)
        return value if value is None or self.direction == "min" else -value


OBJECTIVES: dict[str, Objective] = {
    "val_accuracy": Objective("val_accuracy", "max"),
    "macs": Objective("macs", "min", log=True),
    "params": Objective("params", "min", log=True),
    "activations": Objective("activations", "min", log=True),
    "throughput_ips": Objective("throughput_ips", "max", log=True),
    "latency_ms": Objective("latency_ms", "min", log=True),
    "peak_memory_mb": Objective("peak_memory_mb", "min", log=True),
    "train_memory_mb": Objective("train_memory_mb", "min", log=True),
    "energy_mj": Objective("energy_mj", "min", log=True),
}

DEFAULT_OBJECTIVES = ("val_accuracy", "macs", "throughput_ips")


def find_objectives(names: tuple[str, ...]) -> tuple[Objective, ...]:
    """The objectives of these names. Raises ValueError naming an unknown or repeated one."""
    for index, name in enumerate(names):
        if name not in OBJECTIVES:
            raise ValueError(f"unknown objective {name!r}; {suggest(name, OBJECTIVES)}")
        if name in names[:index]:
            raise ValueError(f"objective {name!r} is named twice")
    if not names:
        raise ValueError(f"no objectives; known: {', '.join(OBJECTIVES)}")
    return tuple(OBJECTIVES[name] for name in names)
