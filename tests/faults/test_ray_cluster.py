"""Studies on a cluster: shares of GPUs, a machine that dies, machines that see nothing of the driver's disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from crossvit_core.data import load_dataset
from crossvit_core.recipe import TrainRecipe
from results.records import Asked, Finished, Rung
from results.store import StudyStore
from search.evaluate import evaluate
from search.plan import MeasurePlan, Plan
from search.trial import Trial

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]

DRIVER = Path(__file__).with_name("drive_cluster.py")


def drive(scenario: str, folder: Path) -> None:
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(DRIVER), scenario, str(folder)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=800)
    assert run.returncode == 0, run.stderr[-5000:]
    assert run.stdout.endswith("over\n")


def outcomes_of(study: Path) -> dict[int, Finished]:
    events = list(StudyStore.open_readonly(study).events())
    asked = Counter(event.trial for event in events if isinstance(event, Asked))
    finished = [event for event in events if isinstance(event, Finished)]
    assert asked == Counter(event.trial for event in finished) == Counter(range(len(finished)))
    return {event.trial: event for event in finished}


def notes_of(folder: Path) -> list[dict[str, Any]]:
    """What every start of a trial that came to its end says of itself."""
    paths = [path for path in (folder.parent / "starts").iterdir() if path.stat().st_size]
    return [{"begun": int(path.name.split("-")[3]) / 1e9, **json.loads(path.read_text())} for path in paths]


def test_trials_share_gpus_but_not_while_they_measure(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    drive("share_gpus", folder)
    assert [outcome.status for outcome in outcomes_of(folder).values()] == ["ok"] * 16
    notes = notes_of(folder)
    assert {note["visible"] for note in notes} == {"0", "1"}
    for device in ("0", "1"):
        on_device = [note for note in notes if note["visible"] == device]
        begun = [note["begun"] for note in on_device]
        at_once = [sum(note["begun"] <= moment < note["ended"] for note in on_device) for moment in begun]
        assert max(at_once) == 2
        for note in on_device:
            ((start, end),) = note["measured"]
            spans = [span for other in on_device if other is not note for span in other["measured"] + other["trained"]]
            assert all(end <= other_start or other_end <= start for other_start, other_end in spans)


def test_a_machine_that_dies_costs_nothing_but_time(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    drive("lose_node", folder)
    assert [outcome.status for outcome in outcomes_of(folder).values()] == ["ok"] * 16
    starts = list((tmp_path / "starts").iterdir())
    assert 16 <= len(starts) <= 16 + 2
    assert len({note["parent"] for note in notes_of(folder)}) == 2
    assert all("runtime_resources" in note["code"] for note in notes_of(folder))


@pytest.mark.skipif(
    subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0,
    reason="no file systems of its own for a process here",
)
def test_data_and_results_travel_where_no_disk_is_shared(tmp_path: Path) -> None:
    folder = tmp_path / "hidden"
    folder.mkdir()
    drive("share_nothing", folder)
    study = folder / "study"
    outcomes = outcomes_of(study)
    assert [(outcome.status, outcome.error) for outcome in outcomes.values()] == [("ok", "")] * 3
    for number in outcomes:
        files = {path.name for path in (study / "trials" / f"{number:05d}").iterdir()}
        assert files == {"arch.json", "curve.jsonl", "weights.safetensors"}
    # Trial, attempt, checkpoints found: the second attempt at trial 1 had the first one's, fetched from the driver.
    notes = sorted("-".join(path.name.split("-")[:3]) for path in (tmp_path / "starts").iterdir())
    assert notes == ["0-1-0", "1-1-0", "1-2-1", "2-1-0"]
    assert not [path for path in (tmp_path / "starts").iterdir() if path.name.endswith("-trials")]
    assert unbroken_scores(folder, outcomes[1]) == scores_of(outcomes[1])


def unbroken_scores(folder: Path, outcome: Finished) -> tuple[float, ...]:
    """The same trial trained here, in one go."""
    from crossvit_core.config import ArchConfig

    data = load_dataset("digits", image_size=(16, 16), limit=300, cache_dir=folder / "data")
    assert data.cache_path is not None
    plan = Plan(TrainRecipe(epochs=4), data.cache_path, None, device="cpu", measure=MeasurePlan(pairs=10))
    trial = Trial(outcome.trial, ArchConfig.from_dict(outcome.arch), outcome.arch_key, outcome.seed)
    (event,) = evaluate(trial, plan)
    assert isinstance(event, Finished) and not isinstance(event, Rung)
    return scores_of(event)


def scores_of(outcome: Finished) -> tuple[float, ...]:
    return tuple(outcome.metrics[name] for name in ("val_accuracy", "val_loss", "train_loss"))
