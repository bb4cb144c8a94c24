"""The installed command, as a person runs it: searches, resumes, reports, and answers bad input in one sentence."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from results.records import Asked, Finished
from results.store import StudyStore

CROSSVIT = str(Path(sys.executable).with_name("crossvit"))
QUICK = ("search", "--space", "smoke", "--executor", "local", "--epochs", "1")


def run(folder: Path, *arguments: str, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    return subprocess.run([CROSSVIT, *arguments], cwd=folder, capture_output=True, text=True, timeout=timeout)


def ledger_of(study: Path) -> Path:
    return study / "ledger.jsonl"


def finished_in(study: Path) -> list[Finished]:
    if not StudyStore.exists(study):
        return []
    return [event for event in StudyStore.open_readonly(study).events() if isinstance(event, Finished)]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a small search has run to its end."""
    folder = tmp_path_factory.mktemp("searched")
    result = run(folder, *QUICK, "--trials", "4")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    for words in (
        "4 trials over 45 architectures",
        "[4/4]",
        "Pareto front",
        "report: results/runs/smoke-digits/report",
    ):
        assert words in result.stdout
    assert result.stdout.endswith("crossvit search --space smoke --executor local --epochs 1 --trials 8\n")
    return folder


def test_a_search_leaves_a_complete_study(searched: Path) -> None:
    study = searched / "results/runs/smoke-digits"
    events = list(StudyStore.open_readonly(study).events())
    outcomes = [event for event in events if isinstance(event, Finished)]
    assert [event.trial for event in events if isinstance(event, Asked)] == list(range(4))
    assert {outcome.status for outcome in outcomes} == {"ok"}
    for outcome in outcomes:
        expected = {
            "val_accuracy",
            "macs",
            "params",
            "throughput_ips",
            "throughput_iqr",
            "throughput_ratio",
            "train_seconds",
        }
        assert expected <= outcome.metrics.keys()
        folder = study / "trials" / f"{outcome.trial:05d}"
        assert {path.name for path in folder.iterdir()} == {"arch.json", "curve.jsonl", "weights.safetensors"}
        last = json.loads((folder / "curve.jsonl").read_text().splitlines()[-1])
        assert last["val_accuracy"] == pytest.approx(outcome.metrics["val_accuracy"])
    written = {path.name for path in (study / "report").iterdir()}
    assert written == {"index.html", "front.csv", "front.md", "front.tex", "trials.csv"}
    assert json.loads((study / "environment.json").read_text())["packages"]["torch"]


def test_kept_weights_score_what_the_ledger_says(searched: Path) -> None:
    from crossvit_core.data import load_dataset
    from crossvit_core.train import open_split, score
    from crossvit_core.weights import load_model

    study = searched / "results/runs/smoke-digits"
    data = load_dataset("digits", image_size=(16, 16))
    for outcome in finished_in(study):
        model = load_model(study / "trials" / f"{outcome.trial:05d}" / "weights.safetensors")
        _, accuracy = score(model, open_split(data, "val", "cpu"), device="cpu")
        assert accuracy == pytest.approx(outcome.metrics["val_accuracy"], abs=1e-6)


def test_repeated_it_trains_nothing_and_shows_the_results(searched: Path) -> None:
    ledger = ledger_of(searched / "results/runs/smoke-digits")
    before = ledger.read_bytes()
    result = run(searched, *QUICK, "--trials", "4")
    assert result.returncode == 0, result.stderr
    assert "4 of 4 trials are done" in result.stdout
    assert "Pareto front" in result.stdout
    assert ledger.read_bytes() == before


def test_the_report_can_be_made_again(searched: Path) -> None:
    page = searched / "results/runs/smoke-digits/report/index.html"
    before = page.read_bytes()
    page.unlink()
    result = run(searched, "report", "smoke-digits")
    assert result.returncode == 0, result.stderr
    assert page.read_bytes() == before


def test_a_study_of_another_kind_is_not_gone_on_with(searched: Path) -> None:
    result = run(searched, *QUICK, "--trials", "4", "--seed", "3", "--study", "smoke-digits")
    assert result.returncode == 2
    assert "was started with something else (seed: 0, now 3)" in result.stderr
    result = run(searched, *QUICK[:-1], "2", "--trials", "4")
    assert result.returncode == 2
    assert "recipe.epochs: 1, now 2" in result.stderr


