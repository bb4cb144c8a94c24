"""Accuracy against a cost: first the numbers (``gather_front_plot``), then the drawing (``draw_front_plot``)."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from results.frame import complete, front
from results.metrics import ACCURACY, Metric, cost_metric
from results.plot_labels import Drawing, Label, draw_labels
from results.plot_marks import Baseline, draw_baselines, draw_step, step_corners
from results.plot_style import (
    FAINT,
    INK,
    add_note,
    fusion_label,
    fusion_mark,
    fusion_order,
    hover_texts,
    new_figure,
    padded_range,
    set_log_axis,
)
from results.repeats import SPREAD
from results.units import plural

MAX_POINTS = 4000
"""Points drawn beside the front; of more, an even sample in the order of the trials is drawn, and the plot says so."""

MAX_MEMBERS = 2000
"""Members of the front that are drawn. A larger front is made of ties, or far finer than the plot."""

_MANY = 20
_CROWD = 60


class Points(NamedTuple):
    """Trials to draw alike: cost, accuracy in percent, hover text, which are on the front, and their keys.

    ``spread`` is the standard deviation between runs, in points of accuracy; 0 for an architecture with one run.
    """

    x: list[float]
    y: list[float]
    text: list[str]
    on_front: list[bool]
    keys: list[str]
    spread: list[float]


class CostMark(NamedTuple):
    """A network that was not trained: only its cost is known."""

    name: str
    x: float


class FrontPlot(NamedTuple):
    """The numbers of one plot of accuracy (percent) against a cost."""

    cost: Metric
    groups: dict[str, Points]
    stopped: Points
    front: Points
    presets: dict[str, Points]
    baselines: list[Baseline]
    retrained: Points
    cost_marks: list[CostMark]
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    num_below: int
    num_left_out: int


def gather_front_plot(
    frame: pd.DataFrame,
    cost: str = "macs",
    presets: Sequence[Mapping[str, Any]] = (),
    baselines: Sequence[Mapping[str, Any]] = (),
    retrained: pd.DataFrame | None = None,
    members: pd.DataFrame | None = None,
) -> FrontPlot | None:
    """The numbers to draw; None when no trial has both an accuracy and this cost.

    ``presets`` are rows with name, arch_key and costs. One whose arch_key was trained to the end becomes a star at its
    own accuracy; any other a mark at its cost, if that lies near the trials'. ``baselines`` are rows with name, costs
    and, where trained, ``val_accuracy``. ``frame`` may have been through ``repeats.fold_repeats``, ``retrained`` has:
    finalists that were trained again. ``members`` are those of the front, where that is not the one of ``frame``.
    """
    metric = cost_metric(cost)
    rows = _positive(complete(frame, cost), cost)
    if rows.empty:
        return None
    members = _sample(_positive(front(frame, cost) if members is None else members, cost), MAX_MEMBERS)
    drawn = _thinned(rows, members)
    all_stopped = _stopped(frame, cost)
    stopped = _thinned(all_stopped, members.iloc[:0])
    groups = {name: _points(drawn[drawn["fusion"] == name], cost, members) for name in fusion_order(drawn["fusion"])}
    trained = _trained_presets(rows, presets)
    others = _trained_baselines(baselines, cost)
    again = rows.iloc[:0] if retrained is None else _positive(complete(retrained, cost), cost)
    x_range = padded_range([*rows[cost], *stopped[cost], *again[cost], *(other.x for other in others)])
    y_range = _y_range(rows, members, [*(other.y for other in others), *_bar_ends(again)])
    return FrontPlot(
        cost=metric,
        groups=groups,
        stopped=_points(stopped, cost, members),
        front=_points(members, cost, members),
        presets={name: _points(preset_rows, cost, members) for name, preset_rows in trained.items()},
        baselines=others,
        retrained=_points(again, cost, members.iloc[:0]),
        cost_marks=_cost_marks([*presets, *baselines], cost, {*trained, *(other.name for other in others)}, x_range),
        x_range=x_range,
        y_range=y_range,
        num_below=int((100 * rows[ACCURACY] < y_range[0]).sum()),
        num_left_out=len(rows) - len(drawn) + len(all_stopped) - len(stopped),
    )


def draw_front_plot(plot: FrontPlot) -> go.Figure:
    """Trials by fusion scheme, the front as a step line, stopped trials as faint crosses, presets as stars or lines."""
    figure = new_figure(plot.cost.axis, "validation accuracy (%)")
    _draw_cost_marks(figure, plot)
    _draw_step(figure, plot)
    _draw_stopped(figure, plot.stopped)
    many = sum(len(points.x) for points in plot.groups.values()) > _CROWD
    for fusion, points in plot.groups.items():
        _draw_group(figure, fusion, points, many)
    _draw_presets(figure, plot.presets)
    _draw_retrained(figure, plot.retrained)
    draw_baselines(figure, plot.baselines, plot.cost)
    drawing = _drawing(plot)
    draw_labels(figure, _labels(plot), drawing)
    set_log_axis(figure, plot.x_range)
    figure.update_yaxes(range=plot.y_range)
    add_note(figure, drawing.note, drawing.note_side)
    return figure


# Gathering -----------------------------------------------------------------------------------------------------------


def _positive(rows: pd.DataFrame, cost: str) -> pd.DataFrame:
    """A cost of zero has no place on a log scale."""
    return rows[rows[cost] > 0]


def _stopped(frame: pd.DataFrame, cost: str) -> pd.DataFrame:
    rows = frame[frame["status"] == "stopped"]
    return _positive(rows[np.isfinite(rows[[ACCURACY, cost]].to_numpy(dtype=float)).all(axis=1)], cost)


def _thinned(rows: pd.DataFrame, members: pd.DataFrame) -> pd.DataFrame:
    if len(rows) <= MAX_POINTS:
        return rows
    keep = rows["trial"].isin(members["trial"]).to_numpy(copy=True)
    keep[np.linspace(0, len(rows) - 1, MAX_POINTS).astype(int)] = True
    return rows[keep]


def _sample(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    return rows if len(rows) <= most else rows.iloc[np.linspace(0, len(rows) - 1, most).astype(int)]


def _points(rows: pd.DataFrame, cost: str, members: pd.DataFrame) -> Points:
    on_front = [bool(value) for value in rows["trial"].isin(members["trial"])]
    spread = (100 * rows[SPREAD]).fillna(0.0).tolist() if SPREAD in rows else [0.0] * len(rows)
    y = (100 * rows[ACCURACY]).tolist()
    return Points(rows[cost].tolist(), y, hover_texts(rows), on_front, rows["arch_key"].tolist(), spread)


def _trained_baselines(baselines: Sequence[Mapping[str, Any]], cost: str) -> list[Baseline]:
    rows = [(str(row.get("name", "")), row.get(cost), row.get(ACCURACY)) for row in baselines]
    found = [Baseline(name, float(x), 100 * float(y)) for name, x, y in rows if x is not None and y is not None]
    return [baseline for baseline in found if baseline.x > 0 and math.isfinite(baseline.x + baseline.y)]


def _trained_presets(rows: pd.DataFrame, presets: Sequence[Mapping[str, Any]]) -> dict[str, pd.DataFrame]:
    names = {str(preset.get("arch_key", "")): str(preset.get("name", "preset")) for preset in presets}
    found = rows[rows["arch_key"].isin(list(names)) | rows["source"].str.startswith(("preset", "timm:"))]
    # A preset that the study proposed itself is named by its source, as 'preset:crossvit_nano_16'.
    proposed = [source.partition(":")[2] for source in found["source"]]
    labels = [names.get(key) or name or f"preset {key[:8]}" for key, name in zip(found["arch_key"], proposed)]
    return {name: found[[label == name for label in labels]] for name in dict.fromkeys(labels)}


def _cost_marks(
    presets: Sequence[Mapping[str, Any]], cost: str, trained: set[str], x_range: tuple[float, float]
) -> list[CostMark]:
    marks = [CostMark(str(preset.get("name", "")), float(preset.get(cost) or math.nan)) for preset in presets]
    near = [mark for mark in marks if mark.name not in trained and x_range[0] <= mark.x <= x_range[1]]
    return sorted(near, key=lambda mark: (mark.x, mark.name))


def _y_range(rows: pd.DataFrame, members: pd.DataFrame, others: Sequence[float]) -> tuple[float, float]:
    """The whole front and, of many trials, the better nine tenths: a few bad ones must not flatten it."""
    accuracy = 100 * rows[ACCURACY]
    usual = float(accuracy.quantile(0.1 if len(rows) >= _MANY else 0))
    reach = members[SPREAD].fillna(0.0) if SPREAD in members else 0.0  # whole bars
    low = min([usual, float(100 * (members[ACCURACY] - reach).min()), *others])
    high = max([float(accuracy.max()), float(100 * (members[ACCURACY] + reach).max()), *others])
    pad = max(0.08 * (high - low), 0.5)
    return low - pad, high + pad


def _bar_ends(rows: pd.DataFrame) -> list[float]:
    """Both ends of the bars between runs, in percent."""
    reach = rows[SPREAD].fillna(0.0) if SPREAD in rows else 0.0
    return [*(100 * (rows[ACCURACY] - reach)), *(100 * (rows[ACCURACY] + reach))]


# Drawing -------------------------------------------------------------------------------------------------------------


def _draw_step(figure: go.Figure, plot: FrontPlot) -> None:
    line = {"color": INK, "width": 1.5}
    draw_step(figure, (plot.front.x, plot.front.y), plot.cost, plot.x_range, line, "Pareto front")


def _draw_group(figure: go.Figure, fusion: str, points: Points, many: bool) -> None:
    """What is not on the front steps back only where there is a crowd: of few trials each is to be seen."""
    mark = fusion_mark(fusion)
    size, opacity = (7, 0.65) if many else (10, 0.9)
    marker = {
        "color": mark.colour,
        "symbol": mark.symbol,
        "size": [11 if member else size for member in points.on_front],
        "opacity": [1.0 if member else opacity for member in points.on_front],
        "line": {"color": INK, "width": [1.5 if member else 0 for member in points.on_front]},
    }
    _add_markers(figure, points, fusion_label(fusion), marker)


def _draw_stopped(figure: go.Figure, points: Points) -> None:
    if points.x:
        marker = {"color": FAINT, "symbol": "x-thin", "size": 6, "line": {"color": FAINT, "width": 1.2}}
        _add_markers(figure, points, "stopped early", marker)


def _draw_presets(figure: go.Figure, presets: Mapping[str, Points]) -> None:
    """Stars; ``draw_labels`` names them."""
    marker = {"color": "#ddaa33", "symbol": "star", "size": 15, "line": {"color": INK, "width": 1}}
    for index, (name, points) in enumerate(presets.items()):
        points = points._replace(text=[f"<b>{html.escape(name)}</b><br>{text}" for text in points.text])
        _add_markers(figure, points, "presets", marker)
        figure.data[-1].update(legendgroup="presets", showlegend=index == 0)


def _labels(plot: FrontPlot) -> list[Label]:
    """Of the baselines and of the presets that were trained."""
    presets = [Label(name, x, y) for name, points in plot.presets.items() for x, y in zip(points.x, points.y)]
    return presets + [Label(*other) for other in plot.baselines]


def _drawing(plot: FrontPlot) -> Drawing:
    groups = [*plot.groups.values(), plot.retrained]
    marks = [pair for points in groups for pair in zip(points.x, points.y)] + [(o.x, o.y) for o in plot.baselines]
    corners = step_corners((plot.front.x, plot.front.y), plot.cost, plot.x_range)
    # The empty corner: cheap and accurate is where the front is, dear and poor is where nothing is drawn.
    side = "left" if plot.cost.maximise else "right"
    return Drawing((plot.x_range, plot.y_range), marks, corners, _note(plot), side)


def _draw_retrained(figure: go.Figure, points: Points) -> None:
    if points.x:
        points = points._replace(text=[f"<b>trained again: mean of fresh seeds</b><br>{text}" for text in points.text])
        _add_markers(figure, points, "trained again", {"color": INK, "symbol": "circle-open", "size": 14})


def _draw_cost_marks(figure: go.Figure, plot: FrontPlot) -> None:
    for mark in plot.cost_marks:
        label = html.escape(mark.name)
        text = f"<b>{label}</b> (not trained here)<br>{plot.cost.write(mark.x)} {plot.cost.label}"
        line = {"color": FAINT, "width": 1, "dash": "dot"}
        ends = {"x": [mark.x, mark.x], "y": list(plot.y_range), "text": [text, text]}
        figure.add_trace(
            go.Scatter(**ends, mode="lines", line=line, showlegend=False, hovertemplate="%{text}<extra></extra>")
        )
    for mark in _with_room(plot):
        place = {"x": math.log10(mark.x), "y": 0.08, "yref": "paper", "yanchor": "bottom", "xshift": -7}
        style = {"textangle": -90, "showarrow": False, "font": {"size": 11, "color": INK}}
        figure.add_annotation(text=html.escape(mark.name), **place, **style)


def _with_room(plot: FrontPlot) -> list[CostMark]:
    """The marks whose labels do not run into the one before; the rest name themselves when pointed at."""
    width = math.log10(plot.x_range[1] / plot.x_range[0])
    kept: list[CostMark] = []
    for mark in plot.cost_marks:
        if not kept or math.log10(mark.x / kept[-1].x) > 0.05 * width:
            kept.append(mark)
    return kept


def _add_markers(figure: go.Figure, points: Points, name: str, marker: dict[str, Any]) -> None:
    trace = go.Scatter(x=points.x, y=points.y, text=points.text, mode="markers", name=name, marker=marker)
    trace.customdata = [[key, int(member)] for key, member in zip(points.keys, points.on_front)]
    if any(points.spread):
        bars = {"type": "data", "array": points.spread, "thickness": 1.2, "width": 3, "color": marker["color"]}
        trace.error_y = bars
    figure.add_trace(trace.update(hovertemplate="%{text}<extra></extra>"))


def _note(plot: FrontPlot) -> str:
    floor = plot.y_range[0]
    stopped = sum(accuracy < floor for accuracy in plot.stopped.y)
    counts = [f"{plot.num_below:,} trained" if plot.num_below else "", f"{stopped:,} stopped early" if stopped else ""]
    below = " and ".join(count for count in counts if count)
    below = f"below this window: {below}" if below else ""
    hidden = f"{plural(plot.num_left_out, 'trial')} left out for clarity" if plot.num_left_out else ""
    return " · ".join(part for part in (below, hidden) if part)
