"""Learning curves for TensorBoard: one folder of events per trial under ``tensorboard/`` in the study's folder.

Written by the driver when a trial ends, from the curve that its worker left, or else from the rungs in the ledger. The
only module that imports tensorboardX, which takes torch into the driver.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from results.architecture import describe_arch
from results.records import Event, Finished, Rung
from results.store import CURVE_FILE, StudyStore, trial_name
from search.mirrors import MirrorError

FOLDER = "tensorboard"


def check_installed() -> None:
    """Raise MirrorError where tensorboardX is missing."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise MirrorError("curves for TensorBoard need the package tensorboardX; install it or leave --tensorboard out")


class TensorBoardMirror:
    """Writes the curves of the finished trials that have none yet, then of every trial that ends."""

    def __init__(self, run_dir: Path) -> None:
        self._store = StudyStore.open_readonly(run_dir)
        self._folder = run_dir / FOLDER
        self._rungs: dict[int, list[Rung]] = {}
        self._folder.mkdir(exist_ok=True)
        for event in self._store.events():
            self(event)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Rung):
            self._rungs.setdefault(event.trial, []).append(event)
        elif isinstance(event, Finished):
            rungs = self._rungs.pop(event.trial, [])
            target = self._folder / trial_name(event.trial)
            if not target.exists():
                _write_trial(target, event, self._curve(event.trial) or [_epoch(rung) for rung in rungs])

    def close(self) -> None:
        """Nothing is open between events."""

    def _curve(self, trial: int) -> list[dict[str, float]]:
        """Epoch by epoch, as the worker left it; empty where it left nothing that can be read."""
        try:
            text = (self._store.trial_dir(trial) / CURVE_FILE).read_text(encoding="utf-8")
            return [json.loads(line) for line in text.splitlines()]
        except (OSError, ValueError):
            return []


def _epoch(rung: Rung) -> dict[str, float]:
    return {"epoch": rung.epoch, **rung.metrics}


def _write_trial(target: Path, finished: Finished, curve: list[dict[str, float]]) -> None:
    """A folder appears whole or not at all. Raises OSError.

    Not by tensorboardX's ``SummaryWriter``: its thread and its hook at exit outlive an error, and raise it again.
    """
    from tensorboardX.record_writer import RecordWriter

    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        path = temporary / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        with contextlib.closing(RecordWriter(str(path))) as writer:
            for event in _trial_events(finished, curve):
                writer.write(event.SerializeToString())
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _trial_events(finished: Finished, curve: list[dict[str, float]]) -> Iterator[Any]:
    """What TensorBoard is told of a trial: tensorboardX's ``Event``, the version of the file first."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import scalar, text

    now = time.time()
    yield Event(wall_time=now, file_version="brain.Event:2")
    words = describe_arch(finished.arch)
    yield Event(wall_time=now, summary=text("architecture", words))
    for epoch in curve:
        for name, value in epoch.items():
            if name != "epoch":
                yield Event(wall_time=now, step=int(epoch["epoch"]), summary=scalar(name, value))
    for name, value in finished.metrics.items():
        yield Event(wall_time=now, step=len(curve), summary=scalar(f"final/{name}", value))
