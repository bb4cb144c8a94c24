"""Limits on what the closed form can count and on what is measured, and numbers as people write them (40M, 1.5G)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from crossvit_core.config import suggest
from crossvit_core.cost import Cost

# Counted in closed form: a space proposes nothing that breaks such a limit.
LIMITED_METRICS = ("macs", "params", "activations")

# Known once a candidate is built and measured: a trial that breaks such a limit ends before it is trained.
MEASURED_METRICS = (
    "latency_ms",
    "latency_p95_ms",
    "throughput_ips",
    "throughput_ratio",
    "peak_memory_mb",
    "train_memory_mb",
    "energy_mj",
)

_LIMIT = re.compile(r"\s*(\w+)\s*(<=|>=)\s*(.*?)\s*")
_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([kKmMgG]?)\s*")
_SCALE = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}


def parse_number(value: Any) -> int:
    """40M, 1.5G, 200k, 3e6 or a plain number, as an integer. Raises ValueError."""
    return round(parse_quantity(value))


def parse_quantity(value: Any) -> float:
    """As ``parse_number``, with what stands behind the point."""
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a number; write 3000000, 3M, 1.5G or 200k")
    if isinstance(value, (int, float)) and math.isfinite(value) and value >= 0:
        return float(value)
    negative = str(value).strip().startswith("-")
    match = _NUMBER.fullmatch(value) if isinstance(value, str) else None
    if match is None and negative:
        raise ValueError(f"{value!r} is below 0; nothing that is counted or measured is")
    number = math.nan if match is None else float(match.group(1)) * _SCALE[match.group(2).lower()]
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not a number; write 3000000, 3M, 1.5G or 200k")
    return number


def format_number(value: float) -> str:
    """A count in three figures: 676 k, 40 M, 1.5 G."""
    # The unit is that of the rounded number, or 999 900 would be a thousand k.
    rounded = float(f"{value:.3g}")
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(rounded) >= scale:
            figures = rounded / scale
            return f"{figures:.0f} {unit}" if abs(figures) >= 1000 else f"{figures:.3g} {unit}"
    return f"{rounded:.3g}"


def format_apart(*values: float) -> tuple[str, ...]:
    """Counts in three figures; all of them in full (91,424) where different ones would read alike."""
    texts = tuple(format_number(value) for value in values)
    return texts if len(set(texts)) == len(set(values)) else tuple(f"{value:,.15g}" for value in values)


@dataclass(frozen=True)
class Limit:
    """A closed window on one metric of an architecture. An open side is None."""

    metric: str
    minimum: float | None = None
    maximum: float | None = None

    def excess(self, cost: Cost) -> float:
        """How far the count lies outside the window, as a difference of logarithms; 0 inside."""
        value = getattr(cost, self.metric)
        if self.maximum is not None and value > self.maximum:
            return math.log((value + 1) / (self.maximum + 1))
        if self.minimum is not None and value < self.minimum:
            return math.log((self.minimum + 1) / (value + 1))
        return 0.0

    def breach(self, metrics: Mapping[str, float]) -> str:
        """Why the metrics are outside the window; empty inside it, and where the metric is not known yet."""
        value = metrics.get(self.metric)
        if value is None:
            return ""
        low = -math.inf if self.minimum is None else self.minimum
        high = math.inf if self.maximum is None else self.maximum
        # A value that is no number is inside no window.
        if low <= value <= high:
            return ""
        window, text = self.describe_beside(value)
        return f"{self.metric} is {text}, allowed is {window}"

    def to_dict(self) -> dict[str, Any]:
        return {"metric": self.metric, "min": self.minimum, "max": self.maximum}

    def describe(self) -> str:
        """The window in words: 'macs at most 40 M'."""
        return self.describe_beside()[0]

    def describe_beside(self, *values: float) -> tuple[str, ...]:
        """The window in words, then the values that it is told with, so written that all of them read apart."""
        sides = [side for side in (self.minimum, self.maximum) if side is not None]
        texts = format_apart(*sides, *values)
        if len(sides) == 2:
            window = f"from {texts[0]} to {texts[1]}"
        else:
            window = f"at {'least' if self.maximum is None else 'most'} {texts[0]}"
        return f"{self.metric} {window}", *texts[len(sides) :]


class LimitError(ValueError):
    """A limit that makes no sense. ``side`` is the side at fault, 'min' or 'max' or what stands there instead."""

    def __init__(self, message: str, side: str = "") -> None:
        super().__init__(message)
        self.side = side


def make_limit(metric: str, sides: Mapping[str, Any]) -> Limit:
    """A limit from its sides as people write them ({'max': '40M'}). Raises LimitError."""
    known = (*LIMITED_METRICS, *MEASURED_METRICS)
    if metric not in known:
        raise LimitError(f"unknown limit {metric!r}; {suggest(metric, known)}")
    parse = parse_number if metric in LIMITED_METRICS else parse_quantity
    values: dict[str, float] = {}
    for side, value in sides.items():
        if side not in ("min", "max"):
            raise LimitError(f"limit {metric}: unknown side {side!r}; use min or max", side)
        try:
            values[side] = parse(value)
        except ValueError as error:
            raise LimitError(f"limit {metric}: {error}", side) from error
    if not values:
        raise LimitError(f"limit {metric} has neither min nor max")
    if values.get("min", 0) > values.get("max", math.inf):
        raise LimitError(f"limit {metric} is an empty window: min {sides['min']} is above max {sides['max']}")
    return Limit(metric, values.get("min"), values.get("max"))


def parse_limit(text: str) -> Limit:
    """'latency_ms<=5' or 'macs>=1M' as a limit. Raises LimitError."""
    match = _LIMIT.fullmatch(text)
    if match is None:
        raise LimitError(f"{text!r} is no limit; write a metric, <= or >=, and a number, as in 'latency_ms<=5'")
    metric, sign, value = match.groups()
    return make_limit(metric, {"max" if sign == "<=" else "min": value})


def override_limits(limits: Iterable[Limit], asked: Iterable[Limit]) -> tuple[Limit, ...]:
    """The limits with each side that was asked for in place of their own. Raises LimitError for an empty window."""
    merged = {limit.metric: limit for limit in limits}
    for limit in asked:
        old = merged.get(limit.metric, Limit(limit.metric))
        low = old.minimum if limit.minimum is None else limit.minimum
        high = old.maximum if limit.maximum is None else limit.maximum
        if low is not None and high is not None and low > high:
            low_text, high_text = format_apart(low, high)
            window = f"min {low_text} is above max {high_text}"
            raise LimitError(f"limit {limit.metric} is an empty window: {window}")
        merged[limit.metric] = Limit(limit.metric, low, high)
    return tuple(merged.values())
