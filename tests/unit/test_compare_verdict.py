"""The page that compares studies says who is ahead, where, and in which settings they differ."""

from __future__ import annotations

import html
import math
from pathlib import Path
from typing import Any

import pytest

from results.compare import load_comparison
from results.compare_page import write_comparison
from results.compare_verdict import differing_settings, stretches, verdict
from results.metrics import cost_metric

POINTS = {"a": ((0.6, 1000), (0.8, 10_000)), "b": ((0.5, 1000), (0.9, 10_000))}


def compare(new_study: Any, tmp_path: Path, points: Any = None, **changes: dict[str, Any]) -> Any:
    """Studies of these points, (accuracy, FLOPs); ``changes`` are by study."""
    for name, rows in (points or POINTS).items():
        study = new_study(name, **changes.get(name, {}))
        for accuracy, macs in rows:
            study.add(accuracy, macs)
    return load_comparison(tmp_path, list(points or POINTS))


def test_who_covers_more_and_where_each_is_ahead(new_study: Any, tmp_path: Path) -> None:
    longer = {"recipe": {"epochs": 5}}
    comparison = compare(new_study, tmp_path, b=longer)
    first, second = verdict(comparison)
    # Up to one million FLOPs: a has 0.6 x 3 + 0.2 x 2 decades, b 0.5 x 3 + 0.4 x 2.
    assert first == "b has the largest hypervolume, 2.3000, 4.5 % more than a (2.2000)."
    assert second == (
        "At equal FLOPs: a is ahead from 1.00 k to 10.0 k, by up to 10.0 points; "
        "b is ahead from 10.0 k on, by up to 10.0 points."
    )
    page = html.unescape(write_comparison(comparison).read_text(encoding="utf-8"))
    assert page.index(first) < page.index("Side by side")


def test_equal_studies_are_said_to_be_equal(new_study: Any, tmp_path: Path) -> None:
    same = dict.fromkeys(("a", "b"), POINTS["a"])
    comparison = compare(new_study, tmp_path, same)
    assert verdict(comparison) == [
        "a and b have the same hypervolume, 2.2000.",
        "Their fronts in accuracy and FLOPs are the same.",
    ]
    assert differing_settings(comparison) == []
    assert "No setting: the studies were asked for alike" in write_comparison(comparison).read_text(encoding="utf-8")


def test_studies_that_differ_in_their_seed_alone_are_told_apart_by_luck(new_study: Any, tmp_path: Path) -> None:
    comparison = compare(new_study, tmp_path, b={"seed": 1})
    assert verdict(comparison)[-1] == "They differ in their seed alone: what lies between them is luck of the search."


def test_a_cheap_end_that_one_study_has_alone_is_no_finite_lead(new_study: Any, tmp_path: Path) -> None:
    comparison = compare(new_study, tmp_path, {"a": ((0.6, 1000),), "b": ((0.9, 10_000),)})
    first, second = stretches(comparison.runs, comparison.cost)
    assert first.leaders == ("a",) and math.isinf(first.lead)
    assert second.leaders == ("b",) and second.lead == pytest.approx(30)
    assert "a is ahead from 1.00 k to 10.0 k, where the other has nothing at first" in " ".join(verdict(comparison))


def test_on_an_axis_where_more_is_better_the_fast_end_comes_first(new_study: Any, tmp_path: Path) -> None:
    for name, rows in {"a": ((0.6, 900.0),), "b": ((0.5, 900.0), (0.9, 100.0))}.items():
        study = new_study(name)
        for accuracy, ips in rows:
            study.add(accuracy, 1000, throughput_ips=ips)
    runs = load_comparison(tmp_path, ["a", "b"]).runs
    cost = cost_metric("throughput_ips")
    runs = [run._replace(members=run.findings.points) for run in runs]
    assert [(each.leaders, each.start) for each in stretches(runs, cost)] == [(("a",), 900), (("b",), 100)]


