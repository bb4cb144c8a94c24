"""Networks of timm beside ours: named, measured, trained, kept."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from crossvit_core.baselines import BaselineError, Wanted, build_baseline, parse_timm_name
from crossvit_core.checkpoint_files import find_checkpoints
from crossvit_core.cost import count_cost
from crossvit_core.data import load_dataset
from crossvit_core.presets import PRESETS
from crossvit_core.recipe import TrainRecipe
from results.baselines import COLUMNS, FILE_NAME, accuracies_of, load_baselines, save_baseline
from results.store import StoreError, StudyStore
from search.baseline_training import BaselineEpoch, study_training
from search.baselines import Found, bench_networks, check_names, study_setting
from search.cli import main

SMALL_VIT = "timm:test_vit+patch_size=4+depth=1"

# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:deit_tny", r"timm has no model 'deit_tny'; nearest: .*timm:deit_tiny_patch16_224"),
        ("timm:hf-hub:someone/something", r"timm has no model 'hf-hub:someone/something'; nearest: timm:"),
        ("timm:resnet18.a1_in1k+se", r"names weights, and none are ever fetched: write 'timm:resnet18\+se'"),
        ("timm:resnet18+cbm", r"unknown gate 'cbm'; did you mean 'cbam'\? known: cbam, ceca, "),
        ("timm:resnet18+se+eca", r"unknown gate 'se\+eca'"),
        ("timm:test_vit+patch_size=big", r"'big' is no number; write it as '\+patch_size=4'"),
    ],
)
def test_what_means_nothing_is_answered_with_what_does(name: str, message: str) -> None:
    with pytest.raises(BaselineError, match=message):
        parse_timm_name(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:deit_tiny_patch16_224+cbam", r"no place for a gate; take a ResNet, as 'timm:resnet50\+cbam'$"),
        ("timm:test_vit+patches=4", r"test_vit\+patches=4: it takes no argument 'patches'$"),
        ("timm:test_vit+num_classes=2", r"its output is not one row of logits an image$"),
        ("timm:pvt_v2_b0", r"pvt_v2_b0 cannot take images of 16 x 16 px \(channels: 1, classes: 10\): [^\n]*[Kk]ernel"),
    ],
)
def test_what_cannot_be_built_says_why_in_one_line(name: str, message: str) -> None:
    with pytest.raises(BaselineError, match=message):
        build_baseline(name, Wanted((16, 16), in_channels=1, num_classes=10))


def test_an_assertion_without_words_is_quoted() -> None:
    with pytest.raises(
        BaselineError, match=r"cannot take images of 100 x 100 px .*: _assert\(H % self\.block_size == 0"
    ):
        build_baseline("timm:halonet26t", Wanted((100, 100)))


def test_numbers_of_a_name_reach_the_model() -> None:
    model, size = build_baseline(f"{SMALL_VIT}+drop_rate=0.5", Wanted((16, 24), in_channels=1, num_classes=10))
    assert size == (16, 24)
    assert model.get_submodule("patch_embed.proj").weight.shape[1:] == (1, 4, 4)
    assert len(list(model.get_submodule("blocks").children())) == 1
    assert not model.training


# The file ------------------------------------------------------------------------------------------------------------


def test_what_is_found_later_joins_what_is_there(tmp_path: Path) -> None:
    save_baseline(tmp_path, "timm:a", {"macs": 12_345_678_901, "throughput_ips": 12.3456789, "note": "a, b; c"})
    save_baseline(tmp_path, "b", {"macs": 5, "accuracy_sd": math.nan})
    save_baseline(tmp_path, "timm:a", {"val_accuracy": 0.5, "accuracies": "0.4 0.6", "seeds": 2, "note": ""})
    frame = load_baselines(tmp_path)
    assert list(frame.columns) == list(COLUMNS)
    assert list(frame["name"]) == ["timm:a", "b"]
    assert frame["macs"].tolist() == [12_345_678_901, 5]
    assert frame["val_accuracy"].tolist() == pytest.approx([0.5, math.nan], nan_ok=True)
    assert frame["throughput_ips"][0] == pytest.approx(12.3457)
    assert frame["note"].tolist() == ["", ""]
    assert accuracies_of(tmp_path, "timm:a") == [0.4, 0.6]
    assert accuracies_of(tmp_path, "b") == accuracies_of(tmp_path, "c") == []
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


_WRITER = """
import sys
from pathlib import Path
from results.baselines import save_baseline
for count in range(15):
    save_baseline(Path(sys.argv[1]), sys.argv[2] + str(count), {"macs": count})
