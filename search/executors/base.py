"""What an executor is: it says where work runs, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from numbers import Real
from typing import Protocol

from results.records import Finished, Rung
from search.outcomes import raised_outcome, ran_out_of_memory
from search.plan import Plan
from search.session import Session
from search.trial import Trial

Evaluate = Callable[[Trial, Plan], Iterator[Rung | Finished]]


class ExecutorError(Exception):
    """Work cannot be run here; the message says why and what to do."""


class Executor(Protocol):
    """Pulls trials from the session until it is over, runs them, and brings back what happened.

    On KeyboardInterrupt, or any error, it leaves no process of its own behind before it lets it through.
    """

    def run(self, session: Session, plan: Plan) -> None: ...


class TrialQueue:
    """The session's trials, with a trial that must be alone held back until nothing else runs.

    ``shares_devices`` is False where every worker has a device to itself anyway: then nothing waits.
    """

    def __init__(self, session: Session, *, shares_devices: bool) -> None:
        self._session = session
        self._shares_devices = shares_devices
        self._held: Trial | None = None
        self._alone_under_way = False

    def pull(self, running: int) -> Trial | None:
        """The next trial that may start beside ``running`` others; None if none may now."""
        if running and (self._held is not None or self._alone_under_way):
            return None
        trial, self._held = self._held or self._session.next_trial(), None
        needs_room = trial is not None and trial.alone and self._shares_devices
        if needs_room and running:
            self._held = trial
            return None
        self._alone_under_way = needs_room
        return trial

    def give_back(self) -> None:
        """Nothing more will be pulled here: what is held back is the session's again."""
        if self._held is not None:
            self._session.take_back(self._held)
            self._held = None


def run_guarded(evaluate: Evaluate, trial: Trial, plan: Plan) -> Iterator[Rung | Finished]:
    """The evaluation's events. Should it raise, or bring what no ledger takes, that is an outcome too."""
    start = time.perf_counter()
    try:
        yield from _checked(evaluate(trial, plan))
    except Exception as error:
        yield raised_outcome(trial, error, time.perf_counter() - start)


def _checked(events: Iterator[Rung | Finished]) -> Iterator[Rung | Finished]:
    try:
        for event in events:
            for name, value in event.metrics.items():
                if not isinstance(value, Real):
                    raise TypeError(f"metric {name!r} is no number: {value!r}")
            yield event
    finally:
        close_events(events)


def load_evaluate(plan: Plan) -> Evaluate:
    """Import torch here, in the process that trains, and not before."""
    from search.evaluate import evaluate, prepare_worker

    prepare_worker(plan.threads)
    return evaluate


def spoils_worker(finished: Finished) -> bool:
    """Whether the process that this happened to should train nothing more: its memory or its GPU is in disorder."""
    return ran_out_of_memory(finished) or (
        finished.status == "failed" and any(name in finished.error for name in ("CUDA", "cuDNN"))
    )


def close_events(events: Iterator[Rung | Finished]) -> None:
    """End an evaluation early, if it can be told."""
    close = getattr(events, "close", None)
    if close is not None:
        close()
