"""One search method against the table: which are raced, how one is run, and how a run is scored."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.crossbench.plain_optuna import (
    PLAIN_SAMPLERS,
    HubPruning,
    PlainOptuna,
    load_hub_pruner,
    median_hub_pruner,
)
from benchmarks.crossbench.replay import Replay, simulate
from benchmarks.crossbench.table import SIZES, Table, Truth
from results.pareto import Array
from search.objectives import Objective, find_objectives
from search.optuna_searcher import SAMPLERS, OptunaSearcher
from search.searcher import Searcher
from search.stopping import Stopping, StoppingRule, make_rule
from space import Space, load_space
from space.limits import Limit

COSTS = ("macs",)

# The budget that our searchers are told: it sets the length of their start and the size of a population.
PLANNED_TRIALS = 100


class MethodUnavailableError(Exception):
    """A method that cannot be run here; the message says what is missing."""


@dataclass(frozen=True)
class Setting:
    """What is raced on: the table, the networks of at most ``max_macs`` in it, and where the hub's registry lies."""

    table: Table
    max_macs: float
    hub_registry: Path

    @functools.cached_property
    def truth(self) -> Truth:
        return self.table.truth(COSTS, self.max_macs)

    @functools.cached_property
    def space(self) -> Space:
        """The table's space under this limit."""
        file = load_space(self.table.provenance["space"])
        full = file.space.for_data(num_classes=10, in_channels=1)
        return full.within((Limit("macs", None, int(self.max_macs)),))

    @property
    def epochs(self) -> int:
        """Length of a training."""
        return int(self.table.provenance["recipe"]["epochs"])

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return find_objectives(("val_accuracy", *COSTS))


@dataclass(frozen=True)
class Run:
    """A search that is over: for each proposal, in the order they ended, its architecture, status and CPU seconds."""

    method: str
    max_macs: float
    seed: int
    keys: tuple[str, ...]
    statuses: tuple[str, ...]
    seconds: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Run:
        lists = {name: tuple(data[name]) for name in ("keys", "statuses", "seconds")}
        return cls(method=data["method"], max_macs=data["max_macs"], seed=data["seed"], **lists)


@dataclass(frozen=True)
class Score:
    """A run against the truth. ``shares`` (num_evaluations,): the part of the true hypervolume that the networks which
    were trained to the end hold after each evaluation, a training that was begun; ``seconds``: the device-seconds then.

    ``proposed`` counts all proposals; ``over_limit`` and ``duplicates`` are among them. ``met`` and ``killed`` count
    the true front's members that were begun and, of those, that were never trained to the end, by size (``SIZES``).
    """

    shares: Array
    seconds: Array
    completed: int
    stopped: int
    proposed: int
    over_limit: int
    duplicates: int
    met: Array
    killed: Array


def run_method(setting: Setting, method: str, seed: int, trials: int) -> Run:
    """Run one method with one seed. Raises MethodUnavailableError if something that it needs is missing.

    The values that it is told are those of one of the table's seeds, in turn.
    """
    searcher, stopping = METHODS[method](setting, seed)
    told = setting.table.seeds[seed % len(setting.table.seeds)]
    replay = Replay(setting.table, told, setting.max_macs)
    ended = simulate(replay, searcher, trials=trials, seed=seed, stopping=stopping).finished
    return Run(
        method=method,
        max_macs=setting.max_macs,
        seed=seed,
        keys=tuple(event.arch_key for event in ended),
        statuses=tuple(event.status for event in ended),
        seconds=tuple(round(event.seconds, 3) for event in ended),
    )


def score_run(run: Run, truth: Truth) -> Score:
    """Score a run."""
    statuses = np.array(run.statuses)
    begun = statuses != "infeasible"
    keys = np.array(run.keys)[begun]
    complete = statuses[begun] == "ok"
    shares = np.zeros(len(keys))
    shares[complete] = truth.history(keys[complete]) / truth.hypervolume
    front = {truth.keys[i]: truth.tercile[i] for i in np.flatnonzero(truth.on_front)}
    met = [front[key] for key in dict.fromkeys(keys) if key in front]
    killed = [front[key] for key in set(keys) - set(keys[complete]) if key in front]
    return Score(
        shares=np.maximum.accumulate(shares),
        seconds=np.cumsum(np.array(run.seconds)[begun]),
        completed=int(complete.sum()),
        stopped=int((statuses == "stopped").sum()),
        proposed=len(statuses),
        over_limit=int((~begun).sum()),
        duplicates=len(run.keys) - len(set(run.keys)),
        met=np.bincount(np.array(met, dtype=int), minlength=len(SIZES)),
        killed=np.bincount(np.array(killed, dtype=int), minlength=len(SIZES)),
    )


Build = Callable[[Setting, int], tuple[Searcher, StoppingRule | None]]


def _plain(sampler: str) -> Build:
    def build(setting: Setting, seed: int) -> tuple[Searcher, StoppingRule | None]:
        return PlainOptuna(setting.space, setting.objectives, PLAIN_SAMPLERS[sampler](seed), setting.max_macs), None

    return build


def _plain_with_hub(sampler: str) -> Build:
    def build(setting: Setting, seed: int) -> tuple[Searcher, StoppingRule | None]:
        hub = load_hub_pruner(setting.hub_registry)
        if hub is None:
            raise MethodUnavailableError(f"no checkout of OptunaHub's registry at {setting.hub_registry}")
        made, pruner = PLAIN_SAMPLERS[sampler](seed), median_hub_pruner(hub)
        searcher = PlainOptuna(setting.space, setting.objectives, made, setting.max_macs, pruner)
        return searcher, HubPruning(searcher, hub)

    return build


def _ours(sampler: str, rule: str) -> Build:
    def build(setting: Setting, seed: int) -> tuple[Searcher, StoppingRule | None]:
        searcher = OptunaSearcher(setting.space, setting.objectives, sampler=sampler, trials=PLANNED_TRIALS, seed=seed)
        return searcher, make_rule(Stopping(rule=rule), setting.objectives, setting.epochs)

    return build


OURS = tuple(name for name in SAMPLERS if name != "brute_force")
OUR_RULES = ("none", "pareto_rank", "optimistic")

METHODS: dict[str, Build] = {
    **{f"optuna {name}": _plain(name) for name in PLAIN_SAMPLERS},
    **{f"optuna {name} + hub pruner": _plain_with_hub(name) for name in ("random", "tpe")},
    **{f"{name} + asha": _ours(name, "asha") for name in ("random", "tpe")},
    **{f"{name} + {rule}": _ours(name, rule) for name in OURS for rule in OUR_RULES},
}
