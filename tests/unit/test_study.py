"""How a study is resolved from what was asked: names, defaults, the space file's settings."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer import BadParameter

from results.frame import front, load_frame
from results.store import StoreError
from search.commands.options import parse_settings
from search.executors.local import InProcessExecutor, ProcessExecutor
from search.executors.ray_tune import RayExecutor
from search.executors.sizing import make_executor
from search.study import Study, resolve_study, run_study
from search.study_config import StudyConfig, StudyConfigError
from search.study_data import open_study_data
from search.study_differences import describe_differences
from search.study_folder import open_study
from search.synthetic import SyntheticEvaluation
from space import SpaceError

REFERENCE = Path(__file__).parents[2] / "results" / "reference" / "small_digits"

SPACE = """\
name: mine
base: crossvit_nano_16
dimensions:
  branches.0.embed_dim: [8, 16]
study:
  trials: 3
  epochs: 7
"""


def resolve(tmp_path: Path, **asked: object) -> Study:
    return resolve_study(StudyConfig(runs_dir=tmp_path / "runs", **asked))  # type: ignore[arg-type]


def write_space(tmp_path: Path, text: str = SPACE) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_the_space_file_recommends_and_the_command_decides(tmp_path: Path) -> None:
    space = write_space(tmp_path)
    study = resolve(tmp_path, space=space, data="digits")
    assert (study.name, study.trials, study.plan.recipe.epochs, study.plan.rungs) == ("mine-digits", 3, 7, (1, 3))
    study = resolve(tmp_path, space=space, data="digits", trials=5, settings={"epochs": 2}, seed=4)
    assert (study.name, study.trials, study.plan.recipe.epochs) == ("mine-digits-seed4", 5, 2)


def test_the_space_takes_classes_and_channels_from_the_data(tmp_path: Path) -> None:
    base = resolve(tmp_path, space="smoke").space.base
    assert (base.num_classes, base.in_channels) == (10, 1)


def write_photos(folder: Path, step: int = 20) -> str:
    for name in ("cats", "dogs"):
        (folder / name).mkdir(parents=True)
        for index in range(12):
            Image.fromarray(np.full((16, 16, 3), step * index, dtype=np.uint8)).save(folder / name / f"{index}.png")
    return str(folder)


def test_a_folder_of_any_name_gives_a_study_name(tmp_path: Path) -> None:
    study = resolve(tmp_path, space="smoke", data=write_photos(tmp_path / "my photos (1)"))
    assert study.name == "smoke-my-photos-1"
    assert study.path.parent == tmp_path / "runs"


def test_a_search_goes_on_with_images_that_have_moved(tmp_path: Path) -> None:
    """They are told by what they are; their new place is noted, and later commands look there."""
    before, now = write_photos(tmp_path / "before"), tmp_path / "now"
    open_study(resolve(tmp_path, space="smoke", name="s", data=before)).close()
    Path(before).rename(now)
    with open_study(resolve(tmp_path, space="smoke", name="s", data=str(now))) as store:
        assert store.study["data"]["name"] == str(now)
    assert open_study_data(tmp_path / "runs" / "s").name == str(now)
    others = write_photos(tmp_path / "others", step=10)
    with pytest.raises(StoreError, match=r"something else \(data.name: .*now, now .*others; data.fingerprint: "):
        open_study(resolve(tmp_path, space="smoke", name="s", data=others))


def test_a_space_without_data_asks_for_it(tmp_path: Path) -> None:
    with pytest.raises(StudyConfigError, match="space 'mine' names no dataset; give one with DATA="):
        resolve(tmp_path, space=write_space(tmp_path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("  epoch: 3", r"line 8: unknown study setting 'epoch'; did you mean 'epochs'"),
        ("  lr: fast", r"line 5: lr must be from"),
        ("  augment: shif", r"unknown augment 'shif'; did you mean 'shift'"),
    ],
)
def test_settings_of_a_space_file_are_checked(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        resolve(tmp_path, space=write_space(tmp_path, SPACE + line + "\n"), data="digits")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "  branches.0.embed_dim: [8, 16]",
            "  image_size: [16, 32]",
            r"line 4: image_size: a study reads its images",
        ),
        ("trials: 3", "trials: -4", r"line 6: trials must be a whole number of at least 1, got -4"),
        ("trials: 3", "trials: 2.5", r"line 6: trials must be a whole number of at least 1, got 2\.5"),
    ],
)
def test_what_no_study_can_do_is_said_with_its_line(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=message):
        resolve(tmp_path, space=write_space(tmp_path, SPACE.replace(old, new)), data="digits", trials=2)


def test_a_setting_that_cannot_be_read_is_named() -> None:
    assert parse_settings(["lr=0.01", "augment=none"], epochs=3) == {"lr": 0.01, "augment": "none", "epochs": 3}
    for text in ("lr=[", "lr={", "augment=a: b: c", "augment=%x"):
        with pytest.raises(
            BadParameter, match=f"{re.escape(repr(text))} cannot be read; write name=value, as lr=0.001"
        ):
            parse_settings([text], None)


def test_what_is_asked_for_is_checked_before_anything_is_written(tmp_path: Path) -> None:
    for asked in (
        {"name": "a/b"},
        {"trials": 0},
        {"settings": {"trials": True}},
        {"settings": {"measure_batch_size": True}},
        {"sampler": "x"},
        {"objectives": ("x",)},
        {"device": "cuda:99"},
    ):
        with pytest.raises((StudyConfigError, StoreError)):
            resolve(tmp_path, space="smoke", **asked)
    assert not [path for path in (tmp_path / "runs").glob("*") if path.name != ".data"]


def test_executors_are_sized_or_refused() -> None:
    with pytest.raises(StudyConfigError, match="unknown executor 'rai'; did you mean 'ray'"):
        make_executor(StudyConfig(executor="rai"))
    with pytest.raises(StudyConfigError, match="gpus_per_trial must not be negative"):
        make_executor(StudyConfig(gpus_per_trial=-1.0))
    for share in (math.inf, math.nan):
        with pytest.raises(StudyConfigError, match=f"gpus_per_trial must be a number, got {share}"):
            make_executor(StudyConfig(gpus_per_trial=share))
    for executor in ("ray", "local"):
        with pytest.raises(StudyConfigError, match="workers must be at least 1, got 0"):
            make_executor(StudyConfig(workers=0, executor=executor))


@pytest.mark.parametrize(
    ("asked", "gpus", "workers", "each"),
    [
        ({}, ("0", "1", "2", "3"), 4, 1.0),
        ({"workers": 8}, ("0", "1", "2", "3"), 8, 0.5),
        ({"gpus_per_trial": 0.25}, ("0", "1", "2", "3"), 16, 0.25),
        ({"device": "cuda:2"}, ("2",), 1, 1.0),
        ({"device": "cuda:2", "workers": 3}, ("2",), 3, 1 / 3),
        ({"device": "cuda:2", "gpus_per_trial": 0.5}, ("2",), 2, 0.5),
        ({"device": "cpu", "workers": 2}, (), 2, 0.0),
        ({"gpus_per_trial": 0.0, "workers": 2}, (), 2, 0.0),
    ],
)
def test_workers_are_as_many_as_the_chosen_gpus_take(
    asked: dict[str, object], gpus: tuple[str, ...], workers: int, each: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.executors.sizing.visible_gpus", lambda: ["0", "1", "2", "3"])
    local = make_executor(StudyConfig(executor="local", **asked))  # type: ignore[arg-type]
    assert isinstance(local, ProcessExecutor)
    assert (local.gpus, local.workers) == (gpus, workers)
    ray = make_executor(StudyConfig(executor="ray", **asked))  # type: ignore[arg-type]
    assert isinstance(ray, RayExecutor)
    assert (ray.workers, ray.gpus_per_trial) == (workers, each)


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [("auto", ("3",), "cuda:0"), ("cuda:3", ("3",), "cuda:0"), ("auto", (), "cpu"), ("cpu", (), "cpu")],
)
def test_a_worker_finds_its_gpu_where_it_looks(device: str, gpus: tuple[str, ...], expected: str) -> None:
    """It sees one, as the first; without a share it has the CPU, whatever else is in the machine."""
    assert ProcessExecutor(1, gpus=gpus).device_in_worker(device) == expected


def test_a_share_of_gpus_that_are_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.executors.sizing.visible_gpus", list)
    with pytest.raises(StudyConfigError, match="gpus_per_trial is 1, and this machine shows no GPU; leave it out"):
        make_executor(StudyConfig(executor="local", gpus_per_trial=1.0))


def test_a_study_asked_for_fewer_trials_keeps_those_that_it_has(tmp_path: Path) -> None:
    run_study(resolve(tmp_path, space="smoke", trials=3), InProcessExecutor(SyntheticEvaluation()))
    for trials, noted in ((5, 5), (4, 4), (2, 3), (9, 9)):
        with open_study(resolve(tmp_path, space="smoke", trials=trials)) as store:
            assert store.study["trials"] == noted


def test_what_differs_from_a_study_that_goes_on_is_said(tmp_path: Path) -> None:
    limited = resolve(tmp_path, space=write_space(tmp_path, f"{SPACE}limits: {{macs: {{max: 1M}}}}\n"), data="digits")
    open_study(limited).close()
    unlimited = resolve(tmp_path, space=write_space(tmp_path), data="digits", objectives=("val_accuracy", "params"))
    with pytest.raises(StoreError, match=r"space\.limits\.macs: max 1000000, now none; ") as refused:
        open_study(unlimited)
    assert "objectives: val_accuracy, macs, throughput_ips, now val_accuracy, params" in str(refused.value)


def test_of_two_networks_the_fields_are_named_in_which_they_differ(tmp_path: Path) -> None:
    """The branches begin with image sizes, which are the same; what else differs was shown as "16, 16, now 16, 16"."""
    lists = "dimensions:\n  branches.0.embed_dim: [8, 16]\n"
    base = "base:\n  image_size: 16\n  branches:\n{}\n{}\n  encoders:\n    - {{depths: [1, {}]}}\n"
    branch = "    - {{image_size: 16, patch_size: {}, embed_dim: {}, num_heads: 2}}"
    spaces = [
        write_space(tmp_path, f"name: mine\n{base.format(branch.format(4, 16), branch.format(8, wide), depth)}{lists}")
        and resolve(tmp_path, space=str(tmp_path / "mine.yaml"), data="digits")
        for wide, depth in ((32, 1), (64, 2))
    ]
    open_study(spaces[0]).close()
    with pytest.raises(StoreError) as refused:
        open_study(spaces[1])
    assert "(space.base.branches.1.embed_dim: 32, now 64; space.base.encoders.0.depths: [1, 1], now [1, 2]); " in str(
        refused.value
    )


def test_of_another_space_only_the_name_is_said(tmp_path: Path) -> None:
    open_study(resolve(tmp_path, space="smoke", name="s")).close()
    with pytest.raises(StoreError, match=r"was started with something else \(space: smoke, now small\); repeat"):
        open_study(resolve(tmp_path, space="small", name="s"))


def test_of_many_differences_few_are_said() -> None:
    many = {"recipe": {f"setting{number}": number for number in range(9)}}
    shown = describe_differences(many, {"recipe": dict.fromkeys(many["recipe"], -1)})
    assert shown == [*(f"recipe.setting{number}: {number}, now -1" for number in range(5)), "and 4 more"]


@pytest.mark.parametrize(
    ("stored", "asked", "said"),
    [
        (
            [{"metric": "macs", "direction": "min"}],
            [{"metric": "macs", "direction": "max"}],
            ["objectives.0.direction: min, now max"],
        ),
        (
            [{"metric": "macs", "label": "FLOPs"}],
            [{"metric": "params", "label": "parameters"}],
            ["objectives: macs, now params"],
        ),
        ([{"metric": "macs"}], [{"metric": "macs"}], []),
        ([{"a": 1}, {"a": 2}], [{"a": 1}], ["objectives: 2 parts, now 1 part"]),
        ([1, 2], [1, 3], ["objectives: [1, 2], now [1, 3]"]),
    ],
)
def test_lists_that_differ(stored: list[object], asked: list[object], said: list[str]) -> None:
    assert describe_differences({"objectives": stored}, {"objectives": asked}) == said


def test_budgets_samplers_and_rounds_that_cannot_be_are_bad_input(tmp_path: Path) -> None:
    for asked, message in (
        ({"space": "small", "sampler": "brute_force"}, "'small' has 311,040, more than 20,000"),
        ({"sampler": "tpee"}, "unknown sampler 'tpee'; did you mean 'tpe'"),
        ({"hours": -1.0}, "hours must be a number above 0"),
        ({"plateau": 0}, "plateau must be a number of trials"),
    ):
        with pytest.raises(StudyConfigError, match=message):
            resolve(tmp_path, **{"space": "smoke", **asked})
    with pytest.raises(SpaceError, match="cannot enqueue 'crossvit_18_240' in space 'smoke'"):
        resolve(tmp_path, space="smoke", enqueue=("crossvit_18_240",))
    assert not [path for path in (tmp_path / "runs").glob("*") if path.name != ".data"]


def test_a_deterministic_search_has_rounds_of_its_workers_and_says_what_it_cannot_repeat(tmp_path: Path) -> None:
    study = resolve(tmp_path, space="smoke", deterministic=True, workers=3)
    assert study.round_size == study.describe()["round_size"] == 3
    assert any("throughput_ips is measured and never twice the same" in note for note in study.notes)
    study = resolve(tmp_path, space="smoke", deterministic=True, workers=3, objectives=("val_accuracy", "macs"))
    assert not study.notes
    assert resolve(tmp_path, space="smoke", workers=3).round_size == 0
    study = resolve(tmp_path, space="smoke", deterministic=True, workers=1, stopping="optimistic")
    assert (study.round_size, study.stopping.rule) == (1, "optimistic")


def test_a_study_of_the_first_version_is_gone_on_with(tmp_path: Path) -> None:
    """The reference study was written before studies had stopping rules, rounds, budgets, and times of events."""
    shutil.copytree(REFERENCE, tmp_path / "runs" / "small-digits")
    before = front(load_frame(REFERENCE))
    session = run_study(resolve(tmp_path, trials=81), InProcessExecutor(SyntheticEvaluation()))
    assert [outcome.trial for outcome in session.outcomes] == list(range(81))
    after = load_frame(tmp_path / "runs" / "small-digits")
    assert set(front(after[after["trial"] < 80])["trial"]) == set(before["trial"])
    assert after["arch_key"].is_unique
