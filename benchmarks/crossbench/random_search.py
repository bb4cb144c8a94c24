"""Random search on a table, exactly: draws without replacement from the architectures of a ``Truth``.

With k of N points dominating a place z, the chance that n draws hold none of them is C(N-k, n) / C(N, n). The expected
hypervolume is that chance's complement, integrated over all places: a finite sum, for the number of dominating points
is constant on the cells of the grid through all points.
"""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln

from benchmarks.crossbench.table import Truth
from results.pareto import Array


def expected_hypervolumes(truth: Truth) -> Array:
    """Expected hypervolume after n draws, for n of 1 to num_archs: (num_archs,). Exact, for two or three objectives."""
    volumes = volumes_by_count(truth.points, truth.reference)
    total = len(truth.points)
    draws = np.arange(1, total + 1)[:, None]
    return ((1.0 - _miss_chance(total, np.arange(total + 1)[None, :], draws)) * volumes).sum(axis=1)


def volumes_by_count(points: Array, reference: Array) -> Array:
    """Volume of the places that exactly k points dominate, k of 0 to num_points: (num_points + 1,).

    The box reaches from the best value in each objective to the reference; objectives are two or three.
    """
    inside = points[(points < reference).all(axis=1)]
    volumes = np.zeros(len(points) + 1)
    if len(inside) == 0:
        return volumes
    if points.shape[1] == 2:
        inside = np.column_stack([inside, np.zeros(len(inside))])
        reference = np.append(reference, 1.0)
    elif points.shape[1] != 3:
        raise ValueError(f"counts places in two or three objectives, got {points.shape[1]}")
    return volumes + _sweep(inside, reference, len(points))


def shuffled_searches(truth: Truth, permutations: int, seed: int) -> tuple[Array, Array]:
    """Random searches that go on to the last architecture: hypervolumes and CPU seconds after each training.

    Both are (permutations, num_archs); for what has no closed form, such as medians and the time to a share.
    """
    rng = np.random.default_rng(seed)
    orders = np.array([rng.permutation(len(truth.keys)) for _ in range(permutations)])
    histories = np.array([truth.history(truth.keys[i] for i in order) for order in orders])
    return histories, truth.seconds[orders].cumsum(axis=1)


def _sweep(inside: Array, reference: Array, num_points: int) -> Array:
    """Slab by slab along the last objective; within a slab, cell by cell of the plane."""
    edges_x, ranks_x = np.unique(inside[:, 0], return_inverse=True)
    edges_y, ranks_y = np.unique(inside[:, 1], return_inverse=True)
    areas = np.outer(np.diff(edges_x, append=reference[0]), np.diff(edges_y, append=reference[1])).ravel()
    counts = np.zeros((len(edges_x), len(edges_y)), dtype=np.int64)
    volumes = np.zeros(num_points + 1)
    levels, places = np.unique(inside[:, 2], return_inverse=True)
    heights = np.diff(levels, append=reference[2])
    for level, height in enumerate(heights):
        for point in np.flatnonzero(places == level):
            counts[ranks_x[point] :, ranks_y[point] :] += 1
        volumes += np.bincount(counts.ravel(), weights=areas * height, minlength=num_points + 1)
    return volumes


def _miss_chance(total: int, count: Array, draws: Array) -> Array:
    """C(total - count, draws) / C(total, draws): the chance that none of ``count`` is among ``draws``."""
    left = total - count
    possible = draws <= left
    logs = gammaln(left + 1) - gammaln(np.where(possible, left - draws, 0) + 1)
    logs = logs - gammaln(total + 1) + gammaln(total - draws + 1)
    return np.where(possible, np.exp(logs), 0.0)
