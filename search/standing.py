"""The best accuracy and the hypervolume of a study so far, as its progress and its status show them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from results.described import primary_cost, upper_limit
from results.metrics import ACCURACY, COSTS, Metric, cost_metric
from results.pareto import hypervolume, reference_point
from results.records import Finished


class Standing:
    """What the outcomes add up to. Only what trained to the end counts.

    The hypervolume is that of accuracy and decades of the ``cost``, as in the report. ``limit``, the space's, is its
    bound.
    """

    def __init__(self, cost: Metric = COSTS["macs"], limit: float | None = None) -> None:
        self.best_accuracy: float | None = None
        self._cost = cost
        self._corner = (1.0, cost.log_cost(limit) if limit else None)
        self._front: list[tuple[float, float]] = []
        self._worst_cost = -math.inf

    @classmethod
    def of_study(cls, study: Mapping[str, Any]) -> Standing:
        """That of a study that is described as its study.json describes it."""
        cost = cost_metric(primary_cost(study))
        return cls(cost, upper_limit(study, cost.name))

    def add(self, finished: Finished) -> None:
        accuracy, cost = (finished.metrics.get(name, math.nan) for name in (ACCURACY, self._cost.name))
        if finished.status != "ok" or not math.isfinite(accuracy):
            return
        self.best_accuracy = accuracy if self.best_accuracy is None else max(accuracy, self.best_accuracy)
        log_cost = self._cost.log_cost(cost)
        if math.isfinite(log_cost):
            self._worst_cost = max(self._worst_cost, log_cost)
            self._enter_front((1 - accuracy, log_cost))

    def hypervolume(self) -> float | None:
        """None while no outcome has both an accuracy and that cost."""
        if not self._front:
            return None
        return hypervolume(self._front, reference_point([(1.0, self._worst_cost)], self._corner))

    def _enter_front(self, point: tuple[float, float]) -> None:
        """Only what the hypervolume needs is kept: a study may have millions of trials."""
        if not any(error <= point[0] and cost <= point[1] for error, cost in self._front):
            self._front = [kept for kept in self._front if not (point[0] <= kept[0] and point[1] <= kept[1])]
            self._front.append(point)
