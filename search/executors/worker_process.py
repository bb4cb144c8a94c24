"""One worker process of the local executor: the driver's end of it, and what runs inside."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

from results.records import Finished, Rung
from search.executors.base import Evaluate, close_events, load_evaluate, run_guarded, spoils_worker
from search.outcomes import overdue_outcome, stopped_outcome, worker_seconds
from search.plan import Plan
from search.session import Session
from search.trial import Trial

_STOP_SECONDS = 2.0
_BEGUN = "begun"
_ENDING = (signal.SIGINT, signal.SIGTERM)


class WorkerProcess:
    """The driver's end. ``trial`` is what it is at, ``deadline`` (monotonic seconds) when that has taken too long.

    The plan's device is one that the worker knows by that name: not ``auto``.
    """

    def __init__(self, context: SpawnContext, plan: Plan, evaluate: Evaluate | None, gpu: str | None = None) -> None:
        self.gpu = gpu
        self.connection, remote = context.Pipe()
        arguments = (remote, plan, evaluate, gpu)
        self.process: SpawnProcess = context.Process(target=_serve, args=arguments, daemon=True)
        with _deaf_to_ctrl_c():
            self.process.start()
        remote.close()
        self.trial: Trial | None = None
        self.deadline = float("inf")
        self._minutes = plan.trial_minutes
        self._device = plan.device
        self._begun: float | None = None

    def give(self, trial: Trial) -> None:
        """Have it evaluate a trial."""
        self.trial = trial
        self._begun = None
        self._send(trial)

    def settle(self, session: Session) -> bool:
        """Handle one message. False when the process is gone or must go."""
        trial = self.trial
        assert trial is not None
        try:
            event = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._let_go()
            self.process.join(_STOP_SECONDS)
            reason = f"its worker process ended with code {self.process.exitcode}"
            session.record_lost(trial, reason, started=self._begun is not None, seconds=self._seconds())
            return False
        self._hear()
        if isinstance(event, Finished):
            self._let_go()
            session.record(event)
            return not spoils_worker(event)
        if isinstance(event, Rung):
            self._answer(session, trial, event)
        return True

    def check_deadline(self, session: Session) -> bool:
        """False when its trial has taken too long, which is then recorded."""
        trial = self.trial
        if trial is None or self._minutes is None or time.monotonic() < self.deadline:
            return True
        self._let_go()
        session.record(overdue_outcome(trial, self._minutes, self._seconds()))
        return False

    def end(self) -> None:
        """Leave nothing of it behind."""
        self.connection.close()
        self.process.terminate()
        self.process.join(_STOP_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def _answer(self, session: Session, trial: Trial, rung: Rung) -> None:
        decision = session.report(rung)
        self._send(decision)
        if decision == "stop":
            self._let_go()
            seconds = worker_seconds(rung.metrics, self._seconds())
            session.record(stopped_outcome(trial, rung, seconds, self._device))

    def _hear(self) -> None:
        """The clock of the next report starts, for the first time when the trial was begun."""
        if self._begun is None:
            self._begun = time.perf_counter()
        if self._minutes is not None:
            self.deadline = time.monotonic() + self._minutes * 60

    def _seconds(self) -> float:
        """Since the worker began: starting its process is no work on the trial."""
        return 0.0 if self._begun is None else time.perf_counter() - self._begun

    def _let_go(self) -> None:
        self.trial = None
        self.deadline = float("inf")

    def _send(self, message: Any) -> None:
        """A worker that has died shows when its answer is awaited."""
        try:
            self.connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            return


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """What is started here never hears of Ctrl-C, which reaches the whole process group: the driver ends it.

    Blocked rather than ignored: one that comes meanwhile reaches the driver afterwards.
    """
    resource_tracker.ensure_running()  # starting it on the way unblocks the signal
    with _interrupts_put_off():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _interrupts_put_off() -> Iterator[None]:
    """The driver is not interrupted within, but after. Blocking is not enough: other threads may be dealt the signal.

    In the middle of starting a worker, it would be left with half of what it is to do.
    """
    if threading.current_thread() is not threading.main_thread():  # Python interrupts the main one alone
        yield
        return
    heard: list[int] = []
    before = {number: signal.signal(number, lambda number, _: heard.append(number)) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if heard:
        signal.raise_signal(heard[0])


def _serve(connection: Connection, plan: Plan, evaluate: Evaluate | None, gpu: str | None) -> None:
    """The worker process: trials in, events out, until the driver goes away."""
    threading.Thread(target=_die_with_driver, daemon=True).start()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    evaluate = evaluate or load_evaluate(plan)
    try:
        while True:
            _serve_trial(connection, evaluate, connection.recv(), plan)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _serve_trial(connection: Connection, evaluate: Evaluate, trial: Trial, plan: Plan) -> None:
    connection.send(_BEGUN)
    events = run_guarded(evaluate, trial, plan)
    for event in events:
        connection.send(event)
        if isinstance(event, Rung) and connection.recv() == "stop":
            close_events(events)
            return


def _die_with_driver() -> None:
    """A driver that was killed cannot end its workers, and one in the middle of an epoch would not notice."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        driver.join()
        os._exit(1)
