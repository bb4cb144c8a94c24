"""Fronts, ranks and hypervolume equal Optuna's, which the searchers steer by."""

from __future__ import annotations

import numpy as np
import pytest
from optuna._hypervolume import compute_hypervolume
from optuna.study._multi_objective import _fast_non_domination_rank, _is_pareto_front

from results.pareto import hypervolume, pareto_mask, pareto_ranks


@pytest.mark.parametrize("objectives", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_equal_on_points_with_many_ties(objectives: int, seed: int) -> None:
    points = np.random.default_rng(seed).integers(0, 12, (80, objectives)).astype(float)
    corner = np.full(objectives, 11.0)
    assert pareto_mask(points).tolist() == _is_pareto_front(points, assume_unique_lexsorted=False).tolist()
    assert pareto_ranks(points).tolist() == _fast_non_domination_rank(points).tolist()
    assert hypervolume(points, corner) == pytest.approx(compute_hypervolume(points, corner))
