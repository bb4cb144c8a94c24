"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

MISSING = "-"

_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def human_count(value: float) -> str:
    """Three significant digits and a step: 676032 as '676 k', 1200000 as '1.20 M', 31 as '31'."""
    if not math.isfinite(value):
        return MISSING
    for size, letter in _STEPS:
        # 999 600 would round to '1000 k'.
        if abs(value) >= size * 0.9995:
            return f"{_three_digits(value / size)} {letter}"
    return f"{value:.0f}" if value == int(value) else f"{value:.3g}"


def percent(fraction: float) -> str:
    """A fraction as '98.5 %'."""
    return f"{100 * fraction:.1f} %" if math.isfinite(fraction) else MISSING


def divergence_text(value: float) -> str:
    """Three significant digits, small ones as '1.94e-07': a divergence is often far below what four places show."""
    if not math.isfinite(value):
        return MISSING
    return "0" if value == 0 else f"{value:.2e}" if abs(value) < 1e-3 else f"{value:.3g}"


def per_second(value: float) -> str:
    """Images per second, in thousands set apart: '2,410'."""
    return f"{value:,.0f}" if math.isfinite(value) else MISSING


def with_spread(value: float, iqr: float) -> str:
    """A rate and half its interquartile range in percent of it: '2,410 ±0.6%'."""
    known = math.isfinite(value) and math.isfinite(iqr) and value > 0
    return f"{per_second(value)} ±{50 * iqr / value:.1f}%" if known else per_second(value)


def quantity(value: float, unit: str) -> str:
    """Three significant digits and the unit: '1.24 ms', '1,240 MB'."""
    if not math.isfinite(value):
        return MISSING
    return f"{value:,.0f} {unit}" if abs(value) >= 999.5 else f"{value:.3g} {unit}"


def duration(seconds: float) -> str:
    """'8 s', '12 min', '3 h 20 min'."""
    if not math.isfinite(seconds):
        return MISSING
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def plural(count: int, noun: str) -> str:
    """'1 trial', '2 trials'."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def listed(names: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def sentence(text: str) -> str:
    """A phrase with a capital and a full stop: 'The cheapest.'."""
    return text[:1].upper() + text[1:] + "."


def _three_digits(value: float) -> str:
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f}"
