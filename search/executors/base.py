"""What an executor is: it says where work runs, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from results.records import Finished, Rung
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


def stopped_outcome(trial: Trial, rung: Rung, seconds: float, device: str) -> Finished:
    """The outcome of a trial that the session stopped at a rung."""
    return Finished(
        trial=trial.number,
        status="stopped",
        arch_key=trial.arch_key,
        arch=trial.arch.to_dict(),
        seed=trial.seed,
        seconds=seconds,
        device=device,
        metrics={**rung.metrics, "epochs": rung.epoch},
    )
