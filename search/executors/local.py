"""This machine without Ray: in this process, or in worker processes that import torch once and are reused."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait

from results.records import Finished
from search.executors.base import Evaluate, TrialQueue, close_events, load_evaluate, run_guarded
from search.executors.worker_process import WorkerProcess
from search.outcomes import stopped_outcome, worker_seconds
from search.plan import Plan
from search.session import Session


class InProcessExecutor:
    """One trial after the other, in the driving process: for debuggers and for strict reproduction.

    Nobody is there to end a trial that hangs: the plan's ``trial_minutes`` means nothing here.
    """

    def __init__(self, evaluate: Evaluate | None = None) -> None:
        self._evaluate = evaluate

    def run(self, session: Session, plan: Plan) -> None:
        evaluate = self._evaluate or load_evaluate(plan)
        while (trial := session.next_trial()) is not None:
            start = time.perf_counter()
            events = run_guarded(evaluate, trial, plan)
            for event in events:
                if isinstance(event, Finished):
                    session.record(event)
                elif session.report(event) == "stop":
                    close_events(events)
                    seconds = worker_seconds(event.metrics, time.perf_counter() - start)
                    session.record(stopped_outcome(trial, event, seconds, _device_here(plan.device)))
                    break


class ProcessExecutor:
    """Trials in ``workers`` processes. One that dies costs its trial an attempt, and is replaced.

    ``gpus`` are entries for CUDA_VISIBLE_DEVICES: the workers are spread over them, each sees one, as ``cuda:0``.
    Without any the device ``auto`` is the CPU.
    """

    def __init__(self, workers: int, evaluate: Evaluate | None = None, *, gpus: Sequence[str] = ()) -> None:
        self.workers = workers
        self._evaluate = evaluate
        self.gpus = tuple(gpus)

    def run(self, session: Session, plan: Plan) -> None:
        pool: list[WorkerProcess] = []
        queue = TrialQueue(session, shares_devices=self.workers > len(self.gpus))
        plan = replace(plan, device=self.device_in_worker(plan.device))
        try:
            self._drive(session, plan, queue, pool)
        finally:
            for worker in pool:
                worker.end()

    def device_in_worker(self, asked: str) -> str:
        """What a worker calls the device that was asked for."""
        if self.gpus:
            return "cuda:0"
        return "cpu" if asked == "auto" else asked

    def _drive(self, session: Session, plan: Plan, queue: TrialQueue, pool: list[WorkerProcess]) -> None:
        while True:
            self._hand_out(plan, queue, pool)
            busy = {worker.connection: worker for worker in pool if worker.trial is not None}
            if not busy:
                return
            deadline = min(worker.deadline for worker in busy.values())
            timeout = None if deadline == float("inf") else max(0.0, deadline - time.monotonic())
            heard = {connection for connection in wait(list(busy), timeout) if isinstance(connection, Connection)}
            for connection, worker in busy.items():
                fit = worker.settle(session) if connection in heard else worker.check_deadline(session)
                if not fit:
                    _end(worker, pool)

    def _hand_out(self, plan: Plan, queue: TrialQueue, pool: list[WorkerProcess]) -> None:
        """Give every idle worker a trial; start workers only as far as there is work for them."""
        while True:
            idle = [worker for worker in pool if worker.trial is None]
            running = len(pool) - len(idle)
            if running >= self.workers:
                return
            trial = queue.pull(running)
            if trial is None:
                return
            if trial.alone:  # a fresh process, and none beside it that holds memory of the device
                for worker in idle:
                    _end(worker, pool)
                idle = []
            worker = idle[0] if idle else self._start_worker(plan, pool)
            worker.give(trial)

    def _start_worker(self, plan: Plan, pool: list[WorkerProcess]) -> WorkerProcess:
        used = [worker.gpu for worker in pool]
        gpu = min(self.gpus, key=used.count) if self.gpus else None
        worker = WorkerProcess(multiprocessing.get_context("spawn"), plan, self._evaluate, gpu)
        pool.append(worker)
        return worker


def _device_here(asked: str) -> str:
    """The device that an evaluation in this process takes for the one that was asked for."""
    from crossvit_core.device_info import pick_device  # imports torch

    return pick_device(asked)


def _end(worker: WorkerProcess, pool: list[WorkerProcess]) -> None:
    pool.remove(worker)
    worker.end()
