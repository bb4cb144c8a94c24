"""The events of a study's ledger: what was asked, what a rung showed, how a trial ended, when and why all of it did.

One event is one JSON object on one line. Standard library only, so that anything can read a study.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Status = Literal["ok", "stopped", "infeasible", "failed", "lost"]
Decision = Literal["continue", "stop"]

STATUSES: tuple[str, ...] = get_args(Status)


class RecordError(ValueError):
    """A line that is JSON but no event of a ledger."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Trial ``trial`` was given this architecture. From here on the architecture counts as taken.

    ``source`` names who proposed it; ``hints`` is what a searcher must remember with a proposal to go on after a
    restart (its own business).
    """

    trial: int
    arch_key: str
    arch: dict[str, Any]
    seed: int
    source: str
    hints: dict[str, Any] = field(default_factory=dict)
    time: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Rung:
    """What a running trial had reached after ``epoch`` epochs, and what was decided then."""

    trial: int
    epoch: int
    metrics: dict[str, float]
    decision: Decision
    time: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The one outcome of a trial. ``seconds`` is wall time in the worker; ``error`` is empty unless it failed."""

    trial: int
    status: Status
    arch_key: str
    arch: dict[str, Any]
    seed: int
    seconds: float
    device: str
    metrics: dict[str, float]
    error: str = ""
    time: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Started:
    """A process began to hand out trials: what lies between the event before and this one is no time of the study."""

    time: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The study came to its end, for this reason. With a larger budget it goes on after this."""

    reason: str
    time: float = 0.0


Event = Asked | Rung | Finished | Started | Ended

EVENTS: dict[str, type] = {"asked": Asked, "rung": Rung, "finished": Finished, "started": Started, "ended": Ended}
_NUMBERS = frozenset({int, float, bool})
_FIELDS = {name: frozenset(spec.name for spec in dataclasses.fields(cls)) for name, cls in EVENTS.items()}


def encode_event(event: Event) -> dict[str, Any]:
    """The event as JSON data. Metrics that are not finite are kept as strings, since JSON has no word for them."""
    name = next(name for name, cls in EVENTS.items() if isinstance(event, cls))
    data = {"event": name, **vars(event)}
    if "metrics" in data:
        data["metrics"] = {key: _encode_number(value) for key, value in data["metrics"].items()}
    return data


def decode_event(data: Mapping[str, Any]) -> Event:
    """The inverse of ``encode_event``. Unknown fields, written by a later version, are passed over."""
    cls = EVENTS.get(data.get("event", ""))
    if cls is None:
        raise RecordError(f"unknown event {data.get('event')!r}; known: {', '.join(EVENTS)}")
    known = _FIELDS[data["event"]]
    values = {key: value for key, value in data.items() if key in known}
    if "metrics" in values:
        # Not a call for each: a ledger may hold many millions of numbers.
        values["metrics"] = {
            key: value if type(value) in _NUMBERS else float(value) for key, value in values["metrics"].items()
        }
    try:
        return cls(**values)
    except TypeError as error:
        raise RecordError(f"event {data['event']!r}: {error}") from error


def _encode_number(value: float) -> float | int | str:
    if isinstance(value, int):
        return value
    value = float(value)
    return value if math.isfinite(value) else str(value)


def asked_objectives(study: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a study.json says that it is after: metric and direction of each. Earlier ones have a label besides."""
    return [{name: each.get(name) for name in ("metric", "direction")} for each in study.get("objectives") or []]
