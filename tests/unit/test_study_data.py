"""The images of a study that have moved: every command that reads them asks where they are, and is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crossvit_core.data import DataError, load_dataset
from crossvit_core.model import build_model
from crossvit_core.presets import PRESETS
from crossvit_core.recipe import TrainRecipe
from crossvit_core.weights import save_weights
from results.records import Asked, Finished
from results.repeats import retrain_dir
from results.store import StoreError, StudyStore
from search import interrupt
from search.baseline_training import study_training
from search.cli import main
from search.exporting import export_trial
from search.final_test import look_at_test
from search.finalists import Wish
from search.quantizing import Request, quantize_trial
from search.retrain import RetrainConfig, resolve_retraining
from search.selection import select
from search.study import resolve_study
from search.study_config import StudyConfig
from search.study_data import open_study_data

ARCH = PRESETS["crossvit_nano_16"].replace(in_channels=1)
GONE = "/nowhere/digits"
LOST = f"study 's' was run on '{GONE}', which is not there; say where its images are now with --data (make: DATA=)"


def write_study(study_dir: Path, **changes: Any) -> None:
    """A study on the digits, known to it by a path that is gone, with one trial that kept its weights."""
    data = {**load_dataset("digits", image_size=16).describe(), "name": GONE}
    recipe = TrainRecipe(epochs=1).to_dict()
    about: dict[str, Any] = {"trial": 0, "arch_key": ARCH.key(), "arch": ARCH.to_dict(), "seed": 7}
    described = {"data": data, "recipe": recipe, "measure": {"batch_size": 2}, **changes}
    with StudyStore.create(study_dir, described) as store:
        store.append(Asked(**about, source=changes.get("source", "tpe")))
        metrics = {"val_accuracy": 0.1, "macs": 1000, "params": 100, "throughput_ips": 10.0}
        store.append(Finished(**about, status="ok", seconds=1.0, device="cpu", metrics=metrics))
        store.trial_dir(0).mkdir(parents=True)
        save_weights(store.trial_dir(0) / "weights.safetensors", build_model(ARCH))


@pytest.fixture
def study_dir(tmp_path: Path) -> Path:
    write_study(tmp_path / "s")
    return tmp_path / "s"


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "s", "0", "--format", "safetensors"),
        ("quantize", "s", "0"),
        ("retrain", "s", "--executor", "local"),
        ("select", "s", "--open-test"),
        ("bench", "s", "--baselines", "crossvit_nano_16", "--train"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_every_command_asks_where_the_images_are_now(
    study_dir: Path,
    arguments: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_study(retrain_dir(study_dir), retrain_of="s", seeds=1, finalists=[ARCH.key()], trials=1, source="trial:0")
    monkeypatch.setattr(interrupt, "arm", lambda: None)  # the signals are pytest's here
    for given, said in (
        ((), LOST),
        (("--data", "/nowhere/else"), "there is no dataset '/nowhere/else'"),
    ):
        monkeypatch.setattr(sys, "argv", ["crossvit", *arguments, *given, "--runs-dir", str(study_dir.parent)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert capsys.readouterr().err.startswith(f"crossvit: {said}")


def test_told_where_they_are_an_export_reads_them(study_dir: Path) -> None:
    outcome = export_trial(study_dir, 0, "safetensors", pairs=10, moved_to="digits")
    assert outcome.exported.about["source"]["data"]["name"] == "digits"


def test_told_where_they_are_the_others_read_them(study_dir: Path) -> None:
    full = next(quantize_trial(study_dir, 0, Request(calibration_images=4), moved_to="digits"))
    assert full.num_val_images == 269
    assert study_training(study_dir, 1, "digits").data.name == "digits"
    retraining = resolve_retraining(RetrainConfig(study_dir=study_dir, trials=(0,), seeds=1, moved_to="digits"))
    assert (retraining.described["data"]["name"], retraining.plan.data_path.exists()) == ("digits", True)
    write_study(retrain_dir(study_dir), retrain_of="s", seeds=1, finalists=[ARCH.key()], trials=1, source="trial:0")
    assert not look_at_test(study_dir, select(study_dir, Wish()), moved_to="digits").missing


def test_the_command_that_comes_next_knows_where_they_are(
    study_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(retrain_dir(study_dir), retrain_of="s", seeds=1, finalists=[ARCH.key()], trials=1, source="trial:0")
    runs = str(study_dir.parent)
    monkeypatch.setattr(interrupt, "arm", lambda: None)
    monkeypatch.setattr(sys, "argv", ["crossvit", "select", "s", "--open-test", "--data", "digits", "--runs-dir", runs])
    with pytest.raises(SystemExit):
        main()
    assert f"next: make export STUDY=s TRIAL=0 RUNS_DIR={runs} DATA=digits\n" in capsys.readouterr().out


def test_other_images_are_refused_wherever_they_are(study_dir: Path) -> None:
    record = study_dir / "study.json"
    study = json.loads(record.read_text())
    record.write_text(json.dumps({**study, "data": {**study["data"], "fingerprint": "other"}}))
    with pytest.raises(StoreError, match="the dataset 'digits' is not what study 's' was run on"):
        open_study_data(study_dir, "digits")


def test_what_is_there_and_cannot_be_read_is_told_as_well(study_dir: Path, tmp_path: Path) -> None:
    record = study_dir / "study.json"
    study = json.loads(record.read_text())
    emptied = tmp_path / "emptied"
    emptied.mkdir()
    record.write_text(json.dumps({**study, "data": {**study["data"], "name": str(emptied)}}))
    with pytest.raises(DataError, match=r"emptied', which cannot be read: no images in .* say where .* --data"):
        open_study_data(study_dir)


@pytest.mark.parametrize(
    ("arguments", "switch"), [(("select", "s"), "--open-test"), (("bench", "s", "--baselines", "x"), "--train")]
)
def test_a_place_is_refused_where_no_image_is_read(
    study_dir: Path,
    arguments: tuple[str, ...],
    switch: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(interrupt, "arm", lambda: None)
    monkeypatch.setattr(sys, "argv", ["crossvit", *arguments, "--data", "digits", "--runs-dir", str(study_dir.parent)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert f"images are read with {switch} only" in " ".join(capsys.readouterr().err.split())


def test_a_studies_folder_that_cannot_hold_a_cache_is_exported_from(study_dir: Path, tmp_path: Path) -> None:
    (study_dir.parent / ".data").touch()  # where the cache would be: a folder cannot be made there, not even by root
    outcome = export_trial(study_dir, 0, "safetensors", tmp_path / "elsewhere.safetensors", pairs=10, moved_to="digits")
    assert outcome.exported.path == tmp_path / "elsewhere.safetensors"
    data = open_study_data(study_dir, "digits")
    assert data.cache_path is not None
    assert not data.cache_path.is_relative_to(study_dir.parent)
    with pytest.raises(StoreError, match=r"cannot write to .*\.data"):
        resolve_study(StudyConfig(space="smoke", runs_dir=study_dir.parent))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_is_there_is_read_where_nothing_can_be_added(study_dir: Path) -> None:
    cache = study_dir.parent / ".data"
    written = open_study_data(study_dir, "digits").cache_path
    cache.chmod(0o500)
    assert open_study_data(study_dir, "digits").cache_path == written
    cache.chmod(0o700)


def test_a_cache_elsewhere_is_gone_when_the_process_ends(study_dir: Path) -> None:
    (study_dir.parent / ".data").touch()
    code = (
        "import sys; from pathlib import Path; from search.study_data import open_study_data;"
        "data = open_study_data(Path(sys.argv[1]), 'digits'); print(data.cache_path, data.cache_path.exists())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(study_dir)], capture_output=True, text=True, check=True)
    place, was_there = done.stdout.split()
    assert was_there == "True"
    assert not Path(place).parent.exists()
