"""Pareto fronts, ranks and hypervolume.

Every function here takes points whose objectives are all "lower is better": (num_points, num_objectives), one row a
point. ``minimised`` makes them so, once, at the edge. A row that holds NaN or infinity is never on a front, has no
rank and adds no volume. The algorithms are moocore's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]

NO_RANK = -1
_CHUNK = 4096


def minimised(values: ArrayLike, maximise: Sequence[bool]) -> Array:
    """The values with the sign turned of every column that is to be maximised."""
    points = _as_points(values)
    if points.shape[1] != len(maximise):
        raise ValueError(f"got {points.shape[1]} objectives and {len(maximise)} directions; give one direction each")
    return np.where(np.asarray(maximise, dtype=bool), -points, points)


def pareto_mask(points: ArrayLike) -> Array:
    """True where no other point is at least as good in everything and better in something.

    Equal points do not dominate each other: copies of a front member are all on the front.
    """
    points = _as_points(points)
    mask = _finite(points)
    if mask.any():
        mask[mask] = moocore.is_nondominated(points[mask], keep_weakly=True)
    return mask


def pareto_ranks(points: ArrayLike) -> Array:
    """0 on the front, 1 on the front of the rest, and so on (Deb et al. 2002); ``NO_RANK`` where not finite."""
    points = _as_points(points)
    finite = _finite(points)
    ranks = np.full(len(points), NO_RANK, dtype=np.int64)
    if finite.any():
        ranks[finite] = moocore.pareto_rank(points[finite])
    return ranks


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Volume between the points and the reference. Points not better than the reference in everything add nothing."""
    points, corner = _as_points(points), _as_reference(reference)
    _check_objectives(points, corner)
    inside = points[_adds_volume(points, corner)]
    return float(moocore.hypervolume(inside, corner)) if len(inside) else 0.0


def hypervolume_history(points: ArrayLike, reference: ArrayLike) -> Array:
    """Hypervolume after each point, in the order given: (num_points,), never falling."""
    points, corner = _as_points(points), _as_reference(reference)
    _check_objectives(points, corner)
    useful = _adds_volume(points, corner)
    values = np.zeros(len(points))
    volume, front = 0.0, np.empty((0, len(corner)))
    for start in range(0, len(points), _CHUNK):
        # Of many points nearly all are beaten by what was there before: those are told at once.
        chunk = slice(start, start + _CHUNK)
        values[chunk] = volume
        for index in start + np.flatnonzero(useful[chunk] & ~_is_covered(points[chunk], front)):
            if not (front <= points[index]).all(axis=1).any():
                front = np.vstack([front[~(points[index] <= front).all(axis=1)], points[index]])
                # Rounding in the last digit must not show as a loss.
                volume = max(volume, hypervolume(front, corner))
            values[index : chunk.stop] = volume
    return values


def reference_point(points: ArrayLike, limits: Sequence[float | None]) -> Array:
    """The corner that hypervolumes are measured from: (num_objectives,).

    A reference that moved with the results would make two hypervolumes of one study incomparable. So it is the limit
    given for the objective, known before the first trial. Where there is none (None), it is the next whole number
    above the worst finite value, which on a log10 scale is a full decade: it moves only when a decade is crossed.
    """
    points = _as_points(points)
    if points.shape[1] != len(limits):
        raise ValueError(f"got {points.shape[1]} objectives and {len(limits)} limits; give a limit or None for each")
    usable = points[_finite(points)]
    worst = usable.max(axis=0) if len(usable) else np.zeros(len(limits))
    return np.array([np.floor(w) + 1.0 if limit is None else float(limit) for w, limit in zip(worst, limits)])


def _is_covered(points: Array, front: Array) -> Array:
    """True where a member of the front is at least as good in everything: (num_points,)."""
    covered = np.zeros(len(points), dtype=bool)
    for member in front:
        covered |= (member <= points).all(axis=1)
    return covered


def _adds_volume(points: Array, corner: Array) -> Array:
    return _finite(points) & np.asarray((points < corner).all(axis=1))


def _finite(points: Array) -> Array:
    return np.asarray(np.isfinite(points).all(axis=1))


def _as_points(values: ArrayLike) -> Array:
    points = np.asarray(values, dtype=float)
    if points.ndim != 2 or points.shape[1] == 0:
        raise ValueError(f"points must be (num_points, num_objectives), got the shape {points.shape}")
    return points


def _as_reference(values: ArrayLike) -> Array:
    corner = np.asarray(values, dtype=float)
    if corner.ndim != 1 or not np.isfinite(corner).all():
        raise ValueError(f"the reference must be one finite number for each objective, got {corner.tolist()}")
    return corner


def _check_objectives(points: Array, corner: Array) -> None:
    if points.shape[1] != len(corner):
        raise ValueError(f"got {points.shape[1]} objectives and a reference of {len(corner)}; they must agree")
