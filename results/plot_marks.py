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


def draw_baselines(
    figure: go.Figure, baselines: Sequence[Baseline], cost: Metric, x_range: tuple[float, float]
) -> None:
    """Hollow squares with their names."""
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
    for other in baselines:
        add_label(figure, html.escape(other.name), (other.x, other.y), x_range)


def add_label(figure: go.Figure, text: str, point: tuple[float, float], x_range: tuple[float, float]) -> None:
    """A name, escaped, below a mark; beside the ends of the axis it grows inwards."""
    place = math.log10(point[0] / x_range[0]) / math.log10(x_range[1] / x_range[0])
    anchor = "left" if place < 0.12 else "right" if place > 0.88 else "center"
    style = {"showarrow": False, "yshift": -16, "xanchor": anchor, "font": {"size": 11, "color": INK}}
    figure.add_annotation(text=text, x=math.log10(point[0]), y=point[1], **style)
