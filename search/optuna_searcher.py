"""Optuna's samplers behind the session.

The ledger is what lasts; Optuna is shown trials as it needs them. The sampler is built anew for every ask, with a seed
made from the study's seed and the trial's number, so that a resumed search proposes what an unbroken one would have.

Asking must not grow slow with the study (ten thousand finished trials are within reach of a small space), so a sampler
sees part of it. TPE and GP see the best and the latest trials (``search.window``): TPE's time grows with what it sees,
GP's with its cube; GP is ours (``search.gaussian_process``), since Optuna's takes seconds. The genetic samplers see
their last two generations and the parents, which is all that they use; without that, Optuna goes through every trial
for each generation. What is seen follows from the ledger alone.
"""

from __future__ import annotations

import copy
import datetime
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseGASampler, BaseSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from crossvit_core.config import ArchConfig
from results.records import Asked, Finished
from search.gaussian_process import GaussianProcess
from search.objectives import Objective
from search.samplers import GENETIC, NOT_SHOWN, SAMPLERS, VIEWS, check_sampler, quiet
from search.searcher import Proposal
from search.start import enumerate_vectors, start_vectors
from search.trial import derive_seed
from search.window import Family, Window
from space import Space, Vector

START = "start"

_GENERATION = ":generation"
_STUDY = "study"

# What an outcome means to a sampler: the architecture was bad (PRUNED), or it is not to blame (FAIL, ignored).
_STATES = {
    "ok": TrialState.COMPLETE,
    # Not its forecast as a result: TPE finds no more with it, and the study would hold what nobody measured. Not
    # nothing at all: TPE comes back to what was stopped, and finds less (benchmarks/early_stopping.py --told).
    "stopped": TrialState.PRUNED,
    "infeasible": TrialState.PRUNED,
    "failed": TrialState.PRUNED,
    "lost": TrialState.FAIL,
}

_DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
_EPOCH = datetime.datetime(1970, 1, 1)


