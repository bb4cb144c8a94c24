"""Optuna's samplers behind the session: the only module that imports optuna.

The study lives in memory; the ledger is what lasts. The sampler is built anew for every ask, with a seed made from the
study's seed and the trial's number, so that a resumed search proposes what an unbroken one would have.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from crossvit_core.config import ArchConfig, suggest
from crossvit_core.cost import count_cost
from results.records import Asked, Finished
from search.objectives import Objective
from search.searcher import Proposal
from search.trial import derive_seed
from space import Space, Vector

_START_POOL = 256
_START_REACH = 12
_ENUMERABLE = 20_000
_GENETIC_POPULATION = (8, 24)

# What an outcome means to a sampler: the architecture was bad (PRUNED), or it is not to blame (FAIL, ignored).
_STATES = {
    "ok": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "infeasible": TrialState.PRUNED,
    "failed": TrialState.PRUNED,
    "lost": TrialState.FAIL,
}


_DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}


class OptunaSearcher:
    """Proposals of an Optuna sampler, each brought to the nearest feasible architecture that was not tried.

    The first trials are the ``enqueued`` ones, then a start stratified by FLOPs, then the sampler's.
    """

    def __init__(
        self,
        space: Space,
        objectives: Sequence[Objective],
        *,
        sampler: str,
        trials: int,
        seed: int,
        enqueued: Sequence[tuple[str, ArchConfig]] = (),
    ) -> None:
        if sampler not in SAMPLERS:
            raise ValueError(f"unknown sampler {sampler!r}; {suggest(sampler, SAMPLERS)}")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = space
        self._objectives = tuple(objectives)
        self._sampler_name = sampler
        self._trials = trials
        self._seed = seed
        self._enqueued = tuple(enqueued)
        self._num_start = 0 if sampler == "brute_force" else max(4, min(trials // 5, 40))
        if sampler == "brute_force" and space.size() > _ENUMERABLE:
            raise ValueError(
                f"sampler 'brute_force' tries every architecture; space {space.name!r} has {space.size():,}, "
                f"more than {_ENUMERABLE:,}: use another sampler, or narrow the space"
            )
        self._distributions = {d.path: _distribution(d.ordered, len(d.choices)) for d in space.dimensions}
        directions = [_DIRECTIONS[objective.direction] for objective in self._objectives]
        with _quiet():
            self._study = optuna.create_study(directions=directions, sampler=optuna.samplers.RandomSampler(seed=seed))

    def ask(self, number: int, taken: Container[str]) -> Proposal | None:
        """See ``Searcher.ask``. Raises nothing for an exhausted space: it returns None."""
        if number < len(self._enqueued):
            name, arch = self._enqueued[number]
            if arch.key() not in taken:
                return self._propose(number, taken, f"preset:{name}", self._space.encode(arch))
        if number < len(self._enqueued) + self._num_start:
            vector = self._start_vectors[max(0, number - len(self._enqueued))]
            return self._propose(number, taken, "start", vector)
        vector = self._enumerated[number % len(self._enumerated)] if self._sampler_name == "brute_force" else None
        return self._propose(number, taken, self._sampler_name, vector)

    def restore(self, asked: Asked) -> None:
        """See ``Searcher.restore``."""
        vector = self._space.encode(ArchConfig.from_dict(asked.arch))
        params, distributions = self._params(vector)
        with _quiet():
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.RUNNING, params=params, distributions=distributions, system_attrs=asked.hints
                )
            )

    def tell(self, finished: Finished) -> None:
        """See ``Searcher.tell``. A trial without a finite value of every objective counts as a bad architecture."""
        told = [objective.value(finished.metrics) for objective in self._objectives]
        values = [value for value in told if value is not None]
        state = _STATES[finished.status]
        if state == TrialState.COMPLETE and len(values) < len(told):
            state = TrialState.PRUNED
        with _quiet():
            self._study.tell(finished.trial, values if state == TrialState.COMPLETE else None, state=state)

    def _propose(self, number: int, taken: Container[str], source: str, start: Vector | None) -> Proposal | None:
        rng = np.random.default_rng(derive_seed(self._seed, number, "repair"))

        def make_sampler(*purpose: object) -> BaseSampler:
            parts = (number,) if purpose == ("trial",) else purpose
            with _quiet():
                return SAMPLERS[self._sampler_name](derive_seed(self._seed, *parts), self._trials)

        sampler = _FeasibleSampler(self._space, self._distributions, make_sampler, rng, taken, start)
        self._study.sampler = sampler
        with _quiet():
            trial = self._study.ask()
            if trial.number != number:
                raise RuntimeError(f"asked for trial {number} of a study that is at {trial.number}")
            if not trial.relative_params or sampler.arch is None:
                self._study.tell(trial.number, state=TrialState.FAIL)
                return None
            for path in self._params(sampler.vector)[0]:
                _suggest(trial, path, self._distributions[path])
            hints = dict(self._study.get_trials(deepcopy=False)[number].system_attrs)
        return Proposal(sampler.arch, source, hints if self._sampler_name in _HINTED else {})

    def _params(self, vector: Vector) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
        active = [self._space.dimensions[i].path for i in self._space.active_dimensions(vector)]
        index = {d.path: i for d, i in zip(self._space.dimensions, vector)}
        return {path: index[path] for path in active}, {path: self._distributions[path] for path in active}

    @functools.cached_property
    def _start_vectors(self) -> list[Vector]:
        """A start that is spread over FLOPs and over the choices.

        A random pool is ordered by FLOPs and visited in bisecting order; near each place the member is taken that
        differs in the most dimensions from those taken before.
        """
        rng = np.random.default_rng(derive_seed(self._seed, "start"))
        pool = [self._space.sample_vector(rng) for _ in range(_START_POOL)]
        pool.sort(key=lambda vector: count_cost(self._space.decode(vector)).macs)
        taken: list[Vector] = []
        for index in range(1, self._num_start + 1):
            place = int(_van_der_corput(index) * len(pool))
            nearby = pool[max(0, place - _START_REACH) : place + _START_REACH]
            taken.append(max(nearby, key=lambda vector: min((_distance(vector, t) for t in taken), default=0)))
        return taken

    @functools.cached_property
    def _enumerated(self) -> list[Vector]:
        """Every feasible vector, in an order that the seed decides: what is done of it is a random sample at any time."""
        vectors = list(self._space.vectors())
        rng = np.random.default_rng(derive_seed(self._seed, "enumeration"))
        return [vectors[i] for i in rng.permutation(len(vectors))]


class _FeasibleSampler(BaseSampler):
    """Lets a sampler propose, then moves to the nearest feasible architecture that is not taken.

    Optuna's own trial then holds the parameters that are really tried, and the sampler learns from those.
    """

    def __init__(
        self,
        space: Space,
        distributions: dict[str, BaseDistribution],
        make_sampler: Callable[..., BaseSampler],
        rng: np.random.Generator,
        taken: Container[str],
        start: Vector | None,
    ) -> None:
        self._space = space
        self._distributions = distributions
        self._make_sampler = make_sampler
        self._inner = make_sampler("trial")
        self._rng = rng
        self._taken = taken
        self._start = start
        self.vector: Vector = ()
        self.arch: ArchConfig | None = None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._prime_generations(study, trial)
        vector = self._start if self._start is not None else self._sample(study, trial)
        self.arch = self._space.nearest(vector, self._rng, lambda arch: arch.key() not in self._taken)
        if self.arch is None:
            return {}
        self.vector = self._space.encode(self.arch)
        return {d.path: index for d, index in zip(self._space.dimensions, self.vector)}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._inner.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._inner.after_trial(study, trial, state, values)

    def _prime_generations(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Enter the trial in its generation, and have Optuna keep the parents of every generation so far.

        Left alone, Optuna picks parents with the random stream of whichever trial comes first, and orders them
        otherwise at the first look than later: a resumed search would breed other children. So each generation's
        parents are picked here, in order, by a sampler seeded for that generation.
        """
        if isinstance(self._inner, optuna.samplers.BaseGASampler):
            for generation in range(1, self._inner.get_trial_generation(study, trial) + 1):
                primer = self._make_sampler("generation", generation)
                assert isinstance(primer, optuna.samplers.BaseGASampler)
                primer.get_parent_population(study, generation)

    def _sample(self, study: optuna.Study, trial: FrozenTrial) -> Vector:
        inner_space = self._inner.infer_relative_search_space(study, trial)
        proposed = self._inner.sample_relative(study, trial, inner_space)
        for path, distribution in self._distributions.items():
            if path not in proposed:
                proposed[path] = self._inner.sample_independent(study, trial, path, distribution)
        return tuple(int(proposed[d.path]) for d in self._space.dimensions)


