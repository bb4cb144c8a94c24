"""What the driver of a cluster's trials knows: which are under way, since when, and what their ends mean.

It imports no Ray: Tune's callbacks (``search.executors.ray_tune``) turn what they hear into calls of this.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from crossvit_core.config import ArchConfig
from results.records import Finished, Rung, decode_event, encode_event
from search.executors.base import TrialQueue
from search.outcomes import broken_outcome, out_of_memory_outcome, overdue_outcome, stopped_outcome, worker_seconds
from search.plan import Plan
from search.session import Session
from search.trial import Trial


class SpentWorkerError(Exception):
    """Raised in a worker to bring an outcome back and have the worker replaced. Its one argument is the payload."""


@dataclass(frozen=True)
class Loss:
    """Why a worker is gone. ``kind``: the machine's memory, a defect in our code, or the infrastructure."""

    kind: str
    reason: str


@dataclass
class _UnderWay:
    trial: Trial
    begun: float | None = None
    heard: float = 0.0
    overdue: bool = False


class Conversation:
    """Between the session and whatever runs trials under ids of its own.

    The plan's device is one that the workers know by that name: not ``auto``.
    """

    def __init__(self, session: Session, plan: Plan, *, shares_devices: bool) -> None:
        self.error: BaseException | None = None
        self.events = 0
        self._session = session
        self._plan = plan
        self._queue = TrialQueue(session, shares_devices=shares_devices)
        self._under_way: dict[str, _UnderWay] = {}
        self._pulls_left: int | None = None

    def allow_pulls(self, count: int) -> bool:
        """Begin a run of ``count`` trials. False when none is needed: all is over, or the run before fell short."""
        fell_short = self._pulls_left is not None and not self.is_run_full()
        self._pulls_left = count
        return not fell_short and not self.is_over()

    def is_run_full(self) -> bool:
        """Whether the run has had all the trials that it was allowed."""
        return self._pulls_left == 0

    def pull(self, run_id: str) -> dict[str, Any] | None:
        """The next trial as the configuration of a run."""
        trial = self._queue.pull(len(self._under_way))
        if trial is None:
            return None
        self._under_way[run_id] = _UnderWay(trial)
        if self._pulls_left is not None:
            self._pulls_left -= 1
        return pack_trial(trial)

    def is_over(self) -> bool:
        return self.error is not None or self._session.is_over()

    def begin(self, run_id: str) -> None:
        """A worker is there and starts with it: from now on its losses count, and its time."""
        run = self._under_way.get(run_id)
        if run is not None:
            run.begun = time.perf_counter() if run.begun is None else run.begun
            run.heard = time.monotonic()

    def goes_on(self, run_id: str, payload: str) -> bool:
        """Hear of a rung, and say whether the trial goes on. An outcome is for ``settle``."""
        event = decode_event(json.loads(payload))
        self.begin(run_id)
        self.events += 1
        if not isinstance(event, Rung) or self._session.report(event) == "continue":
            return True
        run = self._under_way.pop(run_id)
        seconds = worker_seconds(event.metrics, self._seconds(run))
        self._session.record(stopped_outcome(run.trial, event, seconds, self._plan.device))
        return False

    def settle(self, run_id: str, payload: str | None, loss: Loss | None = None) -> None:
        """A run is over: with an outcome, or without one because of a loss."""
        run = self._under_way.pop(run_id, None)
        if run is None:
            return
        event = decode_event(json.loads(payload)) if payload else None
        if isinstance(event, Finished) and event.trial == run.trial.number:
            self.events += 1
            self._session.record(event)
        else:
            self._settle_loss(run, loss or Loss("infrastructure", "its worker process was lost"))

    def overdue(self) -> list[str]:
        """Runs whose worker has been silent for too long, each named once: it is to be ended."""
        if self._plan.trial_minutes is None:
            return []
        latest = time.monotonic() - self._plan.trial_minutes * 60
        late = [
            run_id
            for run_id, run in self._under_way.items()
            if run.begun is not None and not run.overdue and run.heard < latest
        ]
        for run_id in late:
            self._under_way[run_id].overdue = True
        return late

    def abandon(self) -> None:
        """All that ran is gone, for no fault of any one trial. What waited to be alone waits in the session."""
        self._queue.give_back()
        for run in list(self._under_way.values()):
            self._session.hand_back(run.trial)
        self._under_way.clear()

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Tune swallows some errors of its callbacks: keep ours, and let Tune end."""
        try:
            yield
        except Exception as error:
            self.error = self.error or error

    def raise_error(self) -> None:
        if self.error is not None:
            raise self.error

    def _settle_loss(self, run: _UnderWay, loss: Loss) -> None:
        if run.overdue and self._plan.trial_minutes is not None:
            self._session.record(overdue_outcome(run.trial, self._plan.trial_minutes, self._seconds(run)))
        elif loss.kind == "memory":
            self._session.record(out_of_memory_outcome(run.trial, loss.reason, self._seconds(run)))
        elif loss.kind == "defect":
            self._session.record(broken_outcome(run.trial, loss.reason, self._seconds(run)))
        else:
            started, seconds = run.begun is not None, self._seconds(run)
            self._session.record_lost(run.trial, loss.reason, started=started, seconds=seconds)

    def _seconds(self, run: _UnderWay) -> float:
        """Since the worker began: waiting for a place, and for a process there, is no work on the trial."""
        return 0.0 if run.begun is None else time.perf_counter() - run.begun


def pack_trial(trial: Trial) -> dict[str, Any]:
    """A trial as plain data; ``unpack_trial`` is its inverse."""
    return {**dataclasses.asdict(trial), "arch": json.dumps(trial.arch.to_dict())}


def unpack_trial(config: dict[str, Any]) -> Trial:
    names = {field.name for field in dataclasses.fields(Trial)}
    values = {name: value for name, value in config.items() if name in names}
    return Trial(**{**values, "arch": ArchConfig.from_dict(json.loads(config["arch"]))})


def pack_event(event: Rung | Finished) -> str:
    return json.dumps(encode_event(event))
