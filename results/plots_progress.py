"""How a study went: hypervolume over trials, learning curves, accuracy by fusion. Each: gather, then draw."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from results.frame import complete, progress
from results.metrics import ACCURACY, Metric, cost_metric
from results.plot_style import (
    FAINT,
    GRID,
    INK,
    NOTHING,
    add_note,
    count_step,
    fusion_label,
    fusion_mark,
    fusion_order,
    hover_texts,
    new_figure,
)
from results.store import CURVE_FILE, TRIALS_FOLDER, trial_name
from results.units import plural

MAX_CURVES = 24
MAX_STOPPED = 60
MAX_POINTS = 4000

_SHORT = 10  # epochs
_FEW = 5  # trials of which quartiles would say nothing


class HypervolumePlot(NamedTuple):
    """Hypervolume after each finished trial, and the corner it is measured from."""

    cost: Metric
    trials: list[int]
    values: list[float]
    reference_error: float
    reference_cost: float


class TimePlot(NamedTuple):
    """Hypervolume against seconds: since the study began, pauses left out, and summed over the trials' workers."""

    values: list[float]
    wall_seconds: list[float]
    device_seconds: list[float]


class Curve(NamedTuple):
    """Validation accuracy (percent) by epoch of one front member.

    ``label_y`` is where its label has room; NaN where there is none near the end of its line.
    """

    trial: int
    fusion: str
    epochs: list[int]
    accuracy: list[float]
    text: str
    label_y: float


class FusionGroup(NamedTuple):
    """Accuracies (percent) of the finished trials of one fusion scheme."""

    fusion: str
    accuracy: list[float]
    text: list[str]


def gather_hypervolume(frame: pd.DataFrame, cost: str = "macs", limit: float | None = None) -> HypervolumePlot | None:
    """See ``frame.progress``. None while the hypervolume is zero."""
    values, reference = progress(frame, cost, limit)
    if not len(values) or values[-1] == 0:
        return None
    metric = cost_metric(cost)
    corner = 10 ** (-reference[1] if metric.maximise else reference[1])
    return HypervolumePlot(metric, list(range(1, len(values) + 1)), values.tolist(), float(reference[0]), float(corner))


def draw_hypervolume(plot: HypervolumePlot) -> go.Figure:
    """A step line from nothing that never falls."""
    figure = new_figure("finished trials", "hypervolume")
    steps = _corners(plot.values)
    x, y = [0, *(plot.trials[i] for i in steps)], [0.0, *(plot.values[i] for i in steps)]
    line = {"color": "#0077bb", "width": 2, "shape": "hv"}
    hover = "after %{x} trials: %{y:.4f}<extra></extra>"
    figure.add_trace(go.Scatter(x=x, y=y, mode="lines", line=line, showlegend=False, hovertemplate=hover))
    add_note(figure, f"measured from accuracy 0 and {plot.cost.write(plot.reference_cost)} {plot.cost.label}")
    figure.update_xaxes(dtick=count_step(len(plot.trials)))
    figure.update_layout(height=340)
    return figure


def gather_time(frame: pd.DataFrame, cost: str = "macs", limit: float | None = None) -> TimePlot | None:
    """See ``frame.progress``. None while the hypervolume is zero; seconds not on record are left out (empty)."""
    values, _ = progress(frame, cost, limit)
    if not len(values) or values[-1] == 0:
        return None
    finished = frame[frame["order"] >= 0].sort_values("order")
    wall = finished["study_seconds"].to_numpy(dtype=float)
    device = np.nan_to_num(finished["seconds"].to_numpy(dtype=float)).cumsum()
    return TimePlot(values.tolist(), _rising(wall), _rising(device))


def draw_time(plot: TimePlot) -> go.Figure:
    """Two step lines from nothing, one a clock."""
    longest = max([*plot.wall_seconds[-1:], *plot.device_seconds[-1:]], default=0.0)
    unit, seconds = next((name, size) for name, size, from_ in _CLOCKS if longest >= from_)
    figure = new_figure(f"time ({unit})", "hypervolume")
    for times, name, colour, dash in (
        (plot.wall_seconds, "wall clock, pauses left out", "#0077bb", "solid"),
        (plot.device_seconds, "device time, summed over workers", "#ee7733", "dash"),
    ):
        if times:
            steps = _corners(plot.values)
            x = [0.0, *(round(times[i] / seconds, 6) for i in steps)]
            y = [0.0, *(plot.values[i] for i in steps)]
            line = {"color": colour, "width": 2, "shape": "hv", "dash": dash}
            hover = f"after %{{x:.4g}} {unit}: %{{y:.4f}}<extra>{name}</extra>"
            figure.add_trace(go.Scatter(x=x, y=y, mode="lines", line=line, name=name, hovertemplate=hover))
    figure.update_layout(height=360)
    return figure


