"""Marks that several plots of accuracy against a cost share: the step line of a front, and networks from elsewhere."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from results.metrics import Metric
from results.plot_style import INK


class Baseline(NamedTuple):
    """A network from elsewhere that was trained on the same data: cost, and accuracy in percent."""

    name: str
    x: float
    y: float


def draw_step(
    figure: go.Figure,
    points: tuple[Sequence[float], Sequence[float]],
    cost: Metric,
    x_range: tuple[float, float],
    line: dict[str, Any],
    name: str,
) -> None:
    """From each member on, its accuracy can be had for its cost: flat until the next one, then up.

    ``points`` are the costs and accuracies of a front, ``x_range`` the ends of the axis.
    """
    # On an axis where more is better the last member is the fastest, and what it reaches holds for all that is slower.
    order = np.argsort(points[0], kind="stable")
    x, y = [points[0][i] for i in order], [points[1][i] for i in order]
    edge = x_range[0 if cost.maximise else 1]
    x, y = ([edge, *x], [y[0], *y]) if cost.maximise else ([*x, edge], [*y, y[-1]])
    line = {**line, "shape": "vh" if cost.maximise else "hv"}
    figure.add_trace(go.Scatter(x=x, y=y, mode="lines", line=line, name=name, hoverinfo="skip"))


def draw_baselines(figure: go.Figure, baselines: Sequence[Baseline], cost: Metric) -> None:
    """Hollow squares; ``draw_labels`` names them."""
    if not baselines:
        return
    texts = [
        f"<b>{html.escape(other.name)}</b> (baseline)<br>{other.y:.1f} % · {cost.write(other.x)} {cost.label}"
        for other in baselines
    ]
    marker = {"color": "rgba(0,0,0,0)", "symbol": "square", "size": 11, "line": {"color": INK, "width": 1.8}}
    points = {"x": [other.x for other in baselines], "y": [other.y for other in baselines], "text": texts}
    trace = go.Scatter(**points, mode="markers", name="baselines", marker=marker)
    figure.add_trace(trace.update(hovertemplate="%{text}<extra></extra>"))


class Label(NamedTuple):
    """A name and the mark that it belongs to: cost, and accuracy in percent."""

    text: str
    x: float
    y: float


class Place(NamedTuple):
    """Where a label stands beside its mark, in pixels: up and to the right are positive."""

    anchor: str
    right: float
    up: float


def draw_labels(
    figure: go.Figure,
    labels: Sequence[Label],
    marks: Sequence[tuple[float, float]],
    ranges: tuple[tuple[float, float], tuple[float, float]],
) -> None:
    """Names beside their marks, each where it covers no other name and as few marks as can be.

    ``marks`` are all that is drawn, as (cost, accuracy); ``ranges`` are the ends of the two axes.
    """
    for label, place in zip(labels, place_labels(labels, marks, ranges)):
        shift = {"xshift": place.right, "yshift": place.up, "xanchor": place.anchor}
        style = {"showarrow": False, "font": {"size": 11, "color": INK}}
        figure.add_annotation(text=html.escape(label.text), x=math.log10(label.x), y=label.y, **shift, **style)


def place_labels(
    labels: Sequence[Label],
    marks: Sequence[tuple[float, float]],
    ranges: tuple[tuple[float, float], tuple[float, float]],
) -> list[Place]:
    """One place a label, in their order; of equally free places the first of ``_PLACES``, which is below."""
    dots = [_box(_pixel(mark, ranges), Place("center", 0, 0), _MARK_PX, _MARK_PX) for mark in marks]
    taken: list[_Box] = []
    places = []
    for label in labels:
        at = _pixel((label.x, label.y), ranges)
        width = _LETTER_PX * len(label.text)
        boxes = [_box(at, place, width, _LINE_PX) for place in _PLACES]
        costs = [_crowding(box, taken, dots) for box in boxes]
        best = int(np.argmin(costs))
        taken.append(boxes[best])
        places.append(_PLACES[best])
    return places


class _Box(NamedTuple):
    left: float
    low: float
    right: float
    high: float

    def meets(self, other: _Box) -> bool:
        apart = self.right <= other.left or other.right <= self.left or self.high <= other.low or other.high <= self.low
        return not apart


def _pixel(point: tuple[float, float], ranges: tuple[tuple[float, float], tuple[float, float]]) -> tuple[float, float]:
    """On a plot of the usual size; a wider one has only more room."""
    (left, right), (low, high) = ranges
    across = math.log10(point[0] / left) / math.log10(right / left)
    return _WIDTH_PX * across, _HEIGHT_PX * (point[1] - low) / (high - low)


def _box(at: tuple[float, float], place: Place, width: float, height: float) -> _Box:
    middle = {"left": 0.5, "center": 0.0, "right": -0.5}[place.anchor] * width + at[0] + place.right
    height_at = at[1] + place.up
    return _Box(middle - width / 2, height_at - height / 2, middle + width / 2, height_at + height / 2)


def _crowding(box: _Box, taken: Sequence[_Box], dots: Sequence[_Box]) -> float:
    """A name over a name cannot be read, one beyond the frame is cut, one over a mark hides it."""
    outside = box.left < 0 or box.right > _WIDTH_PX or box.low < 0 or box.high > _HEIGHT_PX
    return 10 * sum(box.meets(other) for other in taken) + 5 * outside + sum(box.meets(dot) for dot in dots)


_WIDTH_PX, _HEIGHT_PX = 820, 370  # of the frame, as the page shows it
_LETTER_PX, _LINE_PX, _MARK_PX = 6.0, 14.0, 10.0
_PLACES = (
    Place("center", 0, -16),
    Place("center", 0, 16),
    Place("left", 10, 0),
    Place("right", -10, 0),
    Place("left", 4, -16),
    Place("right", -4, -16),
    Place("left", 4, 16),
    Place("right", -4, 16),
    Place("center", 0, -31),
    Place("center", 0, 31),
    Place("left", 4, -31),
    Place("right", -4, -31),
)