def test_many_stretches_are_told_as_shares(new_study: Any, tmp_path: Path) -> None:
    points = {
        "a": [(0.10 + 0.1 * (index // 2), 1000 * 2**index) for index in range(0, 8, 2)],
        "b": [(0.15 + 0.1 * (index // 2), 1000 * 2**index) for index in range(1, 8, 2)],
    }
    told = verdict(compare(new_study, tmp_path, points))[1]
    assert told.startswith("At equal FLOPs, in decades: a is ahead over 57 % of the range by up to 5.0 points; b is")


def test_different_data_have_no_winner(new_study: Any, tmp_path: Path) -> None:
    other = {"data": {"name": "digits", "fingerprint": "cd"}}
    assert verdict(compare(new_study, tmp_path, b=other)) == [
        "The studies did not use the same data, so none of them is ahead of another."
    ]


IMAGES = {"name": "birds", "num_images": 400, "num_classes": 2, "class_names": ["a", "b"], "splits": {"val": 200}}
SMALL = {**IMAGES, "fingerprint": "ab", "image_size": [16, 16], "mean": [0.51], "std": [0.21]}
LARGE = {**IMAGES, "fingerprint": "cd", "image_size": [32, 32], "mean": [0.52], "std": [0.22]}


def test_the_same_images_at_other_sizes_can_be_compared(new_study: Any, tmp_path: Path) -> None:
    comparison = compare(new_study, tmp_path, a={"data": SMALL}, b={"data": LARGE})
    first, *_, last = verdict(comparison)
    assert first == "b has the largest hypervolume, 2.3000, 4.5 % more than a (2.2000)."
    assert last == "They read the same images at other sizes: a at 16 x 16; b at 32 x 32 pixels."
    page = write_comparison(comparison).read_text(encoding="utf-8")
    assert last in page
    assert "did not use the same data" not in page


@pytest.mark.parametrize(
    "change",
    [
        {"name": "cars"},
        {"splits": {"val": 100}},
        {"class_names": ["a", "c"]},
        {"image_size": [16, 16]},  # of one size, and yet other pixels: other images, or other splits
        {"image_size": None},
    ],
)
def test_other_images_stay_other_images_at_any_size(new_study: Any, tmp_path: Path, change: dict[str, Any]) -> None:
    comparison = compare(new_study, tmp_path, a={"data": SMALL}, b={"data": {**LARGE, **change}})
    assert verdict(comparison) == ["The studies did not use the same data, so none of them is ahead of another."]
    assert "their accuracies are not comparable" in write_comparison(comparison).read_text(encoding="utf-8")


def test_a_study_without_results_is_compared_with_nothing(new_study: Any, tmp_path: Path) -> None:
    assert verdict(compare(new_study, tmp_path, {"a": POINTS["a"], "b": ()})) == []


def test_settings_that_hold_several_parts_are_words(new_study: Any, tmp_path: Path) -> None:
    limits = [{"metric": "latency_ms", "min": None, "max": 3.0}, {"metric": "energy_mj", "min": 0.5, "max": None}]
    comparison = compare(new_study, tmp_path, b={"measure": {"batch_size": 32, "pairs": 60, "limits": limits}})
    words = "metric latency_ms, max 3; metric energy_mj, min 0.5"
    assert differing_settings(comparison) == [("measure.limits", "-", words)]


def test_all_settings_that_differ_are_named(new_study: Any, tmp_path: Path) -> None:
    changes = {"recipe": {"epochs": 5, "lr": 0.1}, "seed": 7}
    comparison = compare(new_study, tmp_path, b=changes)
    assert set(differing_settings(comparison)) == {
        ("recipe.epochs", "2", "5"),
        ("recipe.lr", "-", "0.1"),
        ("seed", "0", "7"),
    }
    page = write_comparison(comparison).read_text(encoding="utf-8")
    assert "<td>recipe.epochs</td><td>2</td><td>5</td>" in page
