"""Limits on what the closed form can count, and numbers as people write them (40M, 1.5G)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from crossvit_core.cost import Cost

LIMITED_METRICS = ("macs", "params", "activations")

_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([kKmMgG]?)\s*")
_SCALE = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}


def parse_number(value: Any) -> int:
    """40M, 1.5G, 200k, 3e6 or a plain number, as an integer. Raises ValueError."""
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a number; write 3000000, 3M, 1.5G or 200k")
    if isinstance(value, (int, float)) and math.isfinite(value) and value >= 0:
        return round(value)
    match = _NUMBER.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not a number; write 3000000, 3M, 1.5G or 200k")
    return round(float(match.group(1)) * _SCALE[match.group(2).lower()])


def format_number(value: float) -> str:
    """A count in three figures: 676 k, 40 M, 1.5 G."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.3g}"


@dataclass(frozen=True)
class Limit:
    """A closed window on one count of an architecture. An open side is None."""

    metric: str
    minimum: int | None = None
    maximum: int | None = None

    def excess(self, cost: Cost) -> float:
        """How far the count lies outside the window, as a difference of logarithms; 0 inside."""
        value = getattr(cost, self.metric)
        if self.maximum is not None and value > self.maximum:
            return math.log((value + 1) / (self.maximum + 1))
        if self.minimum is not None and value < self.minimum:
            return math.log((self.minimum + 1) / (value + 1))
        return 0.0

    def describe(self) -> str:
        """The window in words: 'macs at most 40 M'."""
        low, high = self.minimum, self.maximum
        if low is not None and high is not None:
            return f"{self.metric} from {format_number(low)} to {format_number(high)}"
        if high is not None:
            return f"{self.metric} at most {format_number(high)}"
        return f"{self.metric} at least {format_number(low or 0)}"