class OptunaSearcher:
    """Proposals of an Optuna sampler, each brought to the nearest feasible architecture that was not tried.

    The first proposals are a start stratified by FLOPs; ``trials`` is the budget that the lengths of the start and of
    a generation follow from. Raises ValueError for a sampler that is unknown or cannot search this space.
    """

    def __init__(self, space: Space, objectives: Sequence[Objective], *, sampler: str, trials: int, seed: int) -> None:
        check_sampler(sampler, space)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = space
        self._objectives = tuple(objectives)
        self._sampler_name = sampler
        self._trials = trials
        self._seed = seed
        self._num_start = 0 if sampler == "brute_force" else max(4, min(trials // 5, 40))
        self._num_proposed = 0
        self._start: list[Vector] = []
        self._enumeration: Iterator[Vector] | None = None
        self._process = GaussianProcess(space) if sampler == "gp" else None
        self._tried: list[_Tried] = []
        self._running: set[int] = set()
        self._distributions = {d.path: _distribution(d.ordered, len(d.choices)) for d in space.dimensions}
        self._storage = _Shown()
        self._storage.create_new_study([_DIRECTIONS[objective.direction] for objective in self._objectives], _STUDY)
        self._built: dict[int, FrozenTrial] = {}
        view = VIEWS.get(sampler, NOT_SHOWN)
        self._sees_bad_trials = view.bad_trials
        self._window = Window(view.size, len(self._objectives))
        self._family = Family()

    def ask(self, number: int, taken: Container[str]) -> Proposal | None:
        """See ``Searcher.ask``. Raises nothing for an exhausted space: it returns None."""
        if number != len(self._tried):
            raise RuntimeError(f"asked for trial {number} of a study that is at {len(self._tried)}")
        trial = _frozen(number)
        with quiet():
            generation = self._enter_generation(trial)
            source, wish = self._wish(trial, taken)
        rng = np.random.default_rng(derive_seed(self._seed, number, "repair"))
        vector = None if wish is None else self._space.nearest_vector(wish, rng, lambda v: self._is_new(v, taken))
        if vector is None:
            return None
        arch = self._space.decode(vector)
        self._num_proposed += 1
        self._enter(_Tried(arch.to_dict(), generation, trial.system_attrs))
        return Proposal(arch, source, dict(trial.system_attrs))

    def restore(self, asked: Asked) -> None:
        """See ``Searcher.restore``."""
        trial = _frozen(asked.trial, hints=asked.hints)
        with quiet():
            generation = self._enter_generation(trial)
        self._num_proposed += asked.source in (START, self._sampler_name)
        self._enter(_Tried(asked.arch, generation, trial.system_attrs))

    def tell(self, finished: Finished) -> None:
        """See ``Searcher.tell``. A trial without a finite value of every objective counts as a bad architecture."""
        tried = self._tried[finished.trial]
        told = [objective.value(finished.metrics) for objective in self._objectives]
        values = [value for value in told if value is not None]
        state = _STATES[finished.status]
        if state == TrialState.COMPLETE and len(values) < len(told):
            state = TrialState.PRUNED
        tried.state = state
        tried.values = values if state == TrialState.COMPLETE else None
        self._running.discard(finished.trial)
        self._built.pop(finished.trial, None)
        if state == TrialState.COMPLETE:
            self._window.add(finished.trial, self._minimised(values))
            if self._sampler_name in GENETIC:
                self._family.add(finished.trial, tried.generation)
        elif state == TrialState.PRUNED and self._sees_bad_trials:
            self._window.add(finished.trial, None)

    def _enter(self, tried: _Tried) -> None:
        self._running.add(len(self._tried))
        self._tried.append(tried)

    def _is_new(self, vector: Vector, taken: Container[str]) -> bool:
        return self._space.key(vector) not in taken

    def _minimised(self, values: Sequence[float]) -> list[float]:
        return [-v if o.direction == "max" else v for v, o in zip(values, self._objectives)]

    # What to try ------------------------------------------------------------------------------------------------------

    def _wish(self, trial: FrozenTrial, taken: Container[str]) -> tuple[str, Vector | None]:
        """Who proposes, and what; None when nothing is left."""
        if self._sampler_name == "brute_force":
            return self._sampler_name, self._next_enumerated(taken)
        if self._num_proposed < self._num_start:
            self._start = self._start or start_vectors(self._space, self._seed, self._num_start)
            return START, self._start[self._num_proposed]
        if self._process is not None:
            return self._sampler_name, self._model(self._process, trial.number)
        return self._sampler_name, self._sample(trial)

    def _next_enumerated(self, taken: Container[str]) -> Vector | None:
        if self._enumeration is None:
            self._enumeration = iter(enumerate_vectors(self._space, self._seed))
        return next((vector for vector in self._enumeration if self._is_new(vector, taken)), None)

    def _sample(self, trial: FrozenTrial) -> Vector:
        """What the sampler wishes for, feasible or not."""
        sampler, study = self._make_sampler(trial.number), self._show()
        sampler.before_trial(study, trial)
        joint = sampler.infer_relative_search_space(study, trial)
        wish = sampler.sample_relative(study, trial, joint)
        for path, distribution in self._distributions.items():
            if path not in wish:
                wish[path] = sampler.sample_independent(study, trial, path, distribution)
        return tuple(int(wish[dimension.path]) for dimension in self._space.dimensions)

    def _model(self, process: GaussianProcess, number: int) -> Vector:
        rng, seen = np.random.default_rng(derive_seed(self._seed, number)), self._window.members()
        told = [self._tried[member].values for member in seen]
        points = np.array([self._minimised(values) for values in told if values is not None])
        running = [self._vector(member) for member in sorted(self._running)]
        return process.propose([self._vector(member) for member in seen], points, running, rng)

    def _make_sampler(self, *purpose: object) -> BaseSampler:
        return SAMPLERS[self._sampler_name](derive_seed(self._seed, *purpose), self._trials)

    # What the sampler sees --------------------------------------------------------------------------------------------

    def _show(self) -> optuna.Study:
        """A study that holds what the sampler is to see, and no more. Built anew: Optuna's own keeps what it read."""
        numbers = {*self._window.members(), *self._family.shown(), *self._running}
        self._built = {number: self._built.get(number) or self._build(number) for number in sorted(numbers)}
        self._storage.shown = list(self._built.values())
        return optuna.study.Study(_STUDY, self._storage, sampler=optuna.samplers.RandomSampler())

    def _build(self, number: int) -> FrozenTrial:
        """The trial with the parameters that were really tried, whatever the sampler had wished for."""
        tried, vector = self._tried[number], self._vector(number)
        params = {self._space.dimensions[i].path: vector[i] for i in self._space.active_dimensions(vector)}
        return _frozen(number, tried, params, {path: self._distributions[path] for path in params}, tried.hints)

    def _vector(self, number: int) -> Vector:
        tried = self._tried[number]
        tried.vector = tried.vector or self._space.encode(ArchConfig.from_dict(tried.arch))
        return tried.vector

    def _enter_generation(self, trial: FrozenTrial) -> int:
        """Enter the trial in its generation, and have Optuna keep the parents of every new one.

        Left alone, Optuna picks parents with the random stream of whichever trial comes first, and orders them
        otherwise at the first look than later: a resumed search would breed other children. So each generation's
        parents are picked when its first trial is asked, by a sampler seeded for that generation.
        """
        if self._sampler_name not in GENETIC:
            return 0
        self._storage.asked = trial
        if not trial.system_attrs:
            self._make_genetic(trial.number).get_trial_generation(self._show(), trial)
        generation = int(next(iter(trial.system_attrs.values())))
        while self._family.youngest < generation:
            new = self._family.youngest + 1
            parents = self._make_genetic("generation", new).get_parent_population(self._show(), new)
            self._family.found([parent.number for parent in parents])
        return generation

    def _make_genetic(self, *purpose: object) -> BaseGASampler:
        sampler = self._make_sampler(*purpose)
        assert isinstance(sampler, BaseGASampler)
        return sampler


@dataclass
class _Tried:
    """A trial as far as samplers care. ``hints`` are Optuna's notes on it."""

    arch: dict[str, Any]
    generation: int
    hints: dict[str, Any]
    state: TrialState = TrialState.RUNNING
    values: list[float] | None = None
    vector: Vector | None = None


class _Shown(InMemoryStorage):
    """What a sampler reads: the trials it is shown. Of what it writes, generations are kept, on the trial asked for.

    TPE and GP also note what they wished for, and would read it back while the trial runs: but another architecture
    may have been tried, and a resumed search has no such note.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[FrozenTrial] = []
        self.asked: FrozenTrial | None = None

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = [trial for trial in self.shown if states is None or trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        if key.endswith(_GENERATION) and self.asked is not None:
            self.asked.system_attrs[key] = value


def _frozen(
    number: int,
    tried: _Tried | None = None,
    params: dict[str, Any] | None = None,
    distributions: dict[str, BaseDistribution] | None = None,
    hints: dict[str, Any] | None = None,
) -> FrozenTrial:
    state = tried.state if tried else TrialState.RUNNING
    return FrozenTrial(
        number=number,
        trial_id=number,
        state=state,
        value=None,
        values=tried.values if tried else None,
        params=params or {},
        distributions=distributions or {},
        user_attrs={},
        system_attrs={key: value for key, value in (hints or {}).items() if key.endswith(_GENERATION)},
        intermediate_values={},
        datetime_start=_EPOCH,
        datetime_complete=_EPOCH if state.is_finished() else None,
    )


def _distribution(ordered: bool, num_choices: int) -> BaseDistribution:
    """Choices by index: an integer where neighbours are alike, a category where they are not."""
    return IntDistribution(0, num_choices - 1) if ordered else CategoricalDistribution(tuple(range(num_choices)))
