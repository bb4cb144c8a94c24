"""Proposals of a Gaussian process on few trials: ParEGO (Knowles 2006) over the vectors of a space.

Each proposal draws weights for the objectives anew and makes one value of them, the augmented Chebyshev scalar; a
process is fitted to that value, and the vector of the largest expected improvement is proposed. One process a proposal
and no hypervolume to integrate: tens of milliseconds, where Optuna's GPSampler, a process for each objective, takes
seconds. Length scales have the prior of Hvarfner et al. (2024), which grows with the number of features: without one,
as scikit-learn comes, some dozens of trials say nothing about a dozen scales.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from results.pareto import Array
from space import Space, Vector

if TYPE_CHECKING:
    from sklearn.gaussian_process import GaussianProcessRegressor

_AUGMENTATION = 0.05  # Knowles' rho
_RANDOM_CANDIDATES = 500
_CLIMBS_FROM = 5
_CLIMB_STEPS = 4
_FIT_STEPS = 15  # the likelihood is flat near its peak, and the next proposal fits anew
_SPREAD = math.sqrt(3.0)
_LEAST_TRIED = 4


class GaussianProcess:
    """Proposes vectors of ``space``, feasible or not; keeps nothing from one proposal to the next."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._sizes = np.array([len(dimension.choices) for dimension in space.dimensions])
        self._ordered = np.array([dimension.ordered for dimension in space.dimensions])
        num_features = self._features([(0,) * len(space.dimensions)]).shape[1]
        self._unfitted = _make_model(num_features)  # here, so that no proposal waits for the import

    def propose(
        self, tried: Sequence[Vector], points: Array, running: Sequence[Vector], rng: np.random.Generator
    ) -> Vector:
        """The next vector, given ``tried`` ones with their ``points`` (num_tried, num_objectives), lower is better.

        A ``running`` one counts as if it came to what the process expects of it (the kriging believer of Ginsbourger
        et al. 2010), so that trials side by side are not alike. With fewer than four tried it draws at random.
        """
        if len(tried) < _LEAST_TRIED:
            return self._space.random_vector(rng)
        values = scalarise(points, rng)
        model = self._fit(tried, values, running)
        best = float(values.min())
        seen = {*tried, *running}

        def improvement(vectors: Sequence[Vector]) -> Array:
            mean, spread = model.predict(self._features(vectors), return_std=True)
            return expected_improvement(mean, spread, best)

        pool = self._candidates([tried[row] for row in np.argsort(values)[:_CLIMBS_FROM]], rng)
        return self._climb([vector for vector in pool if vector not in seen] or pool, seen, improvement)

    def _fit(self, tried: Sequence[Vector], values: Array, running: Sequence[Vector]) -> GaussianProcessRegressor:
        from sklearn.base import clone
        from sklearn.exceptions import ConvergenceWarning

        features, model = self._features(tried), clone(self._unfitted)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of scales at a bound: a choice that matters little
            model.fit(features, values)
        if not running:
            return model
        beside = self._features(running)
        believed = np.concatenate([values, model.predict(beside)])
        model.set_params(kernel=model.kernel_, optimizer=None)
        return model.fit(np.concatenate([features, beside]), believed)

    def _candidates(self, best: Sequence[Vector], rng: np.random.Generator) -> list[Vector]:
        drawn = rng.integers(self._sizes, size=(_RANDOM_CANDIDATES, len(self._sizes))).tolist()
        around = [vector for start in best for vector in self._space.neighbour_vectors(start)]
        return list(dict.fromkeys([*(self._space.canonical(tuple(vector)) for vector in drawn), *around]))

    def _climb(
        self, pool: Sequence[Vector], seen: set[Vector], improvement: Callable[[Sequence[Vector]], Array]
    ) -> Vector:
        """From the best candidates to better ones beside them."""
        gains = dict(zip(pool, improvement(pool)))
        for _ in range(_CLIMB_STEPS):
            leaders = sorted(gains, key=gains.__getitem__, reverse=True)[:_CLIMBS_FROM]
            beside = (vector for leader in leaders for vector in self._space.neighbour_vectors(leader))
            fresh = [vector for vector in dict.fromkeys(beside) if vector not in gains and vector not in seen]
            if not fresh:
                break
            gains.update(zip(fresh, improvement(fresh)))
        return max(gains, key=gains.__getitem__)

    def _features(self, vectors: Sequence[Vector]) -> Array:
        """(num_vectors, num_features): ordered choices on a line from 0 to 1, a column for each unordered choice."""
        places = np.array(vectors).T
        columns = [
            _on_a_line(place, size) if ordered or size == 2 else _one_hot(place, size)
            for place, size, ordered in zip(places, self._sizes, self._ordered)
        ]
        return np.concatenate(columns, axis=1)


def _on_a_line(place: Array, size: int) -> Array:
    return place[:, None] / max(1, size - 1)


def _one_hot(place: Array, size: int) -> Array:
    """Any two choices are 1 apart."""
    return (place[:, None] == np.arange(size)) / math.sqrt(2.0)


def scalarise(points: Array, rng: np.random.Generator) -> Array:
    """One value for each of the (num_points, num_objectives) points, lower is better, under weights that are drawn.

    Objectives count by rank, so that neither units nor orders of magnitude matter.
    """
    weights = rng.dirichlet(np.ones(points.shape[1]))
    ranks = np.column_stack([np.unique(column, return_inverse=True)[1] for column in points.T])
    weighted = weights * ranks / np.maximum(1, ranks.max(axis=0))
    return weighted.max(axis=1) + _AUGMENTATION * weighted.sum(axis=1)


def expected_improvement(mean: Array, spread: Array, best: float) -> Array:
    """How far below ``best`` a normal value falls in expectation, in the units of the value (Jones et al. 1998)."""
    from scipy.special import ndtr

    sigma = np.maximum(spread, 1e-9)
    below = (best - mean) / sigma
    return sigma * (below * ndtr(below) + np.exp(-0.5 * below**2) / np.sqrt(2.0 * np.pi))


def _make_model(num_features: int) -> GaussianProcessRegressor:
    from scipy.optimize import minimize
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    usual = math.sqrt(2.0) + 0.5 * math.log(num_features) - _SPREAD**2
    scales = Matern(np.full(num_features, math.exp(usual)), (0.05, 500.0), nu=2.5)
    kernel = ConstantKernel(1.0, (0.05, 20.0)) * scales + WhiteKernel(0.05, (1e-4, 1.0))

    def maximise(objective: Callable[[Array], Any], start: Array, bounds: Array) -> tuple[Array, float]:
        found = minimize(
            lambda theta: _with_prior(objective, theta, usual),
            start,
            jac=True,
            bounds=bounds,
            method="L-BFGS-B",
            options={"maxiter": _FIT_STEPS},
        )
        return found.x, float(found.fun)

    return GaussianProcessRegressor(kernel, optimizer=maximise, normalize_y=True)


def _with_prior(objective: Callable[[Array], Any], theta: Array, usual: float) -> tuple[float, Array]:
    """Negative log posterior and its gradient, at the logarithms of: variance, length scales, noise."""
    loss, gradient = objective(theta)
    off = (theta[1:-1] - usual) / _SPREAD
    return loss + 0.5 * float(off @ off), gradient + np.concatenate([[0.0], off / _SPREAD, [0.0]])
