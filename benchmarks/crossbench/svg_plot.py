"""Lines with bands in panels, as an SVG of a few kilobytes that any page or repository view shows.

Plotly's pages weigh megabytes and its images need a browser; a race needs one picture.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 430, 320, 56, 34, 40
_INK, _GRID = "#6b7280", "#8888882e"


@dataclass(frozen=True)
class Line:
    """A curve with its quartiles; all of one length. ``colour`` and ``dash`` as SVG has them."""

    x: Sequence[float]
    low: Sequence[float]
    middle: Sequence[float]
    high: Sequence[float]
    colour: str
    dash: str = ""


@dataclass(frozen=True)
class Panel:
    """Lines by name over a logarithmic x axis; y from ``y_low`` to 1."""

    title: str
    lines: Mapping[str, Line]
    y_low: float = 0.5


def draw_panels(panels: Sequence[Panel]) -> str:
    """The panels side by side, with one legend below, as the text of an SVG file."""
    legend = {name: line for panel in panels for name, line in panel.lines.items()}
    width = _LEFT + len(panels) * (_WIDTH + _GAP)
    height = _TOP + _HEIGHT + 52 + 18 * math.ceil(len(legend) / 3)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{_INK}">'
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, _LEFT + number * (_WIDTH + _GAP))
    for place, (name, line) in enumerate(legend.items()):
        x, y = _LEFT + (place % 3) * (width - _LEFT) / 3, _TOP + _HEIGHT + 56 + 18 * (place // 3)
        parts.append(_stroke(f"M{x:.0f} {y - 4:.0f}h24", line))
        parts.append(f'<text x="{x + 30:.0f}" y="{y:.0f}">{html.escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, left: float) -> list[str]:
    lowest = min(min(line.x) for line in panel.lines.values())
    highest = max(max(line.x) for line in panel.lines.values())

    def across(x: float) -> float:
        return left + _WIDTH * math.log(x / lowest) / math.log(highest / lowest)

    def down(y: float) -> float:
        return _TOP + _HEIGHT * (1.0 - max(0.0, (y - panel.y_low) / (1.0 - panel.y_low)))

    middle = f'x="{left + _WIDTH / 2:.0f}" text-anchor="middle"'
    parts = [f'<text {middle} y="{_TOP + _HEIGHT + 38}">{html.escape(panel.title)}</text>']
    for x in _ticks(lowest, highest):
        parts.append(f'<path d="M{across(x):.1f} {_TOP}v{_HEIGHT}" stroke="{_GRID}"/>')
        parts.append(f'<text x="{across(x):.1f}" y="{_TOP + _HEIGHT + 18}" text-anchor="middle">{x:g}</text>')
    for y in (value / 20 for value in range(math.ceil(panel.y_low * 20), 21)):
        parts.append(f'<path d="M{left} {down(y):.1f}h{_WIDTH}" stroke="{_GRID}"/>')
        parts.append(f'<text x="{left - 6}" y="{down(y) + 4:.1f}" text-anchor="end">{100 * y:.0f} %</text>')
    for line in panel.lines.values():
        there = [f"{across(x):.1f} {down(y):.1f}" for x, y in zip(line.x, line.high)]
        back = [f"{across(x):.1f} {down(y):.1f}" for x, y in zip(line.x, line.low)][::-1]
        parts.append(f'<path d="M{"L".join(there + back)}Z" fill="{line.colour}" opacity="0.12"/>')
    for line in panel.lines.values():
        points = "L".join(f"{across(x):.1f} {down(y):.1f}" for x, y in zip(line.x, line.middle))
        parts.append(_stroke(f"M{points}", line))
    return parts


def _stroke(path: str, line: Line) -> str:
    dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
    return f'<path d="{path}" fill="none" stroke="{line.colour}" stroke-width="2"{dash}/>'


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of every decade between two positive values."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**power for power in powers for step in (1, 2, 5) if low <= step * 10.0**power <= high]
