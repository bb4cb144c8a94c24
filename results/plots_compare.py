"""The plots of a comparison: fronts in one plot, hypervolume from one corner, attainment surfaces."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator

import numpy as np
import plotly.graph_objects as go

from results.compare import Comparison, Run, attainment
from results.metrics import ACCURACY
from results.plot_marks import draw_step
from results.plot_style import INK, Drawn, add_note, count_step, hover_texts, new_figure, padded_range, set_log_axis

Corner = tuple[float, float]

_COLOURS = ("#0077bb", "#ee7733", "#009988", "#cc3311", "#33bbee", "#ee3377", "#aa9922", "#777777")
_DASHES = ("solid", "dash", "dot", "dashdot")
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "triangle-down", "pentagon", "star", "hexagon")


def comparison_figures(comparison: Comparison) -> Iterator[Drawn]:
    """Fronts, hypervolume against trials and seconds, attainment surfaces."""
    found = [run for run in comparison.runs if not run.members.empty]
    if not found:
        return
    caption = "Lines are the fronts; point at a member for its description, click it to copy its key."
    yield Drawn("fronts", _draw_fronts(comparison, found), f"Fronts over {comparison.cost.label}", caption)
    corner = corner_text(comparison)
    trials = _draw_volumes(comparison, found, "finished trials", None)
    yield Drawn("volumes", trials, "Hypervolume over trials", f"All measured from {corner}.")
    for column, title in (("study_seconds", "the clock, pauses left out"), ("seconds", "device time")):
        timed = [run for run in found if np.isfinite(_seconds(run, column)).all()]
        if timed:
            drawn = _draw_volumes(comparison, timed, f"minutes of {title}", column)
            yield Drawn(f"volumes-{column}", drawn, f"Hypervolume over {title}")
    for index, (name, group) in enumerate(comparison.groups.items()):
        caption = f"{len(group)} studies that differ in their seed: what at least one, half, and all of them reached."
        yield Drawn(f"attainment-{index}", _draw_attainment(comparison, group), f"Attainment: {name}", caption)


def corner_text(comparison: Comparison) -> str:
    """The corner that the volumes are measured from, in words."""
    log_cost = float(comparison.reference[1])
    corner = 10 ** (-log_cost if comparison.cost.maximise else log_cost)
    return f"accuracy 0 and {comparison.cost.write(corner)} {comparison.cost.label}"


def _style(comparison: Comparison, run: Run) -> tuple[str, str, str]:
    index = [other.name for other in comparison.runs].index(run.name)
    return _COLOURS[index % 8], _DASHES[index // 8 % 4], _SYMBOLS[index % 8]


def _draw_fronts(comparison: Comparison, found: list[Run]) -> go.Figure:
    cost = comparison.cost
    drawn = new_figure(cost.axis, "validation accuracy (%)")
    x_range = padded_range([float(x) for run in found for x in run.members[cost.name] if x > 0])
    lines: list[set[Corner]] = []
    for run in found:
        members = run.members[run.members[cost.name] > 0]
        colour, dash, symbol = _style(comparison, run)
        x, y = members[cost.name].tolist(), (100 * members[ACCURACY]).tolist()
        dash, above = _let_through(lines, zip(x, y), dash)
        draw_step(drawn, (x, y), cost, x_range, {"color": colour, "width": 1.8, "dash": dash}, html.escape(run.name))
        drawn.data[-1].update(legendgroup=run.name, showlegend=False)
        marks = go.Scatter(x=x, y=y, mode="markers", name=html.escape(run.name), legendgroup=run.name)
        marks.customdata = [[key, 1] for key in members["arch_key"]]
        texts = [f"<b>{html.escape(run.name)}</b><br>{text}" for text in hover_texts(members)]
        marker = {"color": colour, "symbol": f"{symbol}-open" if above else symbol, "size": 8 + 5 * above}
        drawn.add_trace(marks.update(text=texts, marker=marker, hovertemplate="%{text}<extra></extra>"))
    set_log_axis(drawn, x_range)
    return drawn


def _draw_volumes(comparison: Comparison, runs: list[Run], title: str, column: str | None) -> go.Figure:
    drawn = new_figure(title, "hypervolume")
    lines: list[set[Corner]] = []
    for run in runs:
        colour, dash, _ = _style(comparison, run)
        keep = sorted({0, *(np.flatnonzero(np.diff(run.volumes)) + 1).tolist(), len(run.volumes) - 1})
        x = np.arange(1, len(run.volumes) + 1) if column is None else _seconds(run, column) / 60
        xs = [0.0, *(round(float(x[i]), 6) for i in keep)]
        ys = [0.0, *(float(run.volumes[i]) for i in keep)]
        dash, _ = _let_through(lines, zip(xs, ys), dash)
        line = {"color": colour, "dash": dash, "width": 2, "shape": "hv"}
        drawn.add_trace(go.Scatter(x=xs, y=ys, mode="lines", line=line, name=html.escape(run.name)))
    if column is None:
        drawn.update_xaxes(dtick=count_step(max(len(run.volumes) for run in runs)))
    drawn.update_layout(height=360, showlegend=True)
    return drawn


def _let_through(drawn: list[set[Corner]], corners: Iterable[Corner], dash: str) -> tuple[str, int]:
    """The dash of a line, and how many lie below it that share a stretch with it: they must be seen through its gaps.

    Lines that share two corners, nothing at all apart, run together somewhere.
    """
    line = set(corners) - {(0.0, 0.0)}
    below = sum(len(line & other) >= min(2, len(line)) for other in drawn)
    drawn.append(line)
    return (_DASHES[below % len(_DASHES)] if below else dash), below


def _seconds(run: Run, column: str) -> np.ndarray:
    finished = run.findings.frame[run.findings.frame["order"] >= 0].sort_values("order")
    times = finished[column].to_numpy(dtype=float)
    return np.nan_to_num(times).cumsum() if column == "seconds" else times


def _draw_attainment(comparison: Comparison, group: list[Run]) -> go.Figure:
    cost, surfaces = comparison.cost, attainment(group, comparison.cost)
    drawn = new_figure(cost.axis, "validation accuracy (%)")
    x_range = padded_range([float(x) for surface in surfaces.values() for x in surface[:, 0] if x > 0])
    for (share, surface), dash in zip(surfaces.items(), ("dot", "solid", "dash")):
        name = "reached by all" if share == 100 else "reached by half" if share == 50 else "reached by at least one"
        line = {"color": _COLOURS[0], "width": 2.4 if share == 50 else 1.4, "dash": dash}
        draw_step(drawn, (surface[:, 0].tolist(), surface[:, 1].tolist()), cost, x_range, line, name)
    for run in group:
        y = (100 * run.members[ACCURACY]).tolist()
        marker = {"color": INK, "size": 5, "opacity": 0.6, "symbol": "circle"}
        points = go.Scatter(x=run.members[cost.name].tolist(), y=y, mode="markers", marker=marker, showlegend=False)
        drawn.add_trace(points.update(text=hover_texts(run.members), hovertemplate="%{text}<extra></extra>"))
    set_log_axis(drawn, x_range)
    add_note(drawn, f"{len(group)} seeds", "left" if cost.maximise else "right")
    return drawn
