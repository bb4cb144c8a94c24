"""What trials had reached at their rungs, held by columns: a study may have millions of rungs."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray


class RungCurves(Mapping[int, list[tuple[int, float]]]):
    """(epoch, accuracy) of each rung of a trial, by its number, in the order in which they came."""

    def __init__(self) -> None:
        self._trials, self._epochs, self._accuracies = array("q"), array("q"), array("d")
        self._order: NDArray[np.intp] = np.empty(0, dtype=np.intp)
        self._sorted: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def add(self, trial: int, epoch: int, accuracy: float) -> None:
        self._trials.append(trial)
        self._epochs.append(epoch)
        self._accuracies.append(accuracy)

    def __getitem__(self, trial: int) -> list[tuple[int, float]]:
        self._sort()
        first, last = np.searchsorted(self._sorted, [trial, trial + 1])
        if first == last:
            raise KeyError(trial)
        return [(self._epochs[place], self._accuracies[place]) for place in self._order[first:last]]

    def __iter__(self) -> Iterator[int]:
        self._sort()
        return iter(np.unique(self._sorted).tolist())

    def __len__(self) -> int:
        self._sort()
        return len(np.unique(self._sorted))

    def _sort(self) -> None:
        """By trial, once after the last rung was added."""
        if len(self._sorted) != len(self._trials):
            trials = np.array(self._trials, dtype=np.int64)
            self._order = np.argsort(trials, kind="stable")
            self._sorted = trials[self._order]
