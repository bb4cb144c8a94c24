"""A search that is killed in the middle of a training goes on in the middle of that training."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from crossvit_core.checkpoint_files import find_checkpoints
from crossvit_core.config import ArchConfig
from results.records import Asked, Event, Finished, Rung
from results.store import StudyStore
from search.evaluate import evaluate
from search.study import resolve_study
from search.study_config import StudyConfig
from search.trial import Trial

CROSSVIT = str(Path(sys.executable).with_name("crossvit"))
OPTIONS = ("--space", "smoke", "--executor", "local", "--sampler", "random", "--trials", "1", "--epochs", "24")


# The same search with its trials in the driving process, so that who dies is both.
DRIVER = """
from search.executors.local import InProcessExecutor
from search.study import resolve_study, run_study
from search.study_config import StudyConfig
config = StudyConfig(space="smoke", executor="local", sampler="random", trials=1, settings={"epochs": 24})
run_study(resolve_study(config), InProcessExecutor())
"""


def start(folder: Path, workers: int) -> subprocess.Popen[bytes]:
    """The search; without workers it trains in its own process."""
    search = [CROSSVIT, "search", *OPTIONS, "--workers", str(workers)]
    command = search if workers else [sys.executable, "-c", DRIVER]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)


def events_in(study: Path) -> list[Event]:
    return list(StudyStore.open_readonly(study).events()) if StudyStore.exists(study) else []


def wait_for_rungs(study: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 200
    while sum(isinstance(event, Rung) for event in events_in(study)) < count:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def stored_curve(checkpoint: Path) -> list[dict[str, Any]]:
    from safetensors import safe_open

    with safe_open(checkpoint, framework="pt") as file:
        return json.loads(file.metadata()["state"])["curve"]


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_it_ends_as_if_nothing_had_happened(tmp_path: Path, victim: str) -> None:
    """After the driver's death the study even goes on in another folder."""
    place = tmp_path / "here"
    place.mkdir()
    study = place / "results/runs/smoke-digits"
    process = start(place, workers=0 if victim == "driver" else 1)
    wait_for_rungs(study, 2, process)
    before = [event for event in events_in(study) if isinstance(event, Rung)]
    if victim == "driver":
        process.kill()
        process.wait()
        saved = stored_curve(find_checkpoints(study / "trials/00000")[-1])
        place = place.rename(tmp_path / "there")
        study = place / "results/runs/smoke-digits"
        process = start(place, workers=0)
    else:
        os.kill(worker_of(process.pid), signal.SIGKILL)
        saved = stored_curve(find_checkpoints(study / "trials/00000")[-1])
    assert process.wait(timeout=200) == 0
    events = events_in(study)
    assert [event for event in events if isinstance(event, Rung)][: len(before)] == before
    (outcome,) = (event for event in events if isinstance(event, Finished))
    assert (outcome.status, outcome.error) == ("ok", "")
    curve = [json.loads(line) for line in (study / "trials/00000/curve.jsonl").read_text().splitlines()]
    assert len(curve) == 24
    # What was trained before was not trained again: it keeps the very times at which it was.
    assert len(saved) >= 6
    assert [epoch["seconds"] for epoch in curve[: len(saved)]] == [round(epoch["seconds"], 6) for epoch in saved]
    assert not find_checkpoints(study / "trials/00000")
    assert [path.name for path in tmp_path.iterdir()] == [place.name]
    unbroken = train_unbroken(place, events)
    assert {name: outcome.metrics[name] for name in unbroken} == unbroken


def train_unbroken(folder: Path, events: list[Event]) -> dict[str, float]:
    config = StudyConfig(
        space="smoke", sampler="random", trials=1, settings={"epochs": 24}, runs_dir=folder / "results/runs"
    )
    plan = dataclasses.replace(resolve_study(config).plan, trials_dir=None)
    (asked,) = (event for event in events if isinstance(event, Asked))
    trial = Trial(0, ArchConfig.from_dict(asked.arch), asked.arch_key, asked.seed)
    *_, last = evaluate(trial, plan)
    assert isinstance(last, Finished)
    return {name: last.metrics[name] for name in ("val_accuracy", "val_loss", "train_loss")}


def worker_of(pid: int) -> int:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return next(child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes())
