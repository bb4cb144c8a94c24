"""Every rule of a study, decided once: budget, duplicates, durability, resuming, lost workers.

The session lives in the driving process. Executors pull trials from it and bring back what happened; each decision is
on the disk before anybody acts on it.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from crossvit_core.config import ArchConfig
from results.records import Asked, Decision, Event, Finished, Rung
from results.store import StudyStore
from search.searcher import Searcher
from search.trial import Trial, derive_seed

Listener = Callable[[Event], None]

MAX_ATTEMPTS = 3
MAX_FAILURES_IN_A_ROW = 8


class StudyFailedError(Exception):
    """The study cannot go on; the message says why and what to do."""


class Session:
    """Hands out trials (``next_trial``), hears of rungs (``report``) and writes down outcomes (``record``).

    Built on a ledger that has events already, it goes on where they end: finished trials are told to the searcher
    again, trials that were running are handed out first, under their old numbers.
    """

    def __init__(
        self,
        store: StudyStore,
        searcher: Searcher,
        *,
        trials: int,
        seed: int,
        listeners: Iterable[Listener] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._searcher = searcher
        self._trials = trials
        self._seed = seed
        self._listeners = tuple(listeners)
        self._clock = clock
        self._asked: dict[int, Asked] = {}
        self._finished: dict[int, Finished] = {}
        self._rungs: dict[tuple[int, int], Rung] = {}
        self._attempts: dict[int, int] = {}
        self._running: set[int] = set()
        self._failures_in_a_row = 0
        self.stop_reason = ""
        self._replay()
        self._waiting = deque(number for number in self._asked if number not in self._finished)

    @property
    def trials(self) -> int:
        """The budget: how many trials the study is to have in all."""
        return self._trials

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
        if self.stop_reason:
            return None
        if self._waiting:
            return self._hand_out(self._waiting.popleft())
        number = len(self._asked)
        if number >= self._trials:
            return None
        proposal = self._searcher.ask(number, {asked.arch_key for asked in self._asked.values()})
        if proposal is None:
            self.stop_reason = "every architecture of the space has been tried"
            return None
        key = proposal.arch.key()
        asked = Asked(
            trial=number,
            arch_key=key,
            arch=proposal.arch.to_dict(),
            seed=derive_seed(self._seed, key),
            source=proposal.source,
            hints=proposal.hints,
        )
        self._asked[number] = self._write(asked)
        return self._hand_out(number)

    def is_over(self) -> bool:
        """Whether no trial is running and none will be handed out."""
        spent = bool(self.stop_reason) or (len(self._asked) >= self._trials and not self._waiting)
        return spent and not self._running

    def report(self, rung: Rung) -> Decision:
        """Whether a running trial goes on. A decision that was written down before (a restarted trial) stands."""
        place = (rung.trial, rung.epoch)
        if place not in self._rungs:
            self._rungs[place] = self._write(rung)
        return self._rungs[place].decision

    def record(self, finished: Finished) -> None:
        """Write down how a trial ended, then tell the searcher. A second outcome of one trial is passed over."""
        self._running.discard(finished.trial)
        if finished.trial in self._finished:
            return
        self._finished[finished.trial] = self._write(finished)
        self._searcher.tell(finished)
        self._watch_failures(finished)

    def record_lost(self, trial: Trial, reason: str) -> None:
        """A worker died under this trial: hand it out again, or give it up after MAX_ATTEMPTS."""
        self._running.discard(trial.number)
        if trial.number in self._finished:
            return
        if trial.attempt < MAX_ATTEMPTS:
            self._waiting.append(trial.number)
        else:
            self.record(self._outcome(trial, f"lost {trial.attempt} times; last: {reason}"))

    def _outcome(self, trial: Trial, error: str) -> Finished:
        asked = self._asked[trial.number]
        return Finished(
            trial=trial.number,
            status="lost",
            arch_key=asked.arch_key,
            arch=asked.arch,
            seed=asked.seed,
            seconds=0.0,
            device="",
            metrics={},
            error=error,
        )

    def _hand_out(self, number: int) -> Trial:
        asked = self._asked[number]
        self._running.add(number)
        self._attempts[number] = self._attempts.get(number, 0) + 1
        return Trial(number, ArchConfig.from_dict(asked.arch), asked.arch_key, asked.seed, self._attempts[number])

    def _replay(self) -> None:
        for event in self._store.events():
            if isinstance(event, Asked):
                self._asked[event.trial] = event
                self._searcher.restore(event)
            elif isinstance(event, Rung):
                self._rungs[(event.trial, event.epoch)] = event
            else:
                self._finished[event.trial] = event
                self._searcher.tell(event)

    def _write(self, event: Any) -> Any:
        event = dataclasses.replace(event, time=round(self._clock(), 3))
        self._store.append(event)
        for listener in self._listeners:
            listener(event)
        return event

    def _watch_failures(self, finished: Finished) -> None:
        """Our own defects hit every trial alike: stop before they eat the budget."""
        self._failures_in_a_row = self._failures_in_a_row + 1 if finished.status in ("failed", "lost") else 0
        if self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
            raise StudyFailedError(
                f"{self._failures_in_a_row} trials in a row came to nothing; the last one said: {finished.error}"
            )