def gather_curves(
    study_dir: Path,
    members: pd.DataFrame,
    rungs: Mapping[int, list[tuple[int, float]]] | None = None,
    last_epoch: int = 0,
) -> list[Curve]:
    """The learning curves that the members of a front left in trials/<number>/curve.jsonl.

    Where that file is gone, the accuracies in the ledger: at the rungs, and after ``last_epoch`` if it is known. Of
    more than ``MAX_CURVES`` members, an even sample along the front.
    """
    if len(members) > MAX_CURVES:
        members = members.iloc[np.linspace(0, len(members) - 1, MAX_CURVES).round().astype(int)]
    curves = []
    told = zip(members["trial"], members["fusion"], members["val_accuracy"], hover_texts(members))
    for trial, fusion, final, text in told:
        points = list(_read_curve(study_dir / TRIALS_FOLDER / trial_name(trial) / CURVE_FILE))
        points = points or _ledger_curve((rungs or {}).get(int(trial), []), final, last_epoch)
        if points:
            epochs, accuracy = zip(*points)
            curves.append(Curve(int(trial), str(fusion), list(epochs), list(accuracy), text, accuracy[-1]))
    return _spread_labels(curves)


def _ledger_curve(rungs: Sequence[tuple[int, float]], final: float, last_epoch: int) -> list[tuple[int, float]]:
    end = [(last_epoch, final)] if rungs and last_epoch > rungs[-1][0] else []
    return [(epoch, 100 * value) for epoch, value in (*rungs, *end)]


def gather_stopped(frame: pd.DataFrame, rungs: Mapping[int, list[tuple[int, float]]]) -> list[list[tuple[int, float]]]:
    """The rungs, accuracy in percent, of trials that were stopped early; of more than ``MAX_STOPPED``, a sample."""
    trials = [int(trial) for trial in frame.loc[frame["status"] == "stopped", "trial"] if int(trial) in rungs]
    if len(trials) > MAX_STOPPED:
        trials = [trials[i] for i in np.linspace(0, len(trials) - 1, MAX_STOPPED).astype(int)]
    return [[(epoch, 100 * value) for epoch, value in rungs[trial]] for trial in trials]


def draw_curves(curves: list[Curve], stopped: Sequence[list[tuple[int, float]]] = ()) -> go.Figure:
    """One line a member in the colour of its fusion scheme, its trial's number at its end; the stopped in grey."""
    figure = new_figure("epoch", "validation accuracy (%)")
    _draw_stopped_curves(figure, stopped)
    named: set[str] = set()
    for curve in curves:
        line = {"color": fusion_mark(curve.fusion).colour, "width": 1.8}
        trace = go.Scatter(x=curve.epochs, y=curve.accuracy, mode="lines+markers", line=line, marker={"size": 4})
        hover = f"{curve.text}<br>epoch %{{x}}: %{{y:.1f}} %<extra></extra>"
        group = {"legendgroup": curve.fusion, "showlegend": curve.fusion not in named}
        figure.add_trace(trace.update(name=fusion_label(curve.fusion), hovertemplate=hover, **group))
        named.add(curve.fusion)
        if math.isfinite(curve.label_y):
            place = {"x": curve.epochs[-1], "y": curve.label_y, "xanchor": "left", "xshift": 6, "showarrow": False}
            figure.add_annotation(text=f"#{curve.trial}", font={"size": 11, "color": line["color"]}, **place)
    window = _curve_window(curves)
    figure.update_yaxes(range=list(window))
    begun = sum(curve.accuracy[0] < window[0] for curve in curves)
    add_note(figure, f"{begun} of {plural(len(curves), 'line')} begin below this window" if begun else "")
    figure.update_xaxes(dtick=count_step(max(curve.epochs[-1] for curve in curves)))
    figure.update_layout(margin={"r": 44})
    return figure


def gather_fusions(frame: pd.DataFrame, cost: str = "macs") -> list[FusionGroup]:
    """The finished trials by fusion scheme, in the palette's order; of more than ``MAX_POINTS``, an even sample."""
    rows = complete(frame, cost)
    if len(rows) > MAX_POINTS:
        rows = rows.iloc[np.linspace(0, len(rows) - 1, MAX_POINTS).astype(int)]
    groups = []
    for fusion in fusion_order(rows["fusion"]):
        part = rows[rows["fusion"] == fusion]
        groups.append(FusionGroup(fusion, (100 * part[ACCURACY]).tolist(), hover_texts(part)))
    return groups


