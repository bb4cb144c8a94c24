"""The best accuracy and the hypervolume of a study so far, as its progress and its status show them."""

from __future__ import annotations

import math

from results.pareto import hypervolume, reference_point
from results.records import Finished


class Standing:
    """What the outcomes add up to. Only what trained to the end counts.

    The hypervolume is that of accuracy and decades of FLOPs. ``macs_limit``, the space's, bounds it.
    """

    def __init__(self, macs_limit: float | None = None) -> None:
        self.best_accuracy: float | None = None
        self._corner = (1.0, math.log10(macs_limit) if macs_limit else None)
        self._front: list[tuple[float, float]] = []
        self._worst_cost = -math.inf

    def add(self, finished: Finished) -> None:
        accuracy, macs = (finished.metrics.get(name, math.nan) for name in ("val_accuracy", "macs"))
        if finished.status != "ok" or not math.isfinite(accuracy):
            return
        self.best_accuracy = accuracy if self.best_accuracy is None else max(accuracy, self.best_accuracy)
        if 0 < macs < math.inf:
            self._worst_cost = max(self._worst_cost, math.log10(macs))
            self._enter_front((1 - accuracy, math.log10(macs)))

    def hypervolume(self) -> float | None:
        """None while no outcome has both an accuracy and FLOPs."""
        if not self._front:
            return None
        return hypervolume(self._front, reference_point([(1.0, self._worst_cost)], self._corner))

    def _enter_front(self, point: tuple[float, float]) -> None:
        """Only what the hypervolume needs is kept: a study may have millions of trials."""
        if not any(error <= point[0] and cost <= point[1] for error, cost in self._front):
            self._front = [kept for kept in self._front if not (point[0] <= kept[0] and point[1] <= kept[1])]
            self._front.append(point)
