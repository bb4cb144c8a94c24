"""The one look at the test split that a study has: who was looked at, when, and what was seen.

``test_ledger.jsonl`` in the study's folder. That the split is opened is on the disk before anything reads it, so a
process that is killed between the two has looked all the same. Standard library only.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from results.store import StoreError, WriteError
from results.units import percent, plural

LEDGER_NAME = "test_ledger.jsonl"


class SecondLookError(StoreError):
    """The test split was opened before, for something else."""


@dataclass(frozen=True, order=True)
class TestedRun:
    """Trained weights that meet the test split.

    ``trial`` is the number in the study, ``run`` the one in the retraining; ``weights`` is their file's SHA-256.
    """

    __test__ = False  # no test class, whatever pytest makes of its name

    trial: int
    arch_key: str
    run: int
    seed: int
    weights: str


@dataclass(frozen=True)
class Look:
    """The look at a test split. ``time`` is in seconds since 1970; ``accuracies`` (fractions) by ``TestedRun.run``."""

    time: float
    fingerprint: str
    num_images: int
    runs: tuple[TestedRun, ...]
    accuracies: dict[int, float] = field(default_factory=dict)

    @property
    def missing(self) -> tuple[TestedRun, ...]:
        """What was to be looked at and was not scored yet."""
        return tuple(run for run in self.runs if run.run not in self.accuracies)

    def is_at(self, runs: Iterable[TestedRun]) -> bool:
        """Whether the look was at these runs, all of them and no other. Their weights are not compared."""
        return {dataclasses.replace(run, weights="") for run in self.runs} == {
            dataclasses.replace(run, weights="") for run in runs
        }

    def describe(self) -> str:
        """What was seen and when, in one sentence."""
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.time))
        trials = sorted({run.trial for run in self.runs})
        seen = ", ".join(f"trial {trial} ({self._describe_trial(trial)})" for trial in trials)
        return f"opened on {when} for {seen}"

    def _describe_trial(self, trial: int) -> str:
        runs = [run.run for run in self.runs if run.trial == trial]
        scores = [percent(self.accuracies[run]) for run in runs if run in self.accuracies]
        return ", ".join(scores) if scores else f"{plural(len(runs), 'run')}, not scored yet"


def read_look(study_dir: Path) -> Look | None:
    """The look that the study had; None while its test split is closed. StoreError for a damaged ledger."""
    path = study_dir / LEDGER_NAME
    return _replay(path, path.read_bytes()) if path.exists() else None


def open_look(
    study_dir: Path,
    runs: Iterable[TestedRun],
    fingerprint: str,
    num_images: int,
    *,
    clock: Callable[[], float] = time.time,
) -> Look:
    """Open the test split for these runs; returns when that is on the disk. The same runs may go on where they were.

    Raises SecondLookError, saying what was seen and when, if it was opened for other runs or other data; WriteError
    if it cannot be written down, and then nothing may be read.
    """
    asked = Look(round(clock(), 3), fingerprint, num_images, tuple(sorted(runs)))
    if not asked.runs:
        raise ValueError("the test split is opened for at least one run")
    with _locked(study_dir / LEDGER_NAME) as file:
        seen = _replay(study_dir / LEDGER_NAME, _read_whole(file))
        if seen is None:
            _append(file, {"event": "opened", **_without_scores(asked)})
            return asked
    if (seen.runs, seen.fingerprint) != (asked.runs, asked.fingerprint):
        raise SecondLookError(
            f"the test split of study {study_dir.name!r} has been looked at and stays closed: {seen.describe()}; "
            "a second look would make it a validation split. Repeat that choice to see it, or choose without the test"
        )
    return seen


def add_score(study_dir: Path, run: int, accuracy: float, *, clock: Callable[[], float] = time.time) -> None:
    """Write down the test accuracy of a run of the look. Raises StoreError for a run that is not in it, or is scored.

    WriteError if it cannot be written.
    """
    path = study_dir / LEDGER_NAME
    with _locked(path) as file:
        look = _replay(path, _read_whole(file))
        if look is None or run not in {tested.run for tested in look.missing}:
            raise StoreError(f"{path}: run {run} is none that the test split was opened for and that is not scored yet")
        _append(file, {"event": "scored", "time": round(clock(), 3), "run": run, "test_accuracy": accuracy})


def _without_scores(look: Look) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(look).items() if name != "accuracies"}


def _replay(path: Path, content: bytes) -> Look | None:
    """The events' sum. A last line without end was never acted on: what it says was not done."""
    look: Look | None = None
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            look = _apply(look, json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path}, line {number} is damaged ({error}); the test split stays closed") from error
    return look


def _apply(look: Look | None, event: dict[str, Any]) -> Look:
    if event["event"] == "opened" and look is None:
        runs = tuple(TestedRun(**run) for run in event["runs"])
        return Look(event["time"], event["fingerprint"], event["num_images"], runs)
    if event["event"] == "scored" and look is not None:
        scored = {**look.accuracies, int(event["run"]): float(event["test_accuracy"])}
        return dataclasses.replace(look, accuracies=scored)
    raise ValueError(f"event {event['event']!r} cannot stand here")


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """The ledger, for one process at a time. Raises WriteError."""
    try:
        with open(path, "ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
    except OSError as error:
        raise WriteError(f"cannot write to {path}: {error.strerror or error}; the test split was not read") from error


def _read_whole(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _append(file: IO[bytes], event: dict[str, Any]) -> None:
    """Add a line, cut off a torn one before it, and return when that is on the disk, the file's name included."""
    content = _read_whole(file)
    file.truncate(content.rfind(b"\n") + 1)
    file.write(json.dumps(event, separators=(",", ":"), allow_nan=False).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())
    folder = os.open(Path(file.name).parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
