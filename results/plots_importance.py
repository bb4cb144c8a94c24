"""Which dimensions of the space matter, as bars: one group a dimension, one bar a metric."""

from __future__ import annotations

import html
from collections.abc import Mapping

import plotly.graph_objects as go

from results.importance import Importance
from results.metrics import ACCURACY_METRIC, COSTS
from results.plot_style import new_figure

_COLOURS = ("#0077bb", "#ee7733", "#009988", "#cc3311", "#33bbee")


def metric_label(name: str) -> str:
    """A metric as people read it."""
    return COSTS[name].label if name in COSTS else ACCURACY_METRIC.label


def draw_importance(found: Mapping[str, Importance]) -> go.Figure:
    """Bars of the share that each dimension explains alone, the most important for the first metric on top."""
    figure = new_figure("share explained alone (%)", "")
    first = next(iter(found.values()))
    names = list(dict.fromkeys(name for importance in found.values() for name in importance.alone))
    names.sort(key=lambda name: (first.alone.get(name, 0.0), name))
    for (metric, importance), colour in reversed(list(zip(found.items(), _COLOURS))):
        shares = [round(100 * importance.alone.get(name, 0.0), 2) for name in names]
        bar = go.Bar(x=shares, y=[html.escape(name) for name in names], orientation="h", name=metric_label(metric))
        hover = "%{y}: %{x:.1f} %<extra>" + metric_label(metric) + "</extra>"
        figure.add_trace(bar.update(marker={"color": colour}, hovertemplate=hover))
    height = 110 + len(names) * (14 + 12 * len(found))
    figure.update_layout(barmode="group", bargap=0.25, height=height, legend={"traceorder": "reversed"})
    figure.update_xaxes(showgrid=True, rangemode="tozero")
    figure.update_yaxes(showline=False, ticks="")
    return figure
