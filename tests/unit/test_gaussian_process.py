"""The Gaussian process: what it maximises is what the literature defines, and it finds what random search does not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from search.gaussian_process import GaussianProcess, expected_improvement, scalarise
from space import Space, Vector, load_space

TARGET = (1, 1, 0, 3, 2, 1, 0, 1, 1, 2, 1)


@pytest.fixture(scope="module")
def space() -> Space:
    return load_space("small").space


@pytest.fixture(scope="module")
def process(space: Space) -> GaussianProcess:
    return GaussianProcess(space)


@pytest.mark.parametrize(("mean", "spread", "best"), [(0.0, 1.0, 0.5), (2.0, 0.3, 1.5), (-1.0, 0.01, 0.0)])
def test_expected_improvement_is_its_integral(mean: float, spread: float, best: float) -> None:
    expected = quad(lambda value: (best - value) * norm.pdf(value, mean, spread), mean - 10 * spread, best)[0]
    found = expected_improvement(np.array([mean]), np.array([spread]), best)
    assert found == pytest.approx([expected], rel=1e-6)


def test_a_scalar_keeps_the_order_of_domination_whatever_the_units() -> None:
    points = np.random.default_rng(0).random((40, 3))
    dominated = (points[:, None, :] <= points[None, :, :]).all(axis=2) & ~np.eye(40, dtype=bool)
    assert dominated.any()
    for seed in range(20):
        values = scalarise(points, np.random.default_rng(seed))
        assert (values[:, None] < values[None, :])[dominated].all()
        other_units = scalarise(np.exp(points * [1.0, 20.0, 5.0]), np.random.default_rng(seed))
        np.testing.assert_array_equal(values, other_units)


def test_weights_reach_every_end_of_the_front() -> None:
    front = np.column_stack([np.arange(9.0), -np.arange(9.0)])
    best = {int(scalarise(front, np.random.default_rng(seed)).argmin()) for seed in range(200)}
    assert best == set(range(9))


def distances(vectors: list[Vector]) -> np.ndarray:
    """Two objectives that no vector but TARGET has at 0: changes of the even and of the odd places."""
    apart = np.abs(np.array(vectors) - TARGET)
    return np.column_stack([apart[:, ::2].sum(axis=1), apart[:, 1::2].sum(axis=1)]).astype(float)


def test_it_comes_nearer_than_random_search_does(space: Space, process: GaussianProcess) -> None:
    rng = np.random.default_rng(1)
    tried = [space.random_vector(rng) for _ in range(10)]
    random = [space.random_vector(rng) for _ in range(1000)]
    for seed in range(30):
        tried.append(process.propose(tried, distances(tried), [], np.random.default_rng(seed)))
    assert len(set(tried)) == 40
    found, drawn = (distances(vectors).sum(axis=1) for vectors in (tried, random))
    assert found.min() <= drawn.min()
    assert found[-10:].mean() < np.quantile(drawn, 0.05)


def test_trials_side_by_side_are_spread(space: Space, process: GaussianProcess) -> None:
    """Under the same weights, what runs already is not proposed again."""
    rng = np.random.default_rng(2)
    tried = [space.random_vector(rng) for _ in range(30)]
    running: list[Vector] = []
    for _ in range(4):
        running.append(process.propose(tried, distances(tried), running, np.random.default_rng(3)))
    assert len({*running, *tried}) == len(set(tried)) + 4


def test_results_that_are_all_alike_are_no_obstacle(space: Space, process: GaussianProcess) -> None:
    rng = np.random.default_rng(4)
    tried = [space.random_vector(rng) for _ in range(6)]
    proposal = process.propose(tried, np.ones((6, 2)), tried[:1], rng)
    assert proposal not in tried
    assert space.canonical(proposal) == proposal


def test_what_a_space_leaves_is_proposed(process: GaussianProcess, space: Space) -> None:
    narrow = Space("narrow", space.base, space.dimensions[3:4])
    members = list(narrow.vectors())
    points = np.arange(2.0 * (len(members) - 1)).reshape(-1, 2)
    last = GaussianProcess(narrow).propose(members[:-1], points, [], np.random.default_rng(0))
    assert last == members[-1]
