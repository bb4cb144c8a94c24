"""The differences of an ablation: first the numbers (``gather_differences``), then the drawing."""

from __future__ import annotations

import html
from typing import NamedTuple

import plotly.graph_objects as go

from results.ablation import AblationFindings
from results.plot_style import FAINT, INK, fusion_mark, new_figure

_ROW_PX, _FRAME_PX = 58, 130


class Difference(NamedTuple):
    """One row, in points: the mean and its interval, and what each seed showed."""

    name: str
    label: str
    mean: float
    low: float
    high: float
    verdict: str
    seeds: list[float]


def gather_differences(findings: AblationFindings) -> list[Difference]:
    """The variants that were compared, in the order of the study."""
    return [
        Difference(
            result.name,
            result.label,
            100 * result.comparison.difference,
            100 * result.comparison.low,
            100 * result.comparison.high,
            result.comparison.verdict,
            [100 * value for value in result.differences.values()],
        )
        for result in findings.compared
    ]


def draw_differences(rows: list[Difference]) -> go.Figure:
    """A row for each variant: its mean difference as a mark with its 95 % interval, its seeds as faint dots."""
    figure = new_figure("difference in accuracy (points)", "")
    figure.add_vline(x=0, line={"color": INK, "width": 1, "dash": "dot"})
    for row in reversed(rows):
        _draw_row(figure, row)
    figure.update_layout(height=_FRAME_PX + _ROW_PX * max(2, len(rows)), showlegend=False)
    figure.update_yaxes(showgrid=False, ticks="", range=(-0.5, len(rows) - 0.5))
    figure.update_xaxes(showgrid=True, zeroline=False)
    return figure


def _draw_row(figure: go.Figure, row: Difference) -> None:
    mark, label = fusion_mark(row.name), html.escape(row.label)
    figure.add_scatter(
        x=row.seeds,
        y=[label] * len(row.seeds),
        mode="markers",
        marker={"color": FAINT, "size": 10, "symbol": "line-ns-open", "line": {"width": 2}},
        hovertemplate=f"{label}<br>one seed: %{{x:+.2f}} points<extra></extra>",
    )
    spread = {"type": "data", "array": [row.high - row.mean], "arrayminus": [row.mean - row.low], "thickness": 2}
    text = f"<b>{label}</b><br>{row.mean:+.2f} [{row.low:+.2f}, {row.high:+.2f}] points<br>{html.escape(row.verdict)}"
    figure.add_scatter(
        x=[row.mean],
        y=[label],
        mode="markers",
        error_x={**spread, "color": mark.colour, "width": 7},
        marker={"color": mark.colour, "symbol": mark.symbol, "size": 12},
        hovertemplate=f"{text}<extra></extra>",
    )
