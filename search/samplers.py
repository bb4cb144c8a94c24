"""The samplers by name: Optuna's, set up for a search over architectures with several objectives."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import optuna
from optuna.samplers import BaseSampler

from crossvit_core.config import suggest
from space import Space
from space.space import MAX_ENUMERABLE

_GENETIC_POPULATION = (8, 24)


class View(NamedTuple):
    """How many finished trials a sampler is shown, and whether it learns from those without a result."""

    size: int
    bad_trials: bool = False


def check_sampler(name: str, space: Space) -> None:
    """Raise ValueError for a sampler that is unknown or cannot search this space."""
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}; {suggest(name, SAMPLERS)}")
    if name == "brute_force" and not space.is_enumerable:
        raise ValueError(
            f"sampler 'brute_force' tries every architecture; space {space.name!r} has {space.size():,}, "
            f"more than {MAX_ENUMERABLE:,}: use another sampler, or narrow the space"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Optuna marks stable parts of its interface as experimental; the warnings are for its developers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _population(trials: int) -> int:
    """Some six generations in the budget; Optuna's default of 50 is a random search for a hundred trials."""
    low, high = _GENETIC_POPULATION
    return max(low, min(high, trials // 6))


def _tpe(seed: int, trials: int) -> BaseSampler:
    return optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True, n_startup_trials=4, seed=seed)


def _nsga2(seed: int, trials: int) -> BaseSampler:
    return optuna.samplers.NSGAIISampler(population_size=_population(trials), seed=seed)


def _nsga3(seed: int, trials: int) -> BaseSampler:
    return optuna.samplers.NSGAIIISampler(population_size=_population(trials), seed=seed)


def _random(seed: int, trials: int) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


NOT_SHOWN = View(0)

VIEWS: dict[str, View] = {"tpe": View(500, bad_trials=True), "gp": View(64)}

GENETIC = ("nsga2", "nsga3")

SAMPLERS: dict[str, Callable[[int, int], BaseSampler]] = {
    "tpe": _tpe,
    "nsga2": _nsga2,
    "nsga3": _nsga3,
    "gp": _random,  # never asked: search.gaussian_process proposes
    "random": _random,
    "brute_force": _random,  # never asked: the searcher enumerates
}
