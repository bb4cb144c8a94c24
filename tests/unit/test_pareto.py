"""Fronts, ranks and hypervolume, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.pareto import (
    NO_RANK,
    hypervolume,
    hypervolume_history,
    minimised,
    pareto_mask,
    pareto_ranks,
    reference_point,
)

# Few different values, so that ties and copies are common.
VALUE = st.sampled_from([0.0, 1.0, 2.0, 3.0, math.nan, math.inf, -math.inf])


@st.composite
def point_lists(draw: st.DrawFn) -> np.ndarray:
    columns = draw(st.integers(1, 3))
    rows = draw(st.lists(st.lists(VALUE, min_size=columns, max_size=columns), max_size=12))
    return np.array(rows, dtype=float).reshape(len(rows), columns)


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


def brute_mask(points: np.ndarray) -> list[bool]:
    finite = [bool(np.isfinite(point).all()) for point in points]
    rivals = [point for point, ok in zip(points, finite) if ok]
    return [ok and not any(dominates(rival, point) for rival in rivals) for point, ok in zip(points, finite)]


def brute_ranks(points: np.ndarray) -> list[int]:
    ranks = [NO_RANK] * len(points)
    left = [i for i in range(len(points)) if np.isfinite(points[i]).all()]
    rank = 0
    while left:
        best = [i for i in left if not any(dominates(points[j], points[i]) for j in left)]
        for i in best:
            ranks[i] = rank
        left = [i for i in left if i not in best]
        rank += 1
    return ranks


def brute_volume(points: np.ndarray, corner: float) -> float:
    """Counts unit cells: all coordinates are whole numbers."""
    cells = np.stack(np.meshgrid(*[np.arange(corner)] * points.shape[1], indexing="ij"), axis=-1)
    cells = cells.reshape(-1, points.shape[1])
    inside = [point for point in points if np.isfinite(point).all() and (point < corner).all()]
    covered = [(cells >= point).all(axis=1) for point in inside]
    return float(np.any(covered, axis=0).sum()) if covered else 0.0


@given(point_lists())
def test_mask_is_the_definition(points: np.ndarray) -> None:
    assert pareto_mask(points).tolist() == brute_mask(points)


@given(point_lists())
def test_ranks_are_the_definition(points: np.ndarray) -> None:
    assert pareto_ranks(points).tolist() == brute_ranks(points)


@given(point_lists().map(lambda points: np.where(points == -math.inf, 0.0, points)))
def test_hypervolume_counts_cells(points: np.ndarray) -> None:
    corner = [3.0] * points.shape[1]
    assert hypervolume(points, corner) == pytest.approx(brute_volume(points, 3.0))


@given(point_lists())
def test_history_is_the_hypervolume_of_each_prefix(points: np.ndarray) -> None:
    corner = [3.0] * points.shape[1]
    history = hypervolume_history(points, corner)
    assert history.tolist() == pytest.approx([hypervolume(points[: i + 1], corner) for i in range(len(points))])
    assert (np.diff(history) >= 0).all()


def test_hypervolume_by_hand() -> None:
    # Two boxes of 3 x 1 and 1 x 3 that share 1 x 1.
    assert hypervolume([[0, 2], [2, 0]], [3, 3]) == 5.0


def test_points_beyond_the_reference_add_nothing() -> None:
    assert hypervolume([[3, 0], [5, -9], [math.nan, 0]], [3, 3]) == 0.0


def test_copies_of_a_member_are_all_on_the_front() -> None:
    assert pareto_mask([[0, 1], [0, 1], [1, 0], [1, 1]]).tolist() == [True, True, True, False]


def test_minimised_turns_what_is_maximised() -> None:
    assert minimised([[0.9, 5.0]], (True, False)).tolist() == [[-0.9, 5.0]]


def test_reference_keeps_to_the_limits_and_else_to_the_decade() -> None:
    points = np.array([[0.1, 5.2], [0.3, 4.0], [math.nan, 9.0]])
    assert reference_point(points, (1.0, 6.6)).tolist() == [1.0, 6.6]
    assert reference_point(points, (1.0, None)).tolist() == [1.0, 6.0]
    # A worst point on a decade must still be inside.
    assert reference_point([[0.1, 6.0]], (1.0, None)).tolist() == [1.0, 7.0]
    assert reference_point(np.empty((0, 2)), (1.0, None)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pareto_mask([1.0, 2.0]), r"\(num_points, num_objectives\)"),
        (lambda: hypervolume([[1.0, 2.0]], [1.0]), "2 objectives and a reference of 1"),
        (lambda: hypervolume([[1.0]], [math.nan]), "finite"),
        (lambda: minimised([[1.0, 2.0]], (True,)), "2 objectives and 1 directions"),
        (lambda: reference_point([[1.0, 2.0]], (1.0,)), "2 objectives and 1 limits"),
    ],
)
def test_wrong_shapes_are_named(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=message):
        call()


def test_hundred_thousand_points_take_no_quadratic_time() -> None:
    points = np.random.default_rng(0).random((100_000, 2))
    assert pareto_mask(points).sum() < 100
    history = hypervolume_history(points, [1.0, 1.0])
    assert history[-1] == pytest.approx(hypervolume(points, [1.0, 1.0]))
