"""Names beside marks: each where it covers no other name, and as little of what is drawn as can be."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from results.plot_style import INK

Point = tuple[float, float]
Ranges = tuple[tuple[float, float], tuple[float, float]]


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


class Drawing(NamedTuple):
    """What labels are to leave alone: marks and the corners of a line, as (cost, accuracy), and a note in a corner.

    ``ranges`` are the ends of the two axes, the first of them logarithmic.
    """

    ranges: Ranges
    marks: Sequence[Point] = ()
    line: Sequence[Point] = ()
    note: str = ""
    note_side: str = "right"


def draw_labels(figure: go.Figure, labels: Sequence[Label], drawing: Drawing) -> None:
    """Names beside their marks."""
    for label, place in zip(labels, place_labels(labels, drawing)):
        shift = {"xshift": place.right, "yshift": place.up, "xanchor": place.anchor}
        style = {"showarrow": False, "font": {"size": 11, "color": INK}}
        figure.add_annotation(text=html.escape(label.text), x=math.log10(label.x), y=label.y, **shift, **style)


def place_labels(labels: Sequence[Label], drawing: Drawing) -> list[Place]:
    """One place a label, in their order; of equally free places the first of ``_PLACES``, which is below."""
    drawn = np.array([*_mark_boxes(drawing), *_line_boxes(drawing)]).reshape(-1, 4)
    names = _note_boxes(drawing)
    places = []
    for label in labels:
        at = _pixel((label.x, label.y), drawing.ranges)
        boxes = [_box(at, place, _LETTER_PX * len(label.text), _LINE_PX) for place in _PLACES]
        costs = [_crowding(box, np.array(names).reshape(-1, 4), drawn) for box in boxes]
        best = int(np.argmin(costs))
        names.append(boxes[best])
        places.append(_PLACES[best])
    return places


class _Box(NamedTuple):
    left: float
    low: float
    right: float
    high: float


def _mark_boxes(drawing: Drawing) -> list[_Box]:
    at = (_pixel(mark, drawing.ranges) for mark in drawing.marks)
    return [_box(pixel, Place("center", 0, 0), _MARK_PX, _MARK_PX) for pixel in at]


def _line_boxes(drawing: Drawing) -> list[_Box]:
    """One a stretch: each goes along an axis."""
    ends = pairwise(_pixel(corner, drawing.ranges) for corner in drawing.line)
    return [_Box(min(a[0], b[0]), min(a[1], b[1]) - 1, max(a[0], b[0]), max(a[1], b[1]) + 1) for a, b in ends]


def _note_boxes(drawing: Drawing) -> list[_Box]:
    width = _LETTER_PX * len(drawing.note)
    left = 0.0 if drawing.note_side == "left" else _WIDTH_PX - width
    return [_Box(left, 0.0, left + width, _LINE_PX + 4)] if drawing.note else []


def _pixel(point: Point, ranges: Ranges) -> Point:
    """On a plot of the usual size; a wider one has only more room."""
    (left, right), (low, high) = ranges
    across = math.log10(point[0] / left) / math.log10(right / left)
    return _WIDTH_PX * across, _HEIGHT_PX * (point[1] - low) / (high - low)


def _box(at: Point, place: Place, width: float, height: float) -> _Box:
    middle = {"left": 0.5, "center": 0.0, "right": -0.5}[place.anchor] * width + at[0] + place.right
    height_at = at[1] + place.up
    return _Box(middle - width / 2, height_at - height / 2, middle + width / 2, height_at + height / 2)


def _crowding(box: _Box, names: np.ndarray, drawn: np.ndarray) -> float:
    """A name over a name cannot be read, one beyond the frame is cut, one over a mark or a line hides it."""
    outside = box.left < 0 or box.right > _WIDTH_PX or box.low < 0 or box.high > _HEIGHT_PX
    return 10 * _count_met(box, names) + 9 * outside + _count_met(box, drawn)


def _count_met(box: _Box, others: np.ndarray) -> int:
    left, low, right, high = others.T
    return int(((left < box.right) & (box.left < right) & (low < box.high) & (box.low < high)).sum())


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
    Place("left", 4, 31),
    Place("right", -4, 31),
)
