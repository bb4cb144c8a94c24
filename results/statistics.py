"""Differences between trainings that share their seeds: how large, how sure, and how many seeds would settle them.

All functions work along the last axis of arrays as well as on one list, so that their error rates can be simulated.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

Array = NDArray[np.float64]

ALPHA = 0.05
POWER = 0.8
MOST_SEEDS = 1000
_QUANTILES = 4000


class PairedTest(NamedTuple):
    """Of one list of differences, or of many at once: then every field but ``n`` is an array.

    ``low`` and ``high`` bound the mean difference with the confidence asked for; ``p`` is two-sided.
    """

    n: int
    mean: Any
    sd: Any
    low: Any
    high: Any
    p: Any


def paired_test(differences: ArrayLike, resolution: float = 0.0, confidence: float = 1 - ALPHA) -> PairedTest:
    """Student's t test of the mean difference of pairs, along the last axis: (..., n) with n >= 2.

    ``resolution`` is the smallest step that one of the two values can make, such as one validation image. Of a few
    pairs all may show the same difference by chance, with no spread at all; the deviation is therefore taken as at
    least that of a difference of two rounded values, resolution / sqrt(6). Without spread and without resolution there
    is nothing to judge by: p is 1 and the interval is the whole line. Raises ValueError for fewer than two pairs.
    """
    values = np.asarray(differences, dtype=float)
    n = values.shape[-1] if values.ndim else 0
    if n < 2:
        raise ValueError(f"a paired test needs at least 2 pairs, got {n}")
    mean, sd = values.mean(axis=-1), np.maximum(values.std(axis=-1, ddof=1), resolution / math.sqrt(6))
    error = np.where(sd > 0, sd / math.sqrt(n), np.inf)
    p = 2 * stats.t.sf(np.abs(mean) / error, n - 1)
    reach = stats.t.ppf((1 + confidence) / 2, n - 1) * error
    return PairedTest(n, mean, sd, mean - reach, mean + reach, p)


def holm(p_values: ArrayLike) -> Array:
    """Adjusted for having made all the comparisons of the last axis (Holm, 1979): (..., m) -> (..., m)."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, axis=-1)
    ranked = np.take_along_axis(p, order, axis=-1) * np.arange(p.shape[-1], 0, -1)
    adjusted = np.minimum(np.maximum.accumulate(ranked, axis=-1), 1.0)
    out = np.empty_like(adjusted)
    np.put_along_axis(out, order, adjusted, axis=-1)
    return out


def power_of(effect: float, n: int, alpha: float = ALPHA) -> float:
    """The chance that the two-sided paired t test of ``n`` pairs finds a difference of ``effect`` deviations.

    The tail of the noncentral t, as the normal tail averaged over quantiles of the deviation that is observed: good to
    four digits at any effect, where scipy's own is NaN far out with few degrees of freedom.
    """
    bound, shift = stats.t.ppf(1 - alpha / 2, n - 1), abs(effect) * math.sqrt(n)
    observed = bound * _deviation_quantiles(n - 1)
    return float(np.mean(special.ndtr(shift - observed) + special.ndtr(-shift - observed)))


@functools.lru_cache(maxsize=64)
def _deviation_quantiles(freedom: int) -> Array:
    """Observed over true deviation at evenly spaced probabilities."""
    return np.sqrt(stats.chi2.ppf((np.arange(_QUANTILES) + 0.5) / _QUANTILES, freedom) / freedom)


def seeds_needed(difference: float, sd: float, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """The fewest pairs that find such a difference with this power; None if more than ``MOST_SEEDS``."""
    effect = abs(difference) / sd if sd > 0 else 0.0
    if power_of(effect, MOST_SEEDS, alpha) < power:
        return None
    low, high = 1, MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(effect, middle, alpha) >= power else (middle, high)
    return high


def detectable_difference(sd: float, n: int, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest difference that ``n`` pairs of this deviation find with this power, in the unit of ``sd``."""
    highest = 1.0
    while power_of(highest, n, alpha) < power:
        highest *= 2
    return sd * float(optimize.brentq(lambda effect: power_of(effect, n, alpha) - power, 0.0, highest))
