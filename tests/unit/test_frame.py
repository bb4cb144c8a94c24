"""A ledger as a table, and its fronts."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from results.architecture import abbreviate_columns, arch_columns, describe_arch
from results.frame import RUNNING, build_frame, front, load_frame, progress
from results.records import STATUSES, Asked, Finished
from results.store import StoreError

ARCH: dict[str, Any] = {
    "image_size": 16,
    "branches": [
        {"image_size": 16, "patch_size": 4, "embed_dim": 16, "num_heads": 2},
        {"image_size": 16, "patch_size": 8, "embed_dim": 32, "num_heads": 2},
    ],
    "encoders": [{"depths": [1, 2]}, {"depths": [1, 2]}],
}


def test_one_row_a_trial_in_every_state(typical_study: Any, tmp_path: Path) -> None:
    frame = load_frame(tmp_path / "s")
    assert frame["trial"].tolist() == list(range(10))
    assert frame["status"].tolist() == ["ok"] * 5 + ["stopped", "infeasible", "failed", "lost", RUNNING]
    assert set(STATUSES) < set(frame["status"])
    assert frame["order"].tolist() == [*range(9), -1]
    assert frame.loc[2, ["fusion", "patches", "widths", "depths", "num_encoders"]].tolist() == [
        "pairwise", "4/8", "16/32", "1+2", 2,
    ]  # fmt: skip
    assert frame.loc[0, "source"] == "preset:nano"
    assert frame.loc[7, "error"] == "DivergedError: the loss is no longer finite"
    assert math.isnan(frame.loc[7, "macs"])
    assert frame.loc[3, "epoch"] == 1


def test_front_holds_ok_trials_cheapest_first(typical_study: Any, tmp_path: Path) -> None:
    frame = load_frame(tmp_path / "s")
    # Trial 5 was stopped with the best accuracy of all, at the lowest cost.
    assert front(frame)["trial"].tolist() == [0, 2, 3]
    assert front(frame, "params")["trial"].tolist() == [0, 2, 3]
    assert front(frame, "throughput_ips")["trial"].tolist() == [1, 0, 2, 3]


def test_a_stopped_trial_shows_its_last_rung(new_study: Any, tmp_path: Path) -> None:
    new_study().add(None, 5000, status="stopped", rung=0.4)
    frame = load_frame(tmp_path / "s")
    assert frame.loc[0, "val_accuracy"] == 0.4
    assert front(frame).empty


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_stay_off_the_front(new_study: Any, tmp_path: Path, bad: float) -> None:
    study = new_study()
    study.add(bad, 10_000)
    study.add(0.5, bad)
    assert front(load_frame(tmp_path / "s")).empty
    study.add(0.5, 10_000)
    assert front(load_frame(tmp_path / "s"))["trial"].tolist() == [2]


def test_ties_are_all_kept(new_study: Any, tmp_path: Path) -> None:
    study = new_study()
    for _ in range(3):
        study.add(0.9, 1000)
    assert front(load_frame(tmp_path / "s"))["trial"].tolist() == [0, 1, 2]


def test_an_empty_study_has_the_same_columns(typical_study: Any, new_study: Any, tmp_path: Path) -> None:
    new_study("empty")
    empty, full = load_frame(tmp_path / "empty"), load_frame(tmp_path / "s")
    assert empty.empty
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()
    assert front(empty).empty
    assert progress(empty)[0].tolist() == []


def test_metrics_of_a_later_version_are_kept_and_cannot_overwrite(new_study: Any, tmp_path: Path) -> None:
    new_study().add(0.9, 1000, energy_j=3.5, trial=77.0)
    frame = load_frame(tmp_path / "s")
    assert frame.loc[0, "energy_j"] == 3.5
    assert frame["trial"].tolist() == [0]


def test_progress_is_accuracy_times_decades(new_study: Any, tmp_path: Path) -> None:
    study = new_study()
    study.add(0.5, 100_000)
    study.add(status="failed")
    study.add(0.4, 10_000)
    study.add(1.0, 10_000_000)
    values, reference = progress(load_frame(tmp_path / "s"), limit=1_000_000)
    assert reference.tolist() == [1.0, 6.0]
    # One decade at 0.5; then one more at 0.4; the last lies beyond the limit.
    assert values.tolist() == pytest.approx([0.5, 0.5, 0.9, 0.9])


def test_progress_over_throughput_counts_decades_of_speed(new_study: Any, tmp_path: Path) -> None:
    study = new_study()
    study.add(0.5, 1000, throughput_ips=1000.0)
    study.add(0.5, 1000, throughput_ips=20.0)
    values, _ = progress(load_frame(tmp_path / "s"), "throughput_ips")
    # The slowest has 20 images/s, so the reference is 10.
    assert values.tolist() == pytest.approx([1.0, 1.0])


def test_an_unknown_cost_is_named_with_the_known_ones(new_study: Any, tmp_path: Path) -> None:
    new_study()
    with pytest.raises(ValueError, match=r"'flops'; known: activations, energy_mj, latency_ms, macs, params"):
        front(load_frame(tmp_path / "s"), "flops")


def test_a_missing_study_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no study 'nothing'"):
        load_frame(tmp_path / "nothing")


def test_many_trials_and_seeds_beyond_64_bits() -> None:
    arch = copy.deepcopy(ARCH)

    def events() -> object:
        for trial in range(20_000):
            metrics = {"val_accuracy": trial % 997 / 1000, "macs": 1000 + trial * 7919 % 100_003}
            about = {"trial": trial, "arch_key": str(trial), "arch": arch, "seed": 2**63 + trial}
            yield Asked(**about, source="tpe")
            yield Finished(**about, status="ok", seconds=1.0, device="cpu", metrics=metrics)

    frame: pd.DataFrame = build_frame(events())  # type: ignore[arg-type]
    assert len(frame) == 20_000
    assert progress(frame)[0][-1] > 0


def test_architecture_in_words() -> None:
    words = describe_arch(copy.deepcopy(ARCH))
    assert words == "patch 4/8, width 16/32, K=2, depth 1+2, cross-attention, linear stem, heads 2, MLP x4"
    assert describe_arch({}) == ""


def test_options_are_in_the_words_only_where_they_are_on() -> None:
    plain = arch_columns(ARCH)
    assert plain["options"] == ""
    assert abbreviate_columns(plain).endswith(")")
    encoders = [{"depths": [1, 2], "windows": [4, 0]}, {"depths": [1, 2]}]
    branches = [ARCH["branches"][0], {**ARCH["branches"][1], "conv_path": True}]
    options = {"residual_attention": {"where": [0, 1], "fusion": True}, "head": {"kind": "exshortcut"}}
    words = describe_arch({**ARCH, **options, "encoders": encoders, "branches": branches})
    assert words.endswith(
        "residual attention 0+1 + residual fusion + convolutions 1 + windows 4/0, 0 + ExShortcut head"
    )


def test_encoders_that_differ_are_told_apart() -> None:
    arch = copy.deepcopy(ARCH)
    arch["encoders"] = [{"depths": [1, 2]}, {"depths": [0, 3], "fusion": "none"}]
    arch["branches"][1].update(mlp_ratio=1.5, stem="conv", num_heads=4)
    columns = arch_columns(arch)
    assert columns["fusion"] == "mixed"
    assert columns["depths"] == "1+2, 0+3"
    assert columns["options"] == "fusion cross-attention, no fusion"
    assert (columns["mlp_ratios"], columns["stem"], columns["heads"]) == ("4/1.5", "linear/conv", "2/4")
