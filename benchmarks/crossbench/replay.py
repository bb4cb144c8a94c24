"""Replay of a table through the same session, searchers and stopping rules as a real search, on a simulated clock.

    outcome = simulate(Replay(Table.load(), seed=0), searcher, trials=100, seed=0)
    outcome.events      # the ledger, its times in simulated seconds

A trial takes the CPU seconds that its training took when the table was made; one that is stopped, the part up to then.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.crossbench.table import CURVES, Table, Training
from crossvit_core.cost import count_cost
from crossvit_core.recipe import TrainRecipe
from results.records import Event, Finished, Rung
from results.store import StudyStore
from search.outcomes import make_outcome, stopped_outcome
from search.plan import Plan
from search.searcher import Searcher
from search.session import Session
from search.stopping import StoppingRule
from search.trial import Trial

_DEVICE = "simulated"
_TIMES = ("train_seconds", "train_cpu_seconds")


class Replay:
    """An ``Evaluate`` that tells what one seed of the table says.

    An architecture of more than ``max_macs`` multiply-adds, or one that the table lacks, is ``infeasible`` at no cost.
    """

    def __init__(self, table: Table, seed: int, max_macs: float | None = None) -> None:
        self._table = table
        self._seed = seed
        self._max_macs = float(max_macs if max_macs is not None else table.provenance["max_macs"])

    @property
    def plan(self) -> Plan:
        """The plan that the table was made by."""
        about = self._table.provenance
        return Plan(TrainRecipe.from_dict(about["recipe"]), Path("unused"), None, rungs=tuple(about["rungs"]))

    def __call__(self, trial: Trial, plan: Plan) -> Iterator[Rung | Finished]:
        """See ``search.executors.base.Evaluate``."""
        training = self._find(trial)
        if training is None:
            yield _infeasible(trial)
            return
        for epoch in plan.rungs:
            if epoch <= training.epochs:
                yield Rung(trial=trial.number, epoch=epoch, metrics=_known_at(training, epoch), decision="continue")
        yield _finished(trial, training)

    def seconds_until(self, trial: Trial, event: Rung | Finished) -> float:
        """Seconds from the start of a trial to one of its events."""
        training = self._find(trial)
        if training is None:
            return 0.0
        return training.seconds_until(event.epoch if isinstance(event, Rung) else training.epochs)

    def _find(self, trial: Trial) -> Training | None:
        training = self._table.training(trial.arch_key, self._seed)
        return None if training is None or training.metrics["macs"] > self._max_macs else training


class SimulatedClock:
    """A session's clock that an executor sets: seconds since the start of the search."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass(order=True)
class _Running:
    """A trial under way, ordered by when its next event is due; ties by who came first."""

    due_s: float
    order: int
    start_s: float = field(compare=False)
    trial: Trial = field(compare=False)
    event: Rung | Finished = field(compare=False)
    later: Iterator[Rung | Finished] = field(compare=False)


class SimulatedExecutor:
    """``workers`` trials at a time on a simulated clock: the session hears of events in the order they are due."""

    def __init__(self, workers: int, replay: Replay, clock: SimulatedClock) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self._workers = workers
        self._replay = replay
        self._clock = clock

    def run(self, session: Session, plan: Plan) -> None:
        """See ``search.executors.base.Executor``."""
        running: list[_Running] = []
        order = itertools.count()
        while True:
            while len(running) < self._workers and (trial := session.next_trial()) is not None:
                later = self._replay(trial, plan)
                self._push(running, _Running(0.0, next(order), self._clock.now_s, trial, next(later), later))
            if not running:
                return
            self._advance(session, running, order)

    def _advance(self, session: Session, running: list[_Running], order: Iterator[int]) -> None:
        """Bring the next event that is due to the session."""
        current = heapq.heappop(running)
        self._clock.now_s = current.due_s
        event, trial = current.event, current.trial
        if isinstance(event, Finished):
            session.record(event)
        elif session.report(event) == "stop":
            seconds = round(current.due_s - current.start_s, 3)
            session.record(stopped_outcome(trial, event, seconds, _DEVICE))
        else:
            self._push(running, _Running(0.0, next(order), current.start_s, trial, next(current.later), current.later))

    def _push(self, running: list[_Running], entry: _Running) -> None:
        entry.due_s = entry.start_s + self._replay.seconds_until(entry.trial, entry.event)
        heapq.heappush(running, entry)


class MemoryStore(StudyStore):
    """A store that keeps its events in memory: thousands of replays write nothing and wait for no disk."""

    def __init__(self, study: dict[str, Any] | None = None) -> None:
        super().__init__(Path("in-memory"), None)
        self._files: dict[str, Any] = {"study.json": study or {}}
        self._events: list[Event] = []

    @property
    def study(self) -> dict[str, Any]:
        return dict(self._files["study.json"])

    def write_json(self, name: str, data: Any) -> None:
        self._files[name] = data

    def append(self, event: Event) -> None:
        self._events.append(event)

    def events(self) -> Iterator[Event]:
        return iter(list(self._events))


@dataclass(frozen=True)
class Outcome:
    """A replayed search: its ledger, and why it ended before its budget ('' if it did not)."""

    events: tuple[Event, ...]
    stop_reason: str

    @property
    def finished(self) -> list[Finished]:
        """How the trials ended, in the order in which they did."""
        return [event for event in self.events if isinstance(event, Finished)]


def simulate(
    replay: Replay,
    searcher: Searcher,
    *,
    trials: int,
    seed: int,
    workers: int = 1,
    stopping: StoppingRule | None = None,
) -> Outcome:
    """Search the table: ``trials`` proposals of ``searcher``, stopped by the rule ``stopping`` if there is one."""
    clock, store = SimulatedClock(), MemoryStore()
    session = Session(store, searcher, trials=trials, seed=seed, stopping=stopping, clock=clock)
    SimulatedExecutor(workers, replay, clock).run(session, replay.plan)
    session.end()
    return Outcome(tuple(store.events()), session.stop_reason)


def _known_at(training: Training, epoch: int) -> dict[str, float]:
    """What was counted and measured before the training, its share of the time, and its scores so far."""
    before = {name: value for name, value in training.metrics.items() if name not in (*CURVES, "epochs", *_TIMES)}
    spent = {
        name: round(training.metrics[name] * epoch / training.epochs, 3) for name in _TIMES if name in training.metrics
    }
    return {**before, **{name: training.curves[name][epoch - 1] for name in CURVES}, **spent}


def _finished(trial: Trial, training: Training) -> Finished:
    return make_outcome(
        trial,
        training.status,  # type: ignore[arg-type]
        training.metrics["train_cpu_seconds"],
        training.metrics,
        device=_DEVICE,
        error=training.error,
    )


def _infeasible(trial: Trial) -> Finished:
    cost = count_cost(trial.arch)
    error = f"macs is {cost.macs}, over the limit or not in the table"
    return make_outcome(
        trial, "infeasible", 0.0, {"macs": cost.macs, "params": cost.params}, device=_DEVICE, error=error
    )
