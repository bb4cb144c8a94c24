"""Optuna as it comes, to race against: no repair of infeasible proposals, no guard against duplicates.

The same parameters and objectives as ours, one sampler for the whole study, its defaults. A proposal over the limit is
told as Optuna has it: a constraint on the trial, which is pruned without being trained. A duplicate is trained again.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import sys
import warnings
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from crossvit_core.cost import count_cost
from results.records import Asked, Event, Finished, Rung
from search.objectives import Objective
from search.searcher import Proposal
from search.stopping import Verdict
from space import Space

_DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}

HUB_PRUNER = "package/pruners/multi_metric_pruner"


class PlainOptuna:
    """A ``Searcher`` that hands on what Optuna proposes, whatever it is."""

    def __init__(
        self,
        space: Space,
        objectives: Sequence[Objective],
        sampler: BaseSampler,
        max_macs: float,
        pruner: BasePruner | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = space
        self._objectives = tuple(objectives)
        self._max_macs = max_macs
        self._distributions = {d.path: _distribution(d.ordered, len(d.choices)) for d in space.dimensions}
        directions = [_DIRECTIONS[objective.direction] for objective in self._objectives]
        with _quiet():
            self.study = optuna.create_study(directions=directions, sampler=sampler, pruner=pruner)
        self.trials: list[optuna.Trial] = []

    def ask(self, number: int, taken: Container[str]) -> Proposal | None:
        """See ``Searcher.ask``, but for what it promises: the proposal may be infeasible or taken."""
        with _quiet():
            trial = self.study.ask(self._distributions)
            vector = self._space.canonical(tuple(trial.params[d.path] for d in self._space.dimensions))
            arch = self._space.decode(vector)
            trial.set_constraint("macs", math.log(count_cost(arch).macs / self._max_macs))
        self.trials.append(trial)
        return Proposal(arch, "optuna")

    def restore(self, asked: Asked) -> None:
        raise NotImplementedError("a race is run in one go")

    def tell(self, finished: Finished) -> None:
        """See ``Searcher.tell``."""
        told = [objective.value(finished.metrics) for objective in self._objectives]
        values = [value for value in told if value is not None]
        complete = finished.status == "ok" and len(values) == len(told)
        with _quiet():
            if complete:
                self.study.tell(finished.trial, values)
            else:
                self.study.tell(finished.trial, state=TrialState.PRUNED)


class HubPruning:
    """OptunaHub's multi-metric pruner as a stopping rule over the trials of a ``PlainOptuna`` study.

    It ranks (accuracy, multiply-adds) of all trials at a rung by domination and lets a median pruner cut by rank.
    """

    compares: ClassVar[tuple[type, ...]] = ()

    def __init__(self, searcher: PlainOptuna, hub: ModuleType) -> None:
        self._searcher = searcher
        self._hub = hub

    def observe(self, event: Event) -> None:
        """Nothing: the study holds what the pruner looks at."""

    def decide(self, rung: Rung) -> Verdict:
        """Whether the trial goes on past this rung."""
        trial = self._searcher.trials[rung.trial]
        cost = math.exp(trial.constraints["macs"])
        with _quiet():
            watched = self._hub.MultiMetricPrunerTrial(trial)
            watched.report({"val_accuracy": rung.metrics["val_accuracy"], "macs": cost}, rung.epoch)
            return Verdict("stop" if watched.should_prune() else "continue")


def load_hub_pruner(registry: Path) -> ModuleType | None:
    """The pruner's package from a local checkout of OptunaHub's registry; None if it is not there."""
    init = registry / HUB_PRUNER / "__init__.py"
    if not init.is_file():
        return None
    spec = importlib.util.spec_from_file_location(
        "multi_metric_pruner", init, submodule_search_locations=[str(init.parent)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def median_hub_pruner(hub: ModuleType) -> BasePruner:
    """The pruner on Optuna's median pruner with its defaults, accuracy and multiply-adds taken jointly."""
    directions = {"val_accuracy": "maximize", "macs": "minimize"}
    return hub.MultiMetricPruner(optuna.pruners.MedianPruner(), metric_directions=directions, joint=True)


def _distribution(ordered: bool, num_choices: int) -> BaseDistribution:
    """As our own searcher describes the choices to Optuna."""
    return IntDistribution(0, num_choices - 1) if ordered else CategoricalDistribution(tuple(range(num_choices)))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Optuna marks parts of its interface as experimental; the warnings are for its developers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


PLAIN_SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "nsga2_50": lambda seed: optuna.samplers.NSGAIISampler(population_size=50, seed=seed),
    "nsga2_12": lambda seed: optuna.samplers.NSGAIISampler(population_size=12, seed=seed),
}