"""


def test_two_commands_may_write_at_once(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path), who]) for who in "ab"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    assert set(load_baselines(tmp_path)["name"]) == {f"{who}{count}" for who in "ab" for count in range(15)}


def test_columns_of_a_persons_own_stay(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("name,year,macs\nmine,2021,7\n", encoding="utf-8")
    save_baseline(tmp_path, "mine", {"params": 3})
    frame = load_baselines(tmp_path)
    assert frame.loc[0, ["name", "year", "macs", "params"]].tolist() == ["mine", "2021", 7, 3]


def test_no_file_is_no_baselines(tmp_path: Path) -> None:
    frame = load_baselines(tmp_path)
    assert frame.empty
    assert list(frame.columns) == list(COLUMNS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("macs\n1\n", "it has no column 'name'"),
        ("name,macs\na,many\n", "column macs: could not convert string to float: 'many'"),
        ("name,macs\na,1,2\n", "a row has more values than there are columns"),
    ],
)
def test_a_damaged_file_is_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / FILE_NAME).write_text(text, encoding="utf-8")
    with pytest.raises(StoreError, match=rf"baselines\.csv is damaged: {message}"):
        load_baselines(tmp_path)


# Measuring and training ----------------------------------------------------------------------------------------------


@pytest.fixture
def study_dir(tmp_path: Path) -> Path:
    """A study on the digits, one epoch each, as far as a baseline needs to know it."""
    data = load_dataset("digits", image_size=16, cache_dir=tmp_path / ".data")
    recipe = TrainRecipe(epochs=1, batch_size=256, drop_path=0.1)
    study = {"data": data.describe(), "recipe": recipe.to_dict(), "measure": {"batch_size": 2}, "seed": 3}
    StudyStore.create(tmp_path / "s", study).close()
    return tmp_path / "s"


def run(
    study_dir: Path, names: list[str], runs: int, watch: Callable[[BaselineEpoch], None] = lambda epoch: None
) -> list[Found]:
    everything = []
    training = study_training(study_dir, runs) if runs else None
    for found in bench_networks(names, study_setting(study_dir, "cpu", pairs=10), training, watch):
        everything.append(found)
        if not found.problem:
            save_baseline(study_dir, found.name, found.columns)
    return everything


def test_a_study_measures_and_trains_others_as_its_own(study_dir: Path) -> None:
    names = [SMALL_VIT, "timm:pvt_v2_b0", "crossvit_nano_16", SMALL_VIT]
    found = run(study_dir, names, runs=1)
    assert [(one.name, "seeds" in one.columns) for one in found] == [
        (SMALL_VIT, False),
        (SMALL_VIT, True),
        ("timm:pvt_v2_b0", False),
        ("crossvit_nano_16", False),
        ("crossvit_nano_16", True),
    ]
    assert found[2].problem.startswith("timm:pvt_v2_b0 cannot take images of 16 x 16 px")
    frame = load_baselines(study_dir).set_index("name")
    assert set(frame.index) == {SMALL_VIT, "crossvit_nano_16"}
    assert frame["image_size"].tolist() == ["16x16"] * 2
    assert (frame[["macs", "params", "throughput_ips", "throughput_ratio", "latency_ms"]] > 0).all(axis=None)
    assert frame["val_accuracy"].between(0, 1).all()
    # As the search counts it: for the study's one channel, ten classes and 16 px.
    nano = PRESETS["crossvit_nano_16"].replace(in_channels=1, num_classes=10)
    assert frame.loc["crossvit_nano_16", "macs"] == count_cost(nano).macs


def test_a_network_of_a_file_is_called_as_the_file(study_dir: Path) -> None:
    for folder in ("one", "other"):
        file = study_dir / folder / "mine.json"
        file.parent.mkdir()
        file.write_text(json.dumps(PRESETS["crossvit_nano_16"].to_dict()), encoding="utf-8")
    (found,) = run(study_dir, [str(study_dir / "one" / "mine.json")], runs=0)
    assert found.name == "mine"
    with pytest.raises(BaselineError, match="would both be called 'mine'; rename one"):
        check_names([str(study_dir / folder / "mine.json") for folder in ("one", "other")], study_dir.parent)


def test_only_missing_runs_are_trained(study_dir: Path) -> None:
    run(study_dir, [SMALL_VIT], runs=1)
    first = accuracies_of(study_dir, SMALL_VIT)
    found = run(study_dir, [SMALL_VIT], runs=2)
    assert len(found) == 2  # measured again, one more run
    again = accuracies_of(study_dir, SMALL_VIT)
    assert len(again) == 2
    assert again[:1] == first
    row = load_baselines(study_dir).iloc[0]
    assert row["val_accuracy"] == pytest.approx(sum(again) / 2, abs=1e-5)
    assert row["accuracy_sd"] == pytest.approx(torch.tensor(again).std().item(), abs=1e-5)


_TRAINER = """
import sys
from pathlib import Path
from search.baseline_training import study_training
from search.baselines import bench_networks, study_setting
study_dir, name = Path(sys.argv[1]), sys.argv[2]
for found in bench_networks([name], study_setting(study_dir, "cpu", pairs=10), study_training(study_dir, 1)):
    pass
