"""This machine without Ray: in this process, or in worker processes that import torch once and are reused."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from results.records import Finished, Rung
from search.executors.base import Evaluate, stopped_outcome
from search.plan import Plan
from search.session import Session
from search.trial import Trial

_STOP_SECONDS = 2.0


class InProcessExecutor:
    """One trial after the other, in the driving process: for debuggers and for strict reproduction."""

    def __init__(self, evaluate: Evaluate | None = None) -> None:
        self._evaluate = evaluate

    def run(self, session: Session, plan: Plan) -> None:
        evaluate = self._evaluate or _load_evaluate(plan)
        while (trial := session.next_trial()) is not None:
            start = time.perf_counter()
            events = evaluate(trial, plan)
            for event in events:
                if isinstance(event, Finished):
                    session.record(event)
                elif session.report(event) == "stop":
                    _close(events)
                    session.record(stopped_outcome(trial, event, time.perf_counter() - start, plan.device))
                    break


class ProcessExecutor:
    """Trials in ``workers`` processes. One that dies costs its trial an attempt, and is replaced."""

    def __init__(self, workers: int, evaluate: Evaluate | None = None) -> None:
        self._workers = workers
        self._evaluate = evaluate

    def run(self, session: Session, plan: Plan) -> None:
        pool: list[_Worker] = []
        try:
            self._drive(session, plan, pool)
        finally:
            for worker in pool:
                worker.end()

    def _drive(self, session: Session, plan: Plan, pool: list[_Worker]) -> None:
        while True:
            self._hand_out(session, plan, pool)
            busy = {worker.connection: worker for worker in pool if worker.trial is not None}
            if not busy:
                return
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                worker = busy[connection]
                if not worker.settle(session):
                    pool.remove(worker)
                    worker.end()

    def _hand_out(self, session: Session, plan: Plan, pool: list[_Worker]) -> None:
        """Give every idle worker a trial; start workers only as far as there is work for them."""
        while True:
            idle = next((worker for worker in pool if worker.trial is None), None)
            if idle is None and len(pool) >= self._workers:
                return
            trial = session.next_trial()
            if trial is None:
                return
            if idle is None:
                idle = _Worker(plan, self._evaluate)
                pool.append(idle)
            idle.give(trial)


class _Worker:
    """The driver's end of one worker process."""

    def __init__(self, plan: Plan, evaluate: Evaluate | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, remote = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_serve, args=(remote, plan, evaluate), daemon=True)
        self.process.start()
        remote.close()
        self.trial: Trial | None = None
        self._started = 0.0

    def give(self, trial: Trial) -> None:
        self.trial = trial
        self._started = time.perf_counter()
        self._send(trial)

    def settle(self, session: Session) -> bool:
        """Handle one message. False when the process is gone or must go."""
        trial = self.trial
        assert trial is not None
        try:
            event = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join(_STOP_SECONDS)
            self.trial = None
            session.record_lost(trial, f"its worker process ended with code {self.process.exitcode}")
            return False
        if isinstance(event, Finished):
            self.trial = None
            session.record(event)
        else:
            self._answer(session, trial, event)
        return True

    def end(self) -> None:
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
            self.trial = None
            seconds = round(time.perf_counter() - self._started, 3)
            session.record(stopped_outcome(trial, rung, seconds, ""))

    def _send(self, message: Any) -> None:
        """A worker that has died shows when its answer is awaited."""
        try:
            self.connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            return


def _serve(connection: Connection, plan: Plan, evaluate: Evaluate | None) -> None:
    """The worker process: trials in, events out, until the driver goes away."""
    # Ctrl-C reaches the whole process group; ending workers is the driver's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    evaluate = evaluate or _load_evaluate(plan)
    try:
        while True:
            _serve_trial(connection, evaluate, connection.recv(), plan)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _serve_trial(connection: Connection, evaluate: Evaluate, trial: Trial, plan: Plan) -> None:
    events = evaluate(trial, plan)
    for event in events:
        connection.send(event)
        if isinstance(event, Rung) and connection.recv() == "stop":
            _close(events)
            return


def _load_evaluate(plan: Plan) -> Evaluate:
    """Import torch here, in the process that trains, and not before."""
    from search.evaluate import evaluate, prepare_worker

    prepare_worker(plan.threads)
    return evaluate


def _close(events: Iterator[Rung | Finished]) -> None:
    close = getattr(events, "close", None)
    if close is not None:
        close()