@pytest.mark.slow
def test_one_worker_and_one_seed_give_the_same_numbers(tmp_path: Path) -> None:
    """Whole, and killed with -9 half way and resumed: trials, seeds and accuracies are the same."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    command = (*QUICK, "--trials", "4", "--workers", "1", "--objectives", "val_accuracy,macs")
    assert run(whole, *command).returncode == 0
    process = subprocess.Popen([CROSSVIT, *command], cwd=killed, stdout=subprocess.DEVNULL)
    study = killed / "results/runs/smoke-digits"
    deadline = time.monotonic() + 100
    while len(finished_in(study)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert len(finished_in(study)) < 4
    assert run(killed, *command).returncode == 0
    numbers = [
        [(o.trial, o.arch_key, o.seed, o.metrics["val_accuracy"], o.metrics["val_loss"]) for o in finished_in(path)]
        for path in (whole / "results/runs/smoke-digits", study)
    ]
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize("stop", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_ctrl_c_ends_cleanly_and_says_how_to_go_on(tmp_path: Path, stop: signal.Signals) -> None:
    command = [CROSSVIT, *QUICK, "--trials", "30"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    study = tmp_path / "results/runs/smoke-digits"
    deadline = time.monotonic() + 100
    while len(finished_in(study)) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, stop) if stop == signal.SIGINT else process.send_signal(stop)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert re.search(r"To go on:\n  \S*crossvit search --space smoke", output)
    assert not processes_of_group(process.pid)


def processes_of_group(group: int) -> list[str]:
    listing = subprocess.run(["ps", "-o", "pid=,args=", "-g", str(group)], capture_output=True, text=True).stdout
    return [line for line in listing.splitlines() if "<defunct>" not in line]


@pytest.mark.ray
def test_the_search_runs_on_ray_and_leaves_nothing_behind(tmp_path: Path) -> None:
    result = run(tmp_path, "search", "--space", "smoke", "--epochs", "1", "--trials", "3")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert len(finished_in(tmp_path / "results/runs/smoke-digits")) == 3
    assert "ray" not in result.stdout.lower().replace("array", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results"]


@pytest.mark.ray
@pytest.mark.slow
def test_ctrl_c_on_ray_ends_cleanly(tmp_path: Path) -> None:
    command = [CROSSVIT, "search", "--space", "smoke", "--epochs", "1", "--trials", "30"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    study = tmp_path / "results/runs/smoke-digits"
    deadline = time.monotonic() + 150
    while len(finished_in(study)) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "To go on:" in output


def image_folder(root: Path, classes: dict[str, int], broken: bool = False) -> Path:
    rng = np.random.default_rng(0)
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(root / name / f"{index}.png")
    if broken:
        (root / next(iter(classes)) / "broken.png").write_bytes(b"\x89PNG no more")
    return root


BAD_SPACE = "name: x\nbase: crossvit_nano_16\ndimensions:\n  branches.0.embed_dims: [8]\n"
EMPTY_WINDOW = (
    "name: x\nbase: crossvit_nano_16\ndimensions:\n  branches.0.embed_dim: [8]\nlimits:\n  macs: {min: 2M, max: 1M}\n"
)


BAD_INPUT = [
    (("--space", "smal"), "unknown space 'smal'; did you mean 'small'"),
    (("--space", "bad.yaml"), "line 4: path 'branches.0.embed_dims': unknown field 'embed_dims'; did you mean"),
    (("--data", "broken"), "broken.png"),
    (("--trials", "0"), "trials must be a whole number of at least 1, got 0"),
    (("--workers", "0"), "workers must be at least 1, got 0"),
    (("--set", "lr"), "'lr' is no setting; write name=value"),
    (("--runs-dir", "file"), "cannot write to file"),
]
# Said by the same lines of code as one above, each of which has its unit test.
MORE_BAD_INPUT = [
    (("--space", "window.yaml"), "window.yaml, line 6: limit macs is an empty window: min 2M is above max 1M"),
    (("--data", "one_class"), "class"),
    (("--data", "empty"), "no images"),
    (("--data", "digitz"), "digits"),
    (("--study", "a/b"), "study name 'a/b' is not a plain file name"),
    (("--epochs", "0"), "epochs must be from 1"),
    (("--sampler", "tpee"), "unknown sampler 'tpee'; did you mean 'tpe'"),
    (("--objectives", "accuracy"), "unknown objective 'accuracy'"),
    (("--executor", "rai"), "unknown executor 'rai'; did you mean 'ray'"),
    (("--workers", "-1"), "workers must be at least 1"),
    (("--set", "augment=shif"), "shif"),
    (("--device", "cpuu"), "cpuu"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), [*BAD_INPUT, *(pytest.param(*each, marks=pytest.mark.slow) for each in MORE_BAD_INPUT)]
)
def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    (tmp_path / "bad.yaml").write_text(BAD_SPACE)
    (tmp_path / "window.yaml").write_text(EMPTY_WINDOW)
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "empty").mkdir()
    image_folder(tmp_path / "broken", {"a": 20, "b": 20}, broken=True)
    image_folder(tmp_path / "one_class", {"a": 20})
    result = run(tmp_path, *QUICK, *arguments)
    assert result.returncode == 2, result.stdout + result.stderr
    assert message in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.stderr
    assert finished_in(tmp_path / "results/runs/smoke-digits") == []


def test_ctrl_c_while_images_are_read_is_no_success(tmp_path: Path) -> None:
    """Before the first trial, too, a script must not go on as if there had been a search."""
    pixels = np.random.default_rng(0).integers(0, 255, (600, 600, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.jpg")
    for name in ("cats", "dogs"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(2000):
            os.link(tmp_path / "one.jpg", tmp_path / "photos" / name / f"{index}.jpg")
    command = [CROSSVIT, *QUICK, "--data", "photos"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as search:
        while not (tmp_path / "results/runs/.data").exists():
            assert search.poll() is None
            time.sleep(0.01)
        search.send_signal(signal.SIGINT)
        _, errors = search.communicate(timeout=60)
    assert search.returncode == 130
    assert errors == "crossvit: interrupted\n"


@pytest.mark.slow
def test_no_place_to_write_is_one_sentence_whatever_is_written(searched: Path) -> None:
    limited = f"ulimit -f 0; trap '' XFSZ; exec {CROSSVIT} dashboard smoke-digits"
    result = subprocess.run(["bash", "-c", limited], cwd=searched, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr.startswith("crossvit: cannot write to ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.slow
def test_two_searches_of_one_study_at_once(tmp_path: Path) -> None:
    first = subprocess.Popen([CROSSVIT, *QUICK, "--trials", "30"], cwd=tmp_path, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while not ledger_of(tmp_path / "results/runs/smoke-digits").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second = run(tmp_path, *QUICK, "--trials", "30")
    first.send_signal(signal.SIGINT)
    assert first.wait(timeout=20) == 130
    assert second.returncode == 2
    assert f"is being written by another process (pid {first.pid})" in second.stderr


@pytest.mark.slow
def test_a_full_disk_stops_the_search_and_loses_nothing(tmp_path: Path) -> None:
    """A limit on file sizes makes the ledger's writes fail as a full disk does; without it the search goes on."""
    study = tmp_path / "results/runs/smoke-digits"
    assert run(tmp_path, *QUICK, "--trials", "1", "--no-weights").returncode == 0
    limited = f"ulimit -f 5; trap '' XFSZ; exec {CROSSVIT} {' '.join(QUICK)} --trials 30 --no-weights"
    result = subprocess.run(["bash", "-c", limited], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "cannot write to" in result.stderr
    assert "Traceback" not in result.stderr
    before = finished_in(study)
    assert len(before) > 1
    result = run(tmp_path, *QUICK, "--trials", str(len(before) + 1), "--no-weights")
    assert result.returncode == 0, result.stderr
    assert finished_in(study)[: len(before)] == before


def test_an_image_folder_of_any_size_and_shape(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name, low in (("dark", 0), ("light", 150)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(40):
            pixels = rng.integers(low, low + 100, (24, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{index}.jpg")
    result = run(tmp_path, *QUICK, "--data", "photos", "--trials", "2")
    assert result.returncode == 0, result.stderr
    assert "2 classes" in result.stdout
    assert len(finished_in(tmp_path / "results/runs/smoke-photos")) == 2


def test_listing_and_counting(tmp_path: Path) -> None:
    spaces = run(tmp_path, "spaces")
    assert spaces.returncode == 0
    for name in ("small", "smoke", "cifar", "paper"):
        assert name in spaces.stdout
    counted = run(tmp_path, "count", "crossvit_small_240")
    assert "26,856,272" in counted.stdout
    assert "5,615,557,632" in counted.stdout
    wrong = run(tmp_path, "count", "crossvit_smal_240")
    assert wrong.returncode == 2
    assert "did you mean 'crossvit_small_240'" in wrong.stderr


def test_unknown_studies_are_named(searched: Path) -> None:
    result = run(searched, "report", "smoke-digit")
    assert result.returncode == 2
    assert "studies there: smoke-digits" in result.stderr


def test_help_answers() -> None:
    result = run(Path("/"), "--help")
    assert result.returncode == 0
    assert "search" in result.stdout
    assert run(Path("/"), "serach").returncode == 2