"""


@pytest.mark.slow
def test_a_killed_training_goes_on_where_it_was(study_dir: Path) -> None:
    study = StudyStore.open_readonly(study_dir).study
    (study_dir / "study.json").write_text(json.dumps({**study, "recipe": {**study["recipe"], "epochs": 5}}))
    trainer = subprocess.Popen([sys.executable, "-c", _TRAINER, str(study_dir), SMALL_VIT])
    folder = study_dir / "baselines" / "timm_test_vit_patch_size=4_depth=1-run1"
    deadline = time.monotonic() + 120
    while not find_checkpoints(folder):
        assert trainer.poll() is None and time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.01)
    trainer.kill()
    trainer.wait()
    with safe_open(find_checkpoints(folder)[-1], framework="pt") as file:
        before = json.loads(file.metadata()["state"])["curve"]

    seen: list[BaselineEpoch] = []
    run(study_dir, [SMALL_VIT], runs=1, watch=seen.append)
    assert 0 < len(before) < 5
    assert [epoch.result.to_dict() for epoch in seen[: len(before)]] == before  # seconds too: it was not trained again
    assert [(epoch.run, epoch.result.epoch) for epoch in seen] == [(1, epoch) for epoch in range(1, 6)]
    assert not (study_dir / "baselines").exists()

    gone_on = accuracies_of(study_dir, SMALL_VIT)
    (study_dir / FILE_NAME).unlink()
    run(study_dir, [SMALL_VIT], runs=1)
    assert accuracies_of(study_dir, SMALL_VIT) == gone_on


@pytest.mark.slow
def test_a_run_is_repeated_bit_for_bit(study_dir: Path) -> None:
    run(study_dir, [SMALL_VIT], runs=1)
    first = accuracies_of(study_dir, SMALL_VIT)
    (study_dir / FILE_NAME).unlink()
    run(study_dir, [SMALL_VIT], runs=1)
    assert accuracies_of(study_dir, SMALL_VIT) == first


def test_an_unknown_name_is_found_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match=r"'crossvit_nano_16'\? .*; a network of timm is written timm:NAME"):
        check_names([SMALL_VIT, "crossvit_nan_16"], tmp_path)


# The command ---------------------------------------------------------------------------------------------------------


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["crossvit", "bench", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_without_a_study_each_network_may_keep_its_own_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--batch-size", "1", "--pairs", "10", "--out", str(tmp_path / "kept"))
    assert command(monkeypatch, "--models", "timm:test_efficientnet", *options) == 0
    printed = capsys.readouterr().out
    assert "timm:test_efficientnet: measured" in printed
    assert "FLOPs are multiply-adds; random weights" in printed
    (row,) = load_baselines(tmp_path / "kept").to_dict("records")
    assert (row["name"], row["image_size"]) == ("timm:test_efficientnet", "160x160")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "timm:resnt18"], "crossvit: timm has no model 'resnt18'; nearest: timm:resnet18"),
        (["--models", "timm:halonet26t", "--image-size", "100"], "crossvit: none of the networks could be measured"),
        ([], "name a study, or networks with --models"),
        (["s", "--image-size", "16"], "a study has its own --image-size"),
        (["--models", "timm:test_vit", "--train"], "only --baselines beside a study are trained"),
        (["s", "--models", "timm:test_vit", "--seeds", "2"], "nothing is trained without --train"),
        (["missing", "--models", "timm:test_vit"], "crossvit: no study 'missing'"),
    ],
)
def test_bad_input_is_answered(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(monkeypatch, *arguments, "--runs-dir", str(tmp_path)) == 2
    assert message in " ".join(capsys.readouterr().err.split())
