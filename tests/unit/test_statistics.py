"""Error rates of the paired comparisons, simulated, and their numbers against statsmodels'."""

from __future__ import annotations

import math

import numpy as np
import pytest

from results.statistics import ALPHA, detectable_difference, holm, paired_test, power_of, seeds_needed

RUNS = 2000
# Of 2,000 runs at a true rate of 5 % no more than this in 97.5 of 100 simulations.
MOST = ALPHA + 1.96 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)


def normal_accuracies(rng: np.random.Generator, variants: int, seeds: int, steps: int = 269) -> np.ndarray:
    """(runs, variants, seeds): a part that pairs share and one of their own, in whole images."""
    shared = rng.normal(0.0, 0.02, (RUNS, 1, seeds))
    return np.round((0.9 + shared + rng.normal(0.0, 0.01, (RUNS, variants, seeds))) * steps) / steps


def binomial_accuracies(rng: np.random.Generator, variants: int, seeds: int, images: int, truth: float) -> np.ndarray:
    """(runs, variants, seeds): equal networks that differ by which validation images they happen to get right."""
    return rng.binomial(images, truth, (RUNS, variants, seeds)) / images


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_a_scheme_under_two_names_rarely_differs(seeds: int) -> None:
    accuracies = normal_accuracies(np.random.default_rng(1), 2, seeds)
    found = paired_test(accuracies[:, 1] - accuracies[:, 0], resolution=1 / 269)
    assert np.mean(found.p < ALPHA) <= MOST
    assert np.mean((found.low > 0) | (found.high < 0)) <= MOST


@pytest.mark.parametrize(("images", "truth"), [(269, 0.9), (269, 0.985), (100, 0.99), (10_000, 0.8)])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_validation_noise_alone_rarely_differs(images: int, truth: float, seeds: int) -> None:
    accuracies = binomial_accuracies(np.random.default_rng(2), 2, seeds, images, truth)
    assert np.mean(paired_test(accuracies[:, 1] - accuracies[:, 0], resolution=1 / images).p < ALPHA) <= MOST


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("noise", ["normal", "binomial"])
def test_five_equal_schemes_rarely_differ_anywhere(seeds: int, noise: str) -> None:
    rng = np.random.default_rng(3)
    accuracies = normal_accuracies(rng, 5, seeds) if noise == "normal" else binomial_accuracies(rng, 5, seeds, 269, 0.9)
    p = paired_test(accuracies[:, :4] - accuracies[:, 4:], resolution=1 / 269).p
    assert p.shape == (RUNS, 4)
    assert np.mean(holm(p).min(axis=-1) < ALPHA) <= MOST
    assert np.mean(p.min(axis=-1) < ALPHA) > MOST  # what the correction is for


@pytest.mark.parametrize("effect", [0.5, 1.0, 2.0])
def test_a_planted_effect_is_found_as_often_as_stated(effect: float) -> None:
    seeds = seeds_needed(effect, 1.0)
    assert seeds is not None
    differences = np.random.default_rng(4).normal(effect, 1.0, (RUNS, seeds))
    rate = np.mean(paired_test(differences).p < ALPHA)
    stated = power_of(effect, seeds)
    assert stated >= 0.8
    assert rate == pytest.approx(stated, abs=3 * math.sqrt(0.16 / RUNS))
    assert power_of(effect, seeds - 1) < 0.8


def test_a_planted_effect_among_five_schemes_is_found_as_often_as_stated() -> None:
    seeds = seeds_needed(1.0, 1.0, ALPHA / 4)
    assert seeds is not None
    differences = np.random.default_rng(5).normal(0.0, 1.0, (RUNS, 4, seeds))
    differences[:, 0] += 1.0
    found = holm(paired_test(differences).p)[:, 0] < ALPHA
    assert np.mean(found) >= 0.8 - 2 * math.sqrt(0.16 / RUNS)


def test_power_and_correction_are_statsmodels() -> None:
    """statsmodels 0.15.0: TTestPower().power, .solve_power and multipletests(method='holm')."""
    published = {
        (0.5, 10, 0.05): 0.2931756,
        (1.0, 5, 0.0125): 0.1531794,
        (2.0, 3, 0.05): 0.4707494,
        (0.2, 200, 0.05): 0.8036666,
        (0.8, 15, 0.0125): 0.6004270,
    }
    for (effect, n, alpha), power in published.items():
        assert power_of(effect, n, alpha) == pytest.approx(power, abs=1e-5)
    assert [seeds_needed(0.5, 1), seeds_needed(1, 1, 0.0125), seeds_needed(0.2, 1)] == [34, 15, 199]
    assert detectable_difference(1.0, 5) == pytest.approx(1.6819970, rel=1e-5)
    assert detectable_difference(0.02, 10, 0.0125) == pytest.approx(0.02 * 1.2842966, rel=1e-5)
    assert holm([0.012, 0.2, 0.04, 0.011]).tolist() == pytest.approx([0.044, 0.2, 0.08, 0.044])
    assert holm([0.5, 0.9, 0.3, 0.6]).tolist() == [1.0, 1.0, 1.0, 1.0]


def test_equal_differences_are_not_taken_for_certainty() -> None:
    one_image = 1 / 200
    found = paired_test([one_image, one_image], resolution=one_image)
    assert found.p > ALPHA
    assert found.low < 0 < found.high
    unknown = paired_test([0.01, 0.01, 0.01])
    assert (float(unknown.p), float(unknown.low), float(unknown.high)) == (1.0, -math.inf, math.inf)


def test_a_difference_of_nothing_is_never_settled() -> None:
    assert seeds_needed(0.0, 0.01) is None
    assert seeds_needed(0.0001, 0.01) is None
    assert math.isfinite(detectable_difference(0.01, 2, ALPHA / 4))


def test_one_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 pairs, got 1"):
        paired_test([0.1])
