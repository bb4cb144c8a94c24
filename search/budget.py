"""What a study may spend besides its number of trials, and what it has spent: hours, device-hours, patience.

All of it follows from the events of the ledger, so that a study that is resumed goes on counting where it stood.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from results.metrics import ACCURACY
from results.pareto import hypervolume, pareto_mask, reference_point
from results.records import Event, Finished, Started
from results.store import StudyStore
from results.units import plural
from search.objectives import Objective
from space import Limit

PLATEAU_GAIN = 0.001

_HOUR_SECONDS = 3600.0
_REFERENCE = "hypervolume_reference"


class BudgetError(ValueError):
    """A budget that cannot be."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """None is no bound.

    ``hours``: wall clock of the study, over all its runs. ``device_hours``: the sum of what its trials took.
    ``plateau``: so many finished trials in a row that raised the hypervolume by less than 0.1 % end the study.
    Trials that run when a bound is reached are trained to their end.
    """

    hours: float | None = None
    device_hours: float | None = None
    plateau: int | None = None

    def check(self) -> Budget:
        """Itself. Raises BudgetError naming the first bound that makes no sense."""
        for name, label in (("hours", "hours"), ("device_hours", "device-hours")):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise BudgetError(f"{label} must be a number above 0, as 1.5, got {value!r}")
        if self.plateau is not None and self.plateau < 1:
            raise BudgetError(f"plateau must be a number of trials of at least 1, got {self.plateau!r}")
        return self


class Spending:
    """What a study has used of its budget, as far as its events and outcomes tell."""

    def __init__(self, budget: Budget, plateau: Plateau | None = None) -> None:
        self._budget = budget
        self._plateau = plateau
        self._device_seconds = 0.0
        self._earlier_seconds = 0.0
        self._start: float | None = None
        self._last = 0.0

    def observe(self, event: Event) -> None:
        """Learn of an event, in the order of the ledger."""
        if isinstance(event, Started) or self._start is None:
            self.close_run()
            self._start = event.time
        self._last = event.time
        if isinstance(event, Finished):
            self._device_seconds += event.seconds

    def judge(self, finished: Finished) -> None:
        """Learn whether an outcome was of use, in the order in which the searcher is told of them."""
        if self._plateau is not None:
            self._plateau.add(finished)

    def close_run(self) -> None:
        """The process that wrote the events so far is gone; from its last event on, no time is counted."""
        if self._start is not None:
            self._earlier_seconds += max(0.0, self._last - self._start)
        self._start = None

    def exceeded(self, now: float) -> str:
        """Which bound is reached, in words; empty if none is. ``now`` is the clock that stamps the events."""
        budget = self._budget
        running_seconds = 0.0 if self._start is None else max(0.0, now - self._start)
        hours = (self._earlier_seconds + running_seconds) / _HOUR_SECONDS
        device_hours = self._device_seconds / _HOUR_SECONDS
        if budget.hours is not None and hours >= budget.hours:
            return f"its {_amount(budget.hours, 'hour')} spent"
        if budget.device_hours is not None and device_hours >= budget.device_hours:
            return f"its {_amount(budget.device_hours, 'device-hour')} spent"
        if self._plateau is not None and self._plateau.reached():
            trials = plural(self._plateau.patience, "trial")
            return f"{trials} in a row raised the hypervolume by less than {PLATEAU_GAIN:.1%}"
        return ""


def _amount(hours: float, unit: str) -> str:
    return f"1 {unit} is" if hours == 1 else f"{hours:g} {unit}s are"


class Plateau:
    """Whether the last ``patience`` finished trials were of little use.

    The hypervolume is that of the objectives as the searcher is told them, costs as logarithms. Its reference is a
    limit of the space or zero accuracy where there is one, else a decade beyond the worst of the first ``patience``
    trials. ``keep_reference`` is called once with it, to write it down; a study that is resumed passes it back as
    ``reference``. Lost trials count for nothing.
    """

    def __init__(
        self,
        patience: int,
        objectives: Sequence[Objective],
        limits: Sequence[float | None],
        *,
        reference: Sequence[float] | None = None,
        keep_reference: Callable[[list[float]], None] = lambda reference: None,
    ) -> None:
        self.patience = patience
        self._objectives = tuple(objectives)
        self._limits = tuple(limits)
        self._reference = None if reference is None else np.array(reference, dtype=float)
        self._keep_reference = keep_reference
        self._waiting: list[list[float]] = []
        self._front = np.empty((0, len(self._objectives)))
        self._volumes: list[float] = []

    def add(self, finished: Finished) -> None:
        """A trial that is over."""
        if finished.status == "lost":
            return
        self._waiting.append(self._point(finished))
        if self._reference is None and len(self._waiting) >= self.patience:
            self._fix_reference()
        if self._reference is not None:
            for point in self._waiting:
                self._volumes.append(self._volume_with(point, self._reference))
            self._waiting = []

    def reached(self) -> bool:
        """Whether it is time to stop. Never before there is a volume to compare with."""
        if len(self._volumes) <= self.patience:
            return False
        before, now = self._volumes[-1 - self.patience], self._volumes[-1]
        return now > 0 and now < before * (1 + PLATEAU_GAIN)

    def _point(self, finished: Finished) -> list[float]:
        """The objectives, lower is better; NaN where there is no result."""
        losses = [objective.loss(finished.metrics) for objective in self._objectives]
        known = [loss for loss in losses if loss is not None]
        return known if finished.status == "ok" and len(known) == len(losses) else [math.nan] * len(losses)

    def _fix_reference(self) -> None:
        """As soon as one of the first trials has a result; without any, later ones decide."""
        if np.isfinite(self._waiting).all(axis=1).any():
            self._reference = reference_point(self._waiting, self._limits)
            self._keep_reference(self._reference.tolist())

    def _volume_with(self, point: list[float], reference: np.ndarray) -> float:
        """Never falling: rounding in the last digit must not show as a loss."""
        last = self._volumes[-1] if self._volumes else 0.0
        if not np.isfinite(point).all() or (self._front <= point).all(axis=1).any():
            return last
        front = np.vstack([self._front, point])
        self._front = front[pareto_mask(front)]
        return max(last, hypervolume(self._front, reference))


def open_spending(
    store: StudyStore, budget: Budget, objectives: Sequence[Objective], limits: Sequence[Limit]
) -> Spending:
    """The spending of a study, its reference for hypervolumes kept in study.json."""
    if budget.plateau is None:
        return Spending(budget)

    def keep_reference(reference: list[float]) -> None:
        store.write_json("study.json", {**store.study, _REFERENCE: reference})

    bounds = [_worst(objective, limits) for objective in objectives]
    reference = store.study.get(_REFERENCE)
    plateau = Plateau(budget.plateau, objectives, bounds, reference=reference, keep_reference=keep_reference)
    return Spending(budget, plateau)


def _worst(objective: Objective, limits: Sequence[Limit]) -> float | None:
    """The worst value that an objective may have, lower is better; None if nothing bounds it."""
    if objective.metric == ACCURACY:
        return 0.0
    limit = next((limit for limit in limits if limit.metric == objective.metric), None)
    bound = None if limit is None else limit.minimum if objective.direction == "max" else limit.maximum
    return None if bound is None else objective.loss({objective.metric: bound})