def draw_fusions(groups: list[FusionGroup]) -> go.Figure:
    """A box and its points for each scheme, of few trials the points alone; best median on top."""
    figure = new_figure("validation accuracy (%)", "")
    for group in sorted(groups, key=lambda group: (float(np.median(group.accuracy)), group.fusion)):
        mark = fusion_mark(group.fusion)
        name = f"{fusion_label(group.fusion)} ({len(group.accuracy)})"
        box = go.Box(x=group.accuracy, text=group.text, name=name, boxpoints="all", jitter=0.5, pointpos=0)
        marker = {"color": mark.colour, "symbol": mark.symbol, "size": 6, "opacity": 0.6}
        few = len(group.accuracy) < _FEW
        style = {
            "line": {"color": NOTHING if few else mark.colour, "width": 1.2},
            "fillcolor": NOTHING if few else GRID,
        }
        if few:
            box.jitter, marker["size"], marker["opacity"] = 0, 9, 0.9
        figure.add_trace(box.update(marker=marker, hoveron="points", hovertemplate="%{text}<extra></extra>", **style))
    figure.update_layout(showlegend=False, height=90 + 62 * max(len(groups), 1), boxgap=0.35)
    figure.update_yaxes(showline=False, ticks="")
    figure.update_xaxes(showgrid=True)
    return figure


def _draw_stopped_curves(figure: go.Figure, stopped: Sequence[list[tuple[int, float]]]) -> None:
    """All in one trace with gaps, a cross where each was stopped."""
    if not stopped:
        return
    x = [epoch for curve in stopped for epoch in (*(point[0] for point in curve), None)]
    y = [value for curve in stopped for value in (*(point[1] for point in curve), None)]
    group = {"legendgroup": "stopped", "hoverinfo": "skip"}
    line = {"color": FAINT, "width": 1}
    figure.add_trace(go.Scatter(x=x, y=y, mode="lines", line=line, showlegend=False, **group))
    ends = [curve[-1] for curve in stopped]
    marker = {"symbol": "x-thin", "size": 7, "line": {"color": INK, "width": 1.2}}
    ends_xy = {"x": [end[0] for end in ends], "y": [end[1] for end in ends]}
    figure.add_trace(go.Scatter(**ends_xy, mode="markers", marker=marker, name="stopped early", **group))


def _rising(times: np.ndarray) -> list[float]:
    """Nothing where a time is missing or none has passed."""
    return times.tolist() if np.isfinite(times).all() and len(times) and times[-1] > 0 else []


def _corners(values: list[float]) -> list[int]:
    """Where the line changes, and its ends: all that a step line needs."""
    changes = [i for i in range(1, len(values)) if values[i] != values[i - 1]]
    return sorted({0, *changes, len(values) - 1})


def _read_curve(path: Path) -> Iterator[tuple[int, float]]:
    """(epoch, accuracy in percent) of each whole line; a curve is a by-product, so a torn line ends it quietly."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            point = json.loads(line)
            epoch, accuracy = int(point["epoch"]), 100 * float(point[ACCURACY])
        except (ValueError, KeyError, TypeError):
            return
        if math.isfinite(accuracy):
            yield epoch, accuracy


def _curve_window(curves: list[Curve]) -> tuple[float, float]:
    """Around all points of short curves; of long ones the first epochs, near chance, may fall out below.

    They do where showing them would leave less than half of the height to most of the points, and all of the ends.
    """
    values = np.array([value for curve in curves for value in curve.accuracy])
    low = min(float(np.quantile(values, 0.1)), *(curve.accuracy[-1] for curve in curves))
    high, lowest = float(values.max()), float(values.min())
    is_short = max(len(curve.epochs) for curve in curves) <= _SHORT
    low = lowest if is_short or high - lowest <= 2 * (high - low) else low
    pad = max(0.06 * (high - low), 0.5)
    return low - pad, high + pad


def _spread_labels(curves: list[Curve]) -> list[Curve]:
    """Move labels of lines that end close together down until each has room; one that would go far goes."""
    if not curves:
        return []
    low, high = _curve_window(curves)
    gap, previous = 0.045 * (high - low), math.inf
    placed: dict[int, float] = {}
    for curve in sorted(curves, key=lambda curve: (-curve.accuracy[-1], curve.trial)):
        end = curve.accuracy[-1]
        place = min(end, previous - gap)
        near = end - place <= 0.5 * gap
        placed[curve.trial] = place if near else math.nan
        previous = place if near else previous
    return [curve._replace(label_y=placed[curve.trial]) for curve in curves]


# Unit, its length in seconds, and from how many seconds on it is used.
_CLOCKS = (("hours", 3600.0, 2 * 3600.0), ("minutes", 60.0, 120.0), ("seconds", 1.0, 0.0))
