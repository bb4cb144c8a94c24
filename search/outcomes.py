"""Outcomes of a trial, those that its evaluation does not bring itself above all, and how failures are told apart."""

from __future__ import annotations

from collections.abc import Mapping

from results.records import Finished, Rung, Status
from search.trial import Trial

OUT_OF_MEMORY = "out of memory"
_MEMORY_WORDS = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "ALLOC_FAILED",
    "unable to find an engine to execute this computation",  # cuDNN, where no algorithm finds room for its workspace
)


def make_outcome(
    trial: Trial, status: Status, seconds: float, metrics: Mapping[str, float], *, device: str = "", error: str = ""
) -> Finished:
    """How a trial ended, for the ledger; ``seconds`` to the millisecond."""
    return Finished(
        trial=trial.number,
        status=status,
        arch_key=trial.arch_key,
        arch=trial.arch.to_dict(),
        seed=trial.seed,
        seconds=round(seconds, 3),
        device=device,
        metrics=dict(metrics),
        error=error,
    )


def worker_seconds(metrics: Mapping[str, float], clock: float = 0.0) -> float:
    """What a trial took of its workers so far, earlier attempts included, as its metrics know; else ``clock``.

    A driver's clock is second best: it knows of one attempt, and that only as fast as messages reach it.
    """
    if "train_seconds" not in metrics:
        return clock
    return metrics.get("measure_seconds", 0.0) + metrics["train_seconds"]


def stopped_outcome(trial: Trial, rung: Rung, seconds: float, device: str) -> Finished:
    """The outcome of a trial that the session stopped at a rung."""
    return make_outcome(trial, "stopped", seconds, {**rung.metrics, "epochs": rung.epoch}, device=device)


def overdue_outcome(trial: Trial, minutes: float, seconds: float) -> Finished:
    """The outcome of a trial whose worker was ended since nothing was heard of it for ``minutes``."""
    error = f"took longer than {minutes:g} minutes between two reports, so its worker was ended"
    return make_outcome(trial, "failed", seconds, {}, error=error)


def broken_outcome(trial: Trial, error: str, seconds: float) -> Finished:
    """The outcome of a trial whose evaluation raised instead of yielding one: a defect of ours."""
    return make_outcome(trial, "failed", seconds, {}, error=error)


def out_of_memory_outcome(trial: Trial, error: str, seconds: float) -> Finished:
    """The outcome of a trial whose worker was ended by the system for the memory it took."""
    return make_outcome(trial, "failed", seconds, {}, error=f"{memory_error('its machine', trial)}: {error}")


def memory_error(device: str, trial: Trial) -> str:
    """How the error of a trial begins for which there was not enough memory."""
    return f"{OUT_OF_MEMORY} on {device}{', which it had to itself' if trial.alone else ''}"


def is_memory_error(error: BaseException) -> bool:
    """Whether a device or the machine had no more memory to give. Torch says it in several ways; it is not imported."""
    said = str(error)
    return (
        isinstance(error, MemoryError)
        or any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__)
        or any(words in said for words in _MEMORY_WORDS)
    )


def raised_outcome(trial: Trial, error: BaseException, seconds: float) -> Finished:
    """The outcome of a trial whose evaluation raised instead of yielding one."""
    if is_memory_error(error):
        return out_of_memory_outcome(trial, first_line(error), seconds)
    return broken_outcome(trial, f"{type(error).__name__}: {first_line(error)}", seconds)


def first_line(error: BaseException) -> str:
    """As much of a message as a record takes."""
    return str(error).strip().split("\n", 1)[0][:300]


def ran_out_of_memory(finished: Finished) -> bool:
    """Whether the trial failed for want of memory."""
    return finished.status == "failed" and finished.error.startswith(OUT_OF_MEMORY)
