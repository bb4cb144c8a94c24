"""A trial's quantised points as a plot, and a point in words."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from results.metrics import ACCURACY
from results.plot_style import INK, new_figure, padded_range, set_log_axis
from results.quantization import FULL, MIXED
from results.units import divergence_text, human_count, percent

OPERATIONS_NOTE = "Bit-operations are multiply-adds x bits x bits, of one image."

_COLOURS = ("#0077bb", "#ee7733", "#009988", "#cc3311", "#33bbee", "#ee3377")


def draw_quantized(
    points: pd.DataFrame, cost: str = "bit_operations", quality: str = ACCURACY, front: pd.DataFrame | None = None
) -> go.Figure:
    """Accuracy (percent) or "kl" against a cost; a line per trial and method, mixed precision dotted.

    Full precision is dashed; trials of ``front`` (``quantization.full_precision``) are diamonds.
    """
    drawn = new_figure(AXES[cost], AXES[quality])
    quantised = points[points["precision"] != FULL]
    factor = 100 if quality == ACCURACY else 1
    several = points["trial"].nunique() > 1
    lines = quantised.groupby(["trial", "weights", "method"], sort=False)
    for index, ((trial, _, method), of_method) in enumerate(lines):
        for precision, rows in of_method.groupby("precision", sort=False):
            rows = rows.sort_values(cost)
            is_mixed = precision == MIXED
            trace = go.Scatter(
                x=rows[cost].tolist(),
                y=(factor * rows[quality]).tolist(),
                text=[_hover(point) for point in rows.to_dict("records")],
                name=html.escape(_line_name(method, is_mixed, trial if several else None)),
                mode="lines+markers",
                line={"color": _COLOURS[index % len(_COLOURS)], "dash": "dot" if is_mixed else "solid"},
                marker={"size": 9 if is_mixed else 7, "symbol": "star" if is_mixed else "circle"},
                hovertemplate="%{text}<extra></extra>",
            )
            drawn.add_trace(trace)
    if front is not None and not front.empty:
        drawn.add_trace(_front_marks(front, cost))
    if quality == ACCURACY:
        for accuracy in points.loc[points["precision"] == FULL, ACCURACY].unique():
            drawn.add_hline(y=100 * accuracy, line={"color": INK, "dash": "dash", "width": 1})
    else:
        drawn.update_yaxes(type="log", exponentformat="power", dtick=1)
    if not quantised.empty:
        shown = quantised[cost] if front is None else pd.concat([quantised[cost], front[cost]])
        set_log_axis(drawn, padded_range(shown))
    return drawn


def _line_name(method: object, is_mixed: bool, trial: object) -> str:
    of_trial = "" if trial is None else f"trial {trial}: "
    return f"{of_trial}{method_label(method)}{', Greedy MP' if is_mixed else ''}"


def _front_marks(front: pd.DataFrame, cost: str) -> go.Scatter:
    return go.Scatter(
        x=front[cost].tolist(),
        y=(100 * front[ACCURACY]).tolist(),
        text=[f"<b>trial {point['trial']}</b>, full precision" for point in front.to_dict("records")],
        name="others of the front, full precision",
        mode="markers",
        marker={"symbol": "diamond-open", "size": 9, "color": INK},
        hovertemplate="%{text}<br>%{y:.1f} %<extra></extra>",
    )


def point_cells(point: Mapping[Any, Any]) -> tuple[str, ...]:
    """Method, bits, accuracy, KL, mean bits of weights, activations and both, size, bit-operations: in human units."""
    bits = f"{point['bits']:g}{' mean' if point['precision'] == MIXED else ''}"
    means = (f"{point[name]:.2f}" for name in ("weight_bits", "activation_bits", "mean_bits"))
    size = f"{human_count(point['model_bytes'])}B"
    operations = human_count(point["bit_operations"])
    return (
        method_label(point["method"]),
        bits,
        percent(point[ACCURACY]),
        divergence_text(point["kl"]),
        *means,
        size,
        operations,
    )


def _hover(point: Mapping[Any, Any]) -> str:
    method, bits, accuracy, kl, weights, activations, _, size, operations = point_cells(point)
    return (
        f"<b>{html.escape(method)}</b>, {bits} bits<br>{accuracy}, KL {kl}<br>"
        f"weights {weights}, activations {activations} bits on average<br>{size}, {operations} bit-operations"
    )


def method_label(method: object) -> str:
    """A method of quantisation in words."""
    return _LABELS.get(str(method), str(method))


_LABELS = {
    "none": "full precision",
    "base": "symmetric",
    "smoothquant": "SmoothQuant",
    "sqb": "SQ-b",
    "hand": "GELU by rule",
    "optm": "OPT-m",
    "sqb_optm": "SQ-b + OPT-m",
}

AXES = {
    ACCURACY: "validation accuracy (%)",
    "kl": "KL divergence from full precision, log scale",
    "bit_operations": "bit-operations an image, log scale",
    "model_bytes": "size of the model (bytes), log scale",
}
