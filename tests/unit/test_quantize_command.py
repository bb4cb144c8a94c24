"""``crossvit quantize``: from a trial's kept weights to files, going on after a kill, and its answers to bad input."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from crossvit_core.cost import count_cost
from crossvit_core.data import load_dataset
from crossvit_core.model import build_model
from crossvit_core.presets import PRESETS
from crossvit_core.weights import save_weights
from results.quantization import (
    MIXED,
    append_point,
    comparable,
    deployment_candidates,
    load_quantized,
    read_points,
    to_frame,
    trial_folder,
)
from results.records import Asked, Finished
from results.store import StudyStore
from search.cli import main
from search.quantizing import Journal, Request, quantize_trial

ARCH = PRESETS["crossvit_nano_16"].replace(in_channels=1)
REQUEST = Request(bits=(4,), targets=(7.7,), calibration_images=4, methods=("base", "sqb_optm"))
OPTIONS = ["--bits", "8,4", "--target", "7.7", "--calib", "4", "--methods", "base,sqb_optm"]


@functools.cache
def described_digits() -> dict[str, Any]:
    return load_dataset("digits", image_size=16).describe()


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study on the digits with one trial that kept its weights."""
    folder = tmp_path / "digits-1"
    about: dict[str, Any] = {"trial": 3, "arch_key": ARCH.key(), "arch": ARCH.to_dict(), "seed": 3}
    torch.manual_seed(3)
    with StudyStore.create(folder, {"data": described_digits(), "measure": {"batch_size": 32}}) as store:
        store.append(Asked(**about, source="tpe"))
        metrics = {"val_accuracy": 0.1}
        store.append(Finished(**about, status="ok", seconds=1.0, device="cpu", metrics=metrics, error=""))
        store.trial_dir(3).mkdir(parents=True)
        save_weights(store.trial_dir(3) / "weights.safetensors", build_model(ARCH))
    return folder


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["crossvit", "quantize", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_command_writes_its_files(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(monkeypatch, "digits-1", "3", *OPTIONS, "--runs-dir", str(study.parent)) == 0
    printed = capsys.readouterr().out
    folder = trial_folder(study, 3)
    assert "never a speed" in printed
    assert printed.startswith(
        "weights: trial 3 of study digits-1, the trial's own, from the search; validation accuracy"
    )
    assert {path.name for path in folder.iterdir()} >= {"points.jsonl", "quantized.csv", "quantized.md", "index.html"}
    frame = pd.read_csv(folder / "quantized.csv")
    assert len(frame) == 1 + 2 * 2 + 1
    pd.testing.assert_frame_equal(frame, load_quantized(study), check_dtype=False)
    full, eight = frame.iloc[0], frame[(frame["method"] == "base") & (frame["bits"] == 8)].iloc[0]
    assert (full["precision"], full["bits"], full["kl"]) == ("full", 32, 0)
    assert full["bit_operations"] == 1024 * count_cost(ARCH).macs
    assert eight["bit_operations"] == 64 * count_cost(ARCH).macs
    assert eight["num_val_images"] == 269
    mixed = frame[frame["precision"] == MIXED].iloc[0]
    assert 7 < mixed["mean_bits"] <= 7.7
    markdown = (folder / "quantized.md").read_text()
    assert "reconstructions" in markdown
    assert markdown.count("\n| SQ-b + OPT-m ") == 3
    assert markdown.count("\n| full precision ") == 1
    assert "reconstructions" in (folder / "index.html").read_text()


def test_what_was_measured_is_measured_once(study: Path) -> None:
    going = quantize_trial(study, 3, REQUEST)
    first = [next(going) for _ in range(2)]
    going.close()
    path = trial_folder(study, 3) / "points.jsonl"
    before = path.read_bytes()
    path.write_bytes(before + b'{"trial": 3, "method": "ba')  # a writer was killed
    points = list(quantize_trial(study, 3, REQUEST))
    assert points[:2] == first
    assert path.read_bytes().startswith(before)
    assert len({point.key for point in points}) == len(points) == 4
    assert read_points(trial_folder(study, 3)) == points
    again = list(quantize_trial(study, 3, REQUEST))
    assert again == points
    assert points[-1].assignment and not points[1].assignment


def test_a_descent_that_was_cut_short_asks_nothing_twice(tmp_path: Path) -> None:
    asked: list[dict[str, int]] = []

    def measure(bits: Any) -> float:
        asked.append(dict(bits))
        return sum(bits.values()) / 7

    journal = Journal(tmp_path / "losses.jsonl", measure)
    assert journal({"a": 8, "b": 7}) == 15 / 7
    with open(tmp_path / "losses.jsonl", "a") as file:
        file.write('["cut sho')
    again = Journal(tmp_path / "losses.jsonl", measure)
    assert again({"b": 7, "a": 8}) == 15 / 7
    assert again({"a": 8, "b": 6}) == 2.0
    assert len(asked) == 2
    assert len(Journal(tmp_path / "losses.jsonl", measure).known) == 2


def test_other_settings_are_other_points(study: Path) -> None:
    few = Request(bits=(8,), targets=(), calibration_images=4, methods=("base",))
    more = Request(bits=(8,), targets=(), calibration_images=6, methods=("base",))
    list(quantize_trial(study, 3, few))
    list(quantize_trial(study, 3, more))
    calibrated = [point.calibration_images for point in read_points(trial_folder(study, 3))]
    assert calibrated == [0, 4, 6]  # full precision has no calibration and is not measured again


def test_what_was_measured_before_stays_in_the_files(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["digits-1", "3", "--target", "", "--methods", "base", "--runs-dir", str(study.parent)]
    for asked in (["--bits", "4", "--calib", "4"], ["--bits", "8", "--calib", "4"], ["--bits", "8", "--calib", "5"]):
        assert run_command(monkeypatch, *common, *asked) == 0
    folder = trial_folder(study, 3)
    assert pd.read_csv(folder / "quantized.csv")["bits"].tolist() == [32, 4, 8, 8]
    everything = load_quantized(study)
    settings = {"calibration_images": 4, "alpha": 0.5, "rho": 1.0}
    assert comparable(everything, everything["weights"][0], settings)["bits"].tolist() == [32, 8, 4]
    assert comparable(everything, "others", settings).empty
    assert (folder / "quantized.md").read_text().count("\n| symmetric ") == 1  # the last one's calibration alone


def test_candidates_are_what_nothing_beats(study: Path) -> None:
    full = next(quantize_trial(study, 3, REQUEST))
    changed = [
        {"val_accuracy": 0.9, "bit_operations": 100, "model_bytes": 9, "bits": 8},
        {"val_accuracy": 0.8, "bit_operations": 50, "model_bytes": 5, "bits": 6},
        {"val_accuracy": 0.7, "bit_operations": 60, "model_bytes": 4, "bits": 5},
    ]
    points = [type(full)(**{**vars(full), "precision": "single", "method": "base", **each}) for each in changed]
    assert deployment_candidates(to_frame(points))["bits"].tolist() == [6, 8]
    assert deployment_candidates(to_frame(points), "model_bytes")["bits"].tolist() == [5, 6, 8]
    assert deployment_candidates(to_frame([])).empty
    with pytest.raises(ValueError, match="bit_operations, model_bytes"):
        deployment_candidates(to_frame(points), "macs")


def test_a_study_without_points_has_an_empty_table(study: Path) -> None:
    assert load_quantized(study).empty
    assert "val_accuracy" in load_quantized(study).columns
    full = next(quantize_trial(study, 3, REQUEST))
    append_point(trial_folder(study, 4), type(full)(**{**vars(full), "trial": 4}))
    assert load_quantized(study)["trial"].tolist() == [3, 4]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["digits-1", "3", "--bits", "9"], "use 2 to 8"),
        (["digits-1", "3", "--bits", "eight"], "no number of bits"),
        (["digits-1", "3", "--bits", "4.5"], "no whole number"),
        (["digits-1", "3", "--bits", "inf"], "no number of bits"),
        (["digits-1", "3", "--bits", "8,nan"], "no number of bits"),
        (["digits-1", "3", "--target", "9"], "no target"),
        (["digits-1", "3", "--calib", "300"], "such as 256"),
        (["digits-1", "3", "--methods", "sqp"], "did you mean 'sqb'"),
        (["digits-1", "3", "--alpha", "2"], "0 to 1"),
        (["digits-1", "3", "--device", "tpu"], "use auto, cpu"),
        (["digits-1", "9"], "has no trial 9"),
        (["digits-2", "3"], "no study 'digits-2'"),
        (["digits-1", "-1"], "-1"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    study: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    assert run_command(monkeypatch, *arguments, "--runs-dir", str(study.parent)) == 2
    assert said in capsys.readouterr().err
    assert not (study / "quantized").exists()


@pytest.mark.slow
def test_a_real_kill_loses_nothing(study: Path) -> None:
    command = [sys.executable, "-c", "from search.cli import main; main()", "quantize", "digits-1", "3"]
    options = ["--calib", "16", "--runs-dir", str(study.parent)]
    path = trial_folder(study, 3) / "points.jsonl"
    process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (path.exists() and path.read_bytes().count(b"\n") >= 3):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = path.read_bytes()
    kept = kept[: kept.rindex(b"\n") + 1]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    assert path.read_bytes().startswith(kept)
    assert len(read_points(trial_folder(study, 3))) == 1 + 4 * 5 + 4
    assert "mixed" in done.stdout
