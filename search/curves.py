"""What a learning curve promises: the final accuracy that a trial may still reach, with a bound on being wrong.

Pure numpy on the curves of finished trials; which trial is stopped on its strength is decided in ``search.stopping``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Finished trials of like cost that a forecast is made from.
NEIGHBOURS = 100

_FIRST_CAPACITY = 64
_SQUASH = 0.002  # keeps the logit of 0 and 1 finite: half an image of 250
_RIDGE = 1e-6
_SMALLEST_SCALE = 1e-3


class Forecast(NamedTuple):
    """``expected``: the middle of what is likely; ``optimistic``: passed with at most the probability asked for."""

    expected: float
    optimistic: float


class Curves:
    """Learning curves of the finished trials, one row a trial, in the order of finishing.

    ``at_rungs``: (num_trials, num_rungs) accuracies, ``final``: (num_trials,), ``log_macs``: (num_trials,),
    ``costs``: (num_trials, num_costs), lower is better.
    """

    def __init__(self, num_rungs: int, num_costs: int) -> None:
        self._num_rungs = num_rungs
        self._rows = np.empty((_FIRST_CAPACITY, num_rungs + 2 + num_costs))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, at_rungs: Sequence[float], final: float, log_macs: float, costs: Sequence[float]) -> None:
        """A trial that finished."""
        if self._count == len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
        self._rows[self._count] = (*at_rungs, final, log_macs, *costs)
        self._count += 1

    @property
    def at_rungs(self) -> Array:
        return self._rows[: self._count, : self._num_rungs]

    @property
    def final(self) -> Array:
        return self._rows[: self._count, self._num_rungs]

    @property
    def log_macs(self) -> Array:
        return self._rows[: self._count, self._num_rungs + 1]

    @property
    def costs(self) -> Array:
        return self._rows[: self._count, self._num_rungs + 2 :]

    def best_within(self, costs: Sequence[float]) -> float:
        """The best final accuracy of a trial that costs no more in anything; -inf if there is none."""
        within = (self.costs <= np.asarray(costs)).all(axis=1)
        return float(self.final[within].max(initial=-math.inf))

    def nearest(self, log_macs: float, count: int) -> Curves:
        """The ``count`` trials nearest in log FLOPs; of equally near ones those that finished first."""
        order = np.argsort(np.abs(self.log_macs - log_macs), kind="stable")[:count]
        part = object.__new__(Curves)
        part._num_rungs, part._rows, part._count = self._num_rungs, self._rows[order], len(order)
        return part


def forecast_final(curves: Curves, seen: Sequence[float], log_macs: float, max_wrong: float) -> Forecast | None:
    """The final accuracy of a trial that reached ``seen`` at its first rungs; None with too few trials to tell.

    The gain from a rung to the end is regressed, in logits, on the accuracies up to it and log FLOPs over the nearest
    finished trials; conformal prediction (Vovk et al. 2005; Lei et al. 2018) turns the residuals into a bound. A
    trial's score is its *largest* standardised residual over all rungs, so that one budget, ``max_wrong``, covers the
    decisions at all rungs together; a budget split among the rungs would need as many times more trials before the
    first bound, which comes with ``1 / max_wrong - 1`` of them.

    The bound holds for a trial like its neighbours. A member of the front does better than they did, but is harmed only
    if a finished trial lies between the bound and its end: benchmarks/early_stopping.py counts how often.
    """
    near = curves.nearest(log_macs, NEIGHBOURS)
    place = math.ceil((1.0 - max_wrong) * (len(near) + 1) - 1e-9)
    if place > len(near):
        return None
    fits = [_fit_gain(near, rung, log_macs) for rung in range(near.at_rungs.shape[1])]
    scores = np.max([fit.scores for fit in fits], axis=0)
    fit, logits = fits[len(seen) - 1], _logit(np.asarray(seen))
    known = _logit(near.at_rungs[:, : len(seen)])
    within = np.clip(logits, known.min(axis=0), known.max(axis=0))  # gains are not extrapolated, whatever the start
    expected = logits[-1] + fit.slope @ [1.0, *within, 0.0]
    optimistic = expected + fit.scale * np.sort(scores)[place - 1]
    return Forecast(_accuracy(expected), _accuracy(optimistic))


class _Fit(NamedTuple):
    slope: Array  # (rung + 3,): constant, logits of the accuracies up to the rung, difference in log FLOPs
    scale: float
    scores: Array  # (num_trials,): standardised residuals


def _fit_gain(near: Curves, rung: int, log_macs: float) -> _Fit:
    """Least squares with leave-one-out residuals, so that a trial is not judged by a line that it has bent."""
    logits = _logit(near.at_rungs[:, : rung + 1])
    gain = _logit(near.final) - logits[:, -1]
    design = np.column_stack([np.ones(len(near)), logits, near.log_macs - log_macs])
    inverse = np.linalg.inv(design.T @ design + _RIDGE * np.eye(design.shape[1]))
    slope = inverse @ (design.T @ gain)
    leverage = np.einsum("ij,jk,ik->i", design, inverse, design)
    residuals = (gain - design @ slope) / np.clip(1.0 - leverage, 0.05, None)
    scale = 1.4826 * float(np.median(np.abs(residuals))) + _SMALLEST_SCALE
    return _Fit(slope, scale, residuals / scale)


def _logit(accuracy: Any) -> Any:
    share = accuracy * (1.0 - 2.0 * _SQUASH) + _SQUASH
    return np.log(share / (1.0 - share))


def _accuracy(logit: float) -> float:
    share = 1.0 / (1.0 + math.exp(-min(max(float(logit), -30.0), 30.0)))
    return min(1.0, max(0.0, (share - _SQUASH) / (1.0 - 2.0 * _SQUASH)))
