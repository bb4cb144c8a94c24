"""Which of many finished trials a model-based sampler is shown: the best ones and the latest ones.

A sampler's own work per proposal grows with the trials that it sees, most of it in Python. Beyond a few hundred it
learns little from the rest: the best say where to look, the latest say where it has looked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from results.pareto import Array, pareto_mask


class Window:
    """The ``size // 2`` best finished trials by Pareto rank, and the latest of the others up to ``size`` in all.

    A function of what was added, in its order: a study that is resumed sees the same window. Of a front that has not
    enough room, members are taken evenly along the first objective, its ends included.
    """

    def __init__(self, size: int, num_objectives: int) -> None:
        self._size = size
        self._numbers: list[int] = []
        self._points = np.empty((64, num_objectives))

    def add(self, number: int, point: Sequence[float] | None) -> None:
        """A finished trial: its objectives, lower is better, or None if it has no result."""
        count = len(self._numbers)
        if count == len(self._points):
            self._points = np.concatenate([self._points, np.empty_like(self._points)])
        self._points[count] = np.nan if point is None else point
        self._numbers.append(number)

    def members(self) -> list[int]:
        """Numbers of the trials to show, rising."""
        if len(self._numbers) <= self._size:
            return sorted(self._numbers)
        best = best_rows(self._points[: len(self._numbers)], self._size // 2)
        rows = set(best.tolist())
        for row in range(len(self._numbers) - 1, -1, -1):
            if len(rows) == self._size:
                break
            rows.add(row)
        return sorted(self._numbers[row] for row in rows)


def best_rows(points: Array, count: int) -> Array:
    """Rows of the ``count`` best points by Pareto rank (fewer if fewer are finite): front after front."""
    left = np.flatnonzero(np.isfinite(points).all(axis=1))
    chosen = np.empty(0, dtype=np.int64)
    while len(left) and len(chosen) < count:
        on_front = pareto_mask(points[left])
        chosen = np.append(chosen, _spread(left[on_front], points, count - len(chosen)))
        left = left[~on_front]
    return chosen


def _spread(rows: Array, points: Array, count: int) -> Array:
    """At most ``count`` of the rows, evenly along the first objective."""
    if len(rows) <= count:
        return rows
    ordered = rows[np.argsort(points[rows, 0], kind="stable")]
    return ordered[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)]


class Family:
    """What a genetic sampler uses: the youngest generation, the one before it, and the parents of the youngest.

    Generations count from 0, which has no parents.
    """

    def __init__(self) -> None:
        self.youngest = 0
        self._parents: list[int] = []
        self._members: dict[int, list[int]] = {}

    def add(self, number: int, generation: int) -> None:
        """A member that finished with a result. Late ones of older generations are of no more use."""
        self._members.setdefault(generation, []).append(number)

    def found(self, parents: list[int]) -> None:
        """Start the next generation from these parents."""
        self.youngest += 1
        self._parents = parents

    def shown(self) -> list[int]:
        return [*self._parents, *self._members.get(self.youngest - 1, ()), *self._members.get(self.youngest, ())]