def _distribution(ordered: bool, num_choices: int) -> BaseDistribution:
    """Choices by index: an integer where neighbours are alike, a category where they are not."""
    return IntDistribution(0, num_choices - 1) if ordered else CategoricalDistribution(tuple(range(num_choices)))


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> None:
    if isinstance(distribution, IntDistribution):
        trial.suggest_int(name, distribution.low, distribution.high)
    else:
        assert isinstance(distribution, CategoricalDistribution)
        trial.suggest_categorical(name, distribution.choices)


def _distance(a: Vector, b: Vector) -> int:
    """Number of dimensions in which two architectures differ."""
    return sum(x != y for x, y in zip(a, b))


def _van_der_corput(index: int) -> float:
    """The index's binary digits mirrored at the point: 1/2, 1/4, 3/4, 1/8, ..."""
    value, scale = 0.0, 0.5
    while index:
        value += scale * (index & 1)
        index >>= 1
        scale /= 2
    return value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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


def _gp(seed: int, trials: int) -> BaseSampler:
    return optuna.samplers.GPSampler(n_startup_trials=4, seed=seed)


def _random(seed: int, trials: int) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


# Samplers that keep, with a trial, what cannot be derived from its parameters.
_HINTED = ("nsga2", "nsga3")

SAMPLERS: dict[str, Callable[[int, int], BaseSampler]] = {
    "tpe": _tpe,
    "nsga2": _nsga2,
    "nsga3": _nsga3,
    "gp": _gp,
    "random": _random,
    "brute_force": _random,  # for what Optuna asks of a sampler besides proposals
}
