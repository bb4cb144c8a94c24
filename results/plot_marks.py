"""Marks that several plots of accuracy against a cost share: the step line of a front, and networks from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

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
    x, y = zip(*_steps(points, cost, x_range))
    line = {**line, "shape": "vh" if cost.maximise else "hv"}
    figure.add_trace(go.Scatter(x=x, y=y, mode="lines", line=line, name=name, hoverinfo="skip"))


def step_corners(
    points: tuple[Sequence[float], Sequence[float]], cost: Metric, x_range: tuple[float, float]
) -> list[tuple[float, float]]:
    """Where the line of ``draw_step`` turns, and its ends."""
    steps = _steps(points, cost, x_range)
    turns = [(a[0], b[1]) if cost.maximise else (b[0], a[1]) for a, b in pairwise(steps)]
    return [*(corner for step in zip(steps, turns) for corner in step), steps[-1]]


def _steps(
    points: tuple[Sequence[float], Sequence[float]], cost: Metric, x_range: tuple[float, float]
) -> list[tuple[float, float]]:
    # On an axis where more is better the last member is the fastest, and what it reaches holds for all that is slower.
    steps = sorted(zip(*points), key=lambda point: point[0])
    edge = x_range[0 if cost.maximise else 1]
    return [(edge, steps[0][1]), *steps] if cost.maximise else [*steps, (edge, steps[-1][1])]


def draw_baselines(figure: go.Figure, baselines: Sequence[Baseline], cost: Metric) -> None:
    """Hollow squares; ``plot_labels`` names them."""
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
