"""Every rule of a study, decided once: budget, duplicates, durability, resuming, lost workers.

The session lives in the driving process. Executors pull trials from it and bring back what happened; each decision is
on the disk before anybody acts on it.
"""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Any

from crossvit_core.config import ArchConfig
from results.records import Asked, Decision, Ended, Event, Finished, Rung, Started, Status
from results.store import StudyStore
from search.budget import Budget, Spending
from search.enqueue import Enqueued
from search.outcomes import ran_out_of_memory, worker_seconds
from search.rounds import Rounds
from search.searcher import Proposal, Searcher
from search.stopping import NeverStop, StoppingRule
from search.trial import Trial, derive_seed

Listener = Callable[[Event], None]

MAX_ATTEMPTS = 3
MAX_FAILURES_IN_A_ROW = 8
MAX_FAILED_STARTS_IN_A_ROW = 24


ALL_TRIED = "every architecture of the space has been tried"
NONE_FOUND = "found no architecture that has not been tried"


class StudyFailedError(Exception):
    """The study cannot go on; the message says why and what to do."""


class Session:
    """Hands out trials (``next_trial``), hears of rungs (``report``) and writes down outcomes (``record``).

    Built on a ledger that has events already, it goes on where they end: finished trials are told to the searcher
    again, trials that were running are handed out first, under their old numbers.

    ``enqueued`` architectures are trained once each, before any proposal. ``round_size``: see ``Rounds``.
    ``exhausted`` is the reason to end with when the searcher proposes nothing more.
    """

    def __init__(
        self,
        store: StudyStore,
        searcher: Searcher,
        *,
        trials: int,
        seed: int,
        stopping: StoppingRule | None = None,
        spending: Spending | None = None,
        enqueued: Iterable[Enqueued] = (),
        round_size: int = 0,
        listeners: Iterable[Listener] = (),
        exhausted: str = ALL_TRIED,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._searcher = searcher
        self._trials = trials
        self._seed = seed
        self._stopping = stopping or NeverStop()
        self._spending = spending or Spending(Budget())
        self._rounds = Rounds(round_size, self._tell, self._stopping)
        self._listeners: tuple[Listener, ...] = ()
        self._exhausted = exhausted
        self._clock = clock
        self._asked: dict[int, Asked] = {}
        self._taken: set[str] = set()
        self._finished: dict[int, Finished] = {}
        self._rungs: dict[tuple[int, int], Rung] = {}
        self._attempts: dict[int, int] = {}
        self._running: set[int] = set()
        self._losses: dict[int, int] = {}
        self._lost_seconds: dict[int, float] = defaultdict(float)
        self._alone: set[int] = set()
        self._failures_in_a_row = 0
        self._failed_starts_in_a_row = 0
        self._begun = False
        self._end_on_record = ""
        self.stop_reason = ""
        self._replay()
        self._settle_stopped()
        self._enqueued = deque(sorted(enqueued, key=lambda item: not item.required))
        self._waiting = deque(number for number in self._asked if number not in self._finished)
        self.listen(listeners)
        self._note_spent()

    def listen(self, listeners: Iterable[Listener]) -> None:
        """These hear of every event from here on, too."""
        self._listeners += tuple(listeners)

    @property
    def trials(self) -> int:
        """How many trials the study is to have in all: its budget, and what is enqueued beyond that."""
        pending = {item.arch.key() for item in self._enqueued if item.required} - self._taken
        return max(self._trials, len(self._asked) + len(pending))

    @property
    def outcomes(self) -> list[Finished]:
        """How the trials that are over ended, by number."""
        return [self._finished[number] for number in sorted(self._finished)]

    @property
    def running(self) -> frozenset[int]:
        """Numbers of the trials that were handed out and have not come back."""
        return frozenset(self._running)

    def next_trial(self) -> Trial | None:
        """The next piece of work; None when nothing is to be handed out now (``is_over`` says whether for good)."""
        if self._waiting:
            return self._hand_out(self._waiting.popleft())
        asked = self._ask_next() if self._rounds.may_ask() else None
        return None if asked is None else self._hand_out(asked.trial)

    def is_over(self) -> bool:
        """Whether no trial is running and none will be handed out."""
        spent = self._is_spent() and self._next_enqueued() is None
        return spent and not self._waiting and not self._running

    @property
    def study(self) -> dict[str, Any]:
        """What its study.json says."""
        return self._store.study

    def end(self, reason: str = "") -> None:
        """Write down why the study ended, if it is over or a ``reason`` is given, and if that is not on record yet."""
        if not reason and not self.is_over():
            return
        reason = reason or self.stop_reason or _all_done(self.trials)
        if reason != self._end_on_record:
            self._write(Ended(reason=reason))

    def report(self, rung: Rung) -> Decision:
        """Whether a running trial goes on. A decision that was written down before (a restarted trial) stands."""
        self._failed_starts_in_a_row = 0
        place = (rung.trial, rung.epoch)
        if place not in self._rungs:
            verdict = self._stopping.decide(rung)
            metrics = {**rung.metrics, **verdict.why}
            self._rungs[place] = self._write(dataclasses.replace(rung, metrics=metrics, decision=verdict.decision))
        return self._rungs[place].decision

    def record(self, finished: Finished) -> None:
        """Write down how a trial ended; the searcher is told then. A second outcome of one trial is passed over.

        A trial that ran out of memory is handed out once more first, to have its device to itself.
        """
        self._failed_starts_in_a_row = 0
        self._running.discard(finished.trial)
        if finished.trial in self._finished or self._comes_again_alone(finished):
            return
        if finished.status == "stopped":
            finished = self._with_reasons(finished)
        elif finished.status in ("failed", "lost") and not finished.metrics:
            finished = self._with_last_rung(finished)
        self._finished[finished.trial] = self._write(finished)
        self._watch_failures(finished)

    def record_lost(self, trial: Trial, reason: str, *, started: bool = True, seconds: float = 0.0) -> None:
        """A worker or its machine died under this trial: hand it out again, or give it up after MAX_ATTEMPTS.

        ``started`` is False when the worker had not begun with it, which is not held against the trial. ``seconds`` is
        what the attempt took as far as the driver knows. Raises StudyFailedError once MAX_FAILED_STARTS_IN_A_ROW
        workers have not come so far as to begin.
        """
        self._running.discard(trial.number)
        if trial.number in self._finished:
            return
        self._watch_starts(started, reason)
        self._lost_seconds[trial.number] += seconds
        losses = self._losses[trial.number] = self._losses.get(trial.number, 0) + started
        if losses < MAX_ATTEMPTS:
            self._waiting.append(trial.number)
        else:
            error = f"lost {losses} times; last: {reason}"
            self.record(self._outcome(trial.number, "lost", metrics={}, error=error))

    def take_back(self, trial: Trial) -> None:
        """No worker was given this trial: it is handed out next, as if it had not been before."""
        self._running.discard(trial.number)
        self._attempts[trial.number] -= 1
        self._waiting.appendleft(trial.number)

    def hand_back(self, trial: Trial) -> None:
        """All that ran trials is gone, for no fault of this one's or of its worker: it comes again."""
        self._running.discard(trial.number)
        if trial.number not in self._finished:
            self._waiting.append(trial.number)

    def _comes_again_alone(self, finished: Finished) -> bool:
        if not ran_out_of_memory(finished) or finished.trial in self._alone:
            return False
        self._alone.add(finished.trial)
        self._lost_seconds[finished.trial] += finished.seconds
        self._waiting.appendleft(finished.trial)
        return True

    def _outcome(self, number: int, status: Status, metrics: dict[str, float], error: str = "") -> Finished:
        """An outcome that no worker brought."""
        asked = self._asked[number]
        return Finished(
            trial=number,
            status=status,
            arch_key=asked.arch_key,
            arch=asked.arch,
            seed=asked.seed,
            seconds=worker_seconds(metrics),
            device="",
            metrics=metrics,
            error=error,
        )

    def _with_reasons(self, stopped: Finished) -> Finished:
        """A trial that was stopped keeps what its last rung says, and why."""
        rung = self._rungs.get((stopped.trial, int(stopped.metrics.get("epochs", 0))))
        return stopped if rung is None else dataclasses.replace(stopped, metrics={**rung.metrics, **stopped.metrics})

    def _with_last_rung(self, ended: Finished) -> Finished:
        """A trial that no evaluation brought to its end keeps what its last rung says, and what all of it took.

        Attempts under earlier drivers are known from the rung alone, what came after it from the clocks alone.
        """
        own = (rung for rung in self._rungs.values() if rung.trial == ended.trial)
        rung = max(own, key=lambda rung: rung.epoch, default=None)
        metrics = {} if rung is None else {**rung.metrics, "epochs": rung.epoch}
        clocks = self._lost_seconds[ended.trial] + ended.seconds
        seconds = round(max(clocks, worker_seconds(metrics)), 3)
        return dataclasses.replace(ended, metrics=metrics, seconds=seconds)

    def _settle_stopped(self) -> None:
        """Record what was decided when the driver died before it was acted on: no epoch is trained for it again."""
        for rung in list(self._rungs.values()):
            if rung.decision == "stop" and rung.trial not in self._finished:
                self.record(self._outcome(rung.trial, "stopped", metrics={**rung.metrics, "epochs": rung.epoch}))

    def _is_spent(self) -> bool:
        return bool(self.stop_reason) or len(self._asked) >= self._trials

    def _note_spent(self) -> None:
        """A budget ends the study between two trials, never within one."""
        if not self._is_spent():
            self.stop_reason = self._spending.exceeded(self._clock())

    def _next_enqueued(self) -> Enqueued | None:
        while self._enqueued and self._enqueued[0].arch.key() in self._taken:
            self._enqueued.popleft()
        item = self._enqueued[0] if self._enqueued else None
        return item if item is not None and (item.required or not self._is_spent()) else None

    def _ask_next(self) -> Asked | None:
        """The next enqueued architecture, else a proposal; None when the study has no more of them."""
        self._note_spent()
        item = self._next_enqueued()
        if item is not None:
            asked = self._ask(Proposal(item.arch, item.source))
            self._searcher.restore(asked)
            return asked
        if self._is_spent():
            return None
        proposal = self._searcher.ask(len(self._asked), self._taken)
        if proposal is None:
            self.stop_reason = self._exhausted
            return None
        return self._ask(proposal)

    def _ask(self, proposal: Proposal) -> Asked:
        """From here on the architecture is taken."""
        key = proposal.arch_key or proposal.arch.key()
        asked: Asked = self._write(
            Asked(
                trial=len(self._asked),
                arch_key=key,
                arch=proposal.arch.to_dict(),
                seed=derive_seed(self._seed, key) if proposal.seed is None else proposal.seed,
                source=proposal.source,
                hints=proposal.hints,
            )
        )
        self._add_asked(asked)
        return asked

    def _add_asked(self, asked: Asked) -> None:
        self._asked[asked.trial] = asked
        self._taken.add(asked.arch_key)

    def _begin(self) -> None:
        """Once in a process, before whatever it writes or hands out first: time is counted from here."""
        if not self._begun:
            self._begun = True
            self._write(Started())

    def _hand_out(self, number: int) -> Trial:
        self._begin()
        asked = self._asked[number]
        self._running.add(number)
        attempt = self._attempts[number] = self._attempts.get(number, 0) + 1
        arch = ArchConfig.from_dict(asked.arch)
        return Trial(number, arch, asked.arch_key, asked.seed, attempt, alone=number in self._alone)

    def _replay(self) -> None:
        for event in self._store.events():
            if isinstance(event, Asked):
                self._add_asked(event)
                self._taken.add(ArchConfig.from_dict(event.arch).key())  # an earlier version may have had another
                self._searcher.restore(event)
            elif isinstance(event, Rung):
                self._rungs[(event.trial, event.epoch)] = event
            elif isinstance(event, Finished):
                self._finished[event.trial] = event
            self._observe(event)
        self._spending.close_run()

    def _write(self, event: Any) -> Any:
        self._begin()
        event = dataclasses.replace(event, time=round(self._clock(), 3))
        self._store.append(event)
        self._observe(event)
        for listener in self._listeners:
            listener(event)
        return event

    def _observe(self, event: Event) -> None:
        """Of every event on the disk, once, in its order."""
        self._end_on_record = event.reason if isinstance(event, Ended) else ""
        self._rounds.observe(event)
        self._spending.observe(event)

    def _tell(self, finished: Finished) -> None:
        """Of every outcome, when the round that it belongs to is over."""
        self._searcher.tell(finished)
        self._spending.judge(finished)

    def _watch_starts(self, started: bool, reason: str) -> None:
        """What keeps every worker from beginning would be tried for ever."""
        self._failed_starts_in_a_row = 0 if started else self._failed_starts_in_a_row + 1
        if self._failed_starts_in_a_row >= MAX_FAILED_STARTS_IN_A_ROW:
            raise StudyFailedError(f"{self._failed_starts_in_a_row} workers in a row did not start; the last: {reason}")

    def _watch_failures(self, finished: Finished) -> None:
        """Our own defects hit every trial alike: stop before they eat the budget."""
        self._failures_in_a_row = self._failures_in_a_row + 1 if finished.status in ("failed", "lost") else 0
        if self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
            raise StudyFailedError(
                f"{self._failures_in_a_row} trials in a row came to nothing; the last one said: {finished.error}"
            )


def _all_done(trials: int) -> str:
    return "its 1 trial is done" if trials == 1 else f"its {trials} trials are done"
