"""Which member of a front to take: three answers to three wishes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from results.metrics import ACCURACY, cost_metric

CLOSE_TO_BEST = 0.01


class Pick(NamedTuple):
    """A wish and the trial that answers it."""

    wish: str
    why: str
    trial: int


def pick_members(members: pd.DataFrame, cost: str = "macs") -> list[Pick]:
    """The accurate end, the cheapest close to it, and the knee of a front (``frame.front``); none of an empty front.

    The knee is the member farthest above the straight line between the two ends, with accuracy and the logarithm of
    the cost each scaled to the front's span. A front of fewer than three different points has none.
    """
    if members.empty:
        return []
    accuracy = members[ACCURACY].to_numpy(dtype=float)
    trials = [int(trial) for trial in members["trial"]]
    # Along a front in its order, accuracy rises: the first row at a level is the cheapest there.
    best = int(np.argmax(accuracy))
    close = int(np.argmax(accuracy >= accuracy[best] - CLOSE_TO_BEST - 1e-12))
    picks = [
        Pick("Most accurate", "highest validation accuracy found", trials[best]),
        Pick("Cheapest close to it", "lowest cost within 1 point of the best accuracy", trials[close]),
    ]
    knee = _knee(accuracy, np.array([cost_metric(cost).log_cost(value) for value in members[cost]]))
    if knee is not None:
        picks.append(Pick("Knee", "beyond it, each further point of accuracy costs much more", trials[knee]))
    return picks


def _knee(accuracy: np.ndarray, log_cost: np.ndarray) -> int | None:
    distinct = len(set(zip(accuracy, log_cost)))
    if distinct < 3 or not np.isfinite(log_cost).all():
        return None
    gain = (accuracy - accuracy[0]) / (accuracy[-1] - accuracy[0])
    spent = (log_cost - log_cost[0]) / (log_cost[-1] - log_cost[0])
    above = gain - spent
    index = int(np.argmax(above))
    return index if above[index] > 0 else None
