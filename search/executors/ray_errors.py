"""What an error of Ray's means. Its classes are told by their names, so that this imports no Ray."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

from search.executors.conversation import Loss, SpentWorkerError

_LONGEST = 300


def read_error(trial: Any) -> tuple[str | None, Loss | None]:
    """What an errored trial of Tune's brings: an outcome after all, or why there is none."""
    error = _load_error(trial)
    if error is not None and _is(error, "RayTaskError"):
        cause = getattr(error, "cause", error)
        if isinstance(cause, SpentWorkerError):
            return str(cause.args[0]), None
        return None, Loss("defect", f"{type(cause).__name__}: {last_line(cause)}")
    text = _error_text(trial)
    if "OutOfMemoryError" in text:
        return None, Loss("memory", memory_figures(text))
    return None, Loss("infrastructure", last_line(error) if error is not None else "its worker process was lost")


def memory_victims(error: BaseException, actors: dict[str, str]) -> dict[str, Loss]:
    """Of the runs and the ids of their actors, those that were ended for memory when this error broke Tune off."""
    cause = error.__cause__
    if cause is None or not _is(cause, "OutOfMemoryError"):
        return {}
    text = str(cause)
    return {run: Loss("memory", memory_figures(text)) for run, actor in actors.items() if actor in text}


def memory_figures(text: str) -> str:
    """The part of Ray's page of a message that a record wants."""
    found = re.search(r"[0-9.]+GB used / [0-9.]+GB limit|[0-9.]+GB / [0-9.]+GB", text)
    return found.group(0) if found else "Ray ended its worker as the machine's memory ran short"


def first_line(error: object) -> str:
    """Where a message begins."""
    return _lines(error)[0][:_LONGEST]


def last_line(error: object) -> str:
    """What was raised, of a text that ends a traceback."""
    return _lines(error)[-1][:_LONGEST]


def _lines(error: object) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]


def _is(error: BaseException, name: str) -> bool:
    return any(cls.__name__ == name for cls in type(error).__mro__)


def _load_error(trial: Any) -> BaseException | None:
    """The exception itself, as Tune's driver, which is this process, has just written it into a folder of its own."""
    path = trial.pickled_error_file
    if not path or not Path(path).is_file():
        return None
    with open(path, "rb") as file:
        error = pickle.load(file)
    return error if isinstance(error, BaseException) else None


def _error_text(trial: Any) -> str:
    path = trial.error_file
    return Path(path).read_text(encoding="utf-8", errors="replace") if path and Path(path).is_file() else ""
