"""What all plots share: one colour and one symbol per fusion scheme, and a quiet template.

The colours are Paul Tol's vibrant scheme, told apart with any colour vision and on light and dark ground; the symbols
say the same again. Backgrounds are transparent, and greys are half-transparent, so that a page may be of either ground.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from results.architecture import FUSION_LABELS
from results.metrics import ACCURACY
from results.units import MISSING, human_count, per_second, percent

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK = "#6b7280"
FAINT = "rgba(128,128,128,0.55)"
GRID = "rgba(128,128,128,0.18)"
NOTHING = "rgba(0,0,0,0)"
HEIGHT_PX = 460


class Mark(NamedTuple):
    """How a fusion scheme looks in every plot."""

    colour: str
    symbol: str


class Drawn(NamedTuple):
    """A plot with its name (a plain file name, and its id on the page), heading and caption."""

    name: str
    figure: go.Figure
    title: str
    caption: str = ""


def fusion_mark(fusion: str) -> Mark:
    """The colour and symbol of a fusion scheme; one for all that are not known."""
    return FUSION_MARKS.get(fusion, Mark(INK, "hexagon"))


def fusion_label(fusion: str) -> str:
    """The name of a fusion scheme as people read it."""
    return html.escape(FUSION_LABELS.get(fusion, fusion or "unknown"))


def fusion_order(fusions: Iterable[str]) -> list[str]:
    """The schemes that occur, in the palette's order."""
    known = list(FUSION_MARKS)
    return sorted(set(fusions), key=lambda name: (known.index(name) if name in known else len(known), name))


def hover_texts(rows: pd.DataFrame) -> list[str]:
    """What is said of each trial when pointed at, as the HTML that plotly reads."""
    columns = ("trial", "arch_key", "architecture", ACCURACY, "macs", "params", "throughput_ips", "status", "epoch")
    return [_hover(*values) for values in zip(*(rows[name] for name in columns))]


def _hover(
    trial: int, key: str, words: str, accuracy: float, macs: float, params: float, ips: float, status: str, epoch: int
) -> str:
    speed = f" · {per_second(ips)} images/s" if per_second(ips) != MISSING else ""
    stop = f"<br>stopped early, after epoch {epoch}" if status == "stopped" else ""
    numbers = f"{percent(accuracy)} · {human_count(macs)} FLOPs · {human_count(params)} parameters{speed}"
    return f"<b>trial {trial}</b> · {html.escape(key)}<br>{_lines(words)}<br>{numbers}{stop}"


def _lines(words: str) -> str:
    """Two lines, so that the box fits on a phone."""
    parts = words.split(", ")
    half = (len(parts) + 1) // 2
    return "<br>".join(html.escape(", ".join(part)) for part in (parts[:half], parts[half:]) if part)


def new_figure(x_title: str, y_title: str) -> go.Figure:
    """An empty figure with its axes named."""
    figure = go.Figure(layout={"template": TEMPLATE})
    figure.update_xaxes(title_text=x_title)
    figure.update_yaxes(title_text=y_title)
    return figure


def add_note(figure: go.Figure, text: str, side: str = "right") -> None:
    """A remark in a lower corner of the plot."""
    if text:
        place: dict[str, Any] = {
            "xref": "paper",
            "yref": "paper",
            "x": int(side == "right"),
            "y": 0.01,
            "xanchor": side,
        }
        figure.add_annotation(text=text, showarrow=False, yanchor="bottom", font={"size": 11, "color": INK}, **place)


def log_ticks(low: float, high: float) -> tuple[list[float], list[str]]:
    """Round values between two positive ones, in human units: the narrower the span, the more of each decade."""
    decades = math.log10(high / low)
    steps = next(steps for widest, steps in _STEPS if decades <= widest)
    values = [step * 10.0**power for power in range(_exponent(low), _exponent(high) + 1) for step in steps]
    inside = [value for value in values if low <= value <= high]
    return inside, [_tick_text(value) for value in inside]


def padded_range(values: Iterable[float]) -> tuple[float, float]:
    """The ends of a log axis with room around all values, which are positive."""
    known = list(values)
    low, high = min(known), max(known)
    pad = max(0.06 * math.log10(high / low), 0.05)
    return low / 10**pad, high * 10**pad


def set_log_axis(figure: go.Figure, x_range: tuple[float, float]) -> None:
    """Make the x axis logarithmic between two values, with ticks in human units."""
    values, texts = log_ticks(*x_range)
    figure.update_xaxes(type="log", range=[math.log10(end) for end in x_range], tickvals=values, ticktext=texts)


def count_step(largest: int) -> int:
    """The distance of ticks on an axis of whole numbers: at most ten of them, at 1, 2 or 5 of a power of ten."""
    return next(step * 10**power for power in range(20) for step in (1, 2, 5) if 10 * step * 10**power >= largest)


def _exponent(value: float) -> int:
    return int(f"{value:e}".split("e")[1])


def _tick_text(value: float) -> str:
    number, _, letter = human_count(value).partition(" ")
    short = number.rstrip("0").rstrip(".") if "." in number else number
    return f"{short} {letter}".strip()


FUSION_MARKS: dict[str, Mark] = {
    "cross_attention": Mark("#0077bb", "circle"),
    "pairwise": Mark("#ee7733", "diamond"),
    "class_token": Mark("#009988", "square"),
    "all_attention": Mark("#ee3377", "triangle-up"),
    "none": Mark("#888888", "triangle-down"),
    "mixed": Mark("#33bbee", "pentagon"),
}

_STEPS: tuple[tuple[float, tuple[float, ...]], ...] = (
    (0.3, (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9)),
    (1.0, (1, 1.5, 2, 3, 4, 5, 7)),
    (3.5, (1, 2, 5)),
    (math.inf, (1,)),
)

_AXIS = {
    "gridcolor": GRID,
    "linecolor": FAINT,
    "showline": True,
    "zeroline": False,
    "ticks": "outside",
    "tickcolor": FAINT,
    "ticklen": 4,
    "automargin": True,
    "title": {"standoff": 12, "font": {"size": 13}},
}

TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "height": HEIGHT_PX,
        "margin": {"l": 56, "r": 16, "t": 16, "b": 48},
        "xaxis": {**_AXIS, "showgrid": False},
        "yaxis": _AXIS,
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "xanchor": "left",
            "yanchor": "bottom",
            "itemsizing": "constant",
            "font": {"size": 12},
        },
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": FAINT, "activecolor": INK},
        "hoverlabel": {"font": {"family": FONT, "size": 12}, "align": "left"},
        "hovermode": "closest",
        "dragmode": "zoom",
    }
)
