"""Several studies on one page: one corner for all volumes, attainment over seeds, and every state of a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from results.compare import attainment, comparison_dir, load_comparison
from results.compare_page import build_comparison, write_comparison
from results.plots_compare import comparison_figures
from results.store import StoreError


@pytest.fixture
def two_seeds(new_study: Any) -> tuple[Any, Any]:
    """Two studies that differ in their seed alone."""
    first, second = new_study("a", seed=0), new_study("b", seed=1)
    for accuracy, macs in ((0.6, 1000), (0.8, 10_000)):
        first.add(accuracy, macs)
    for accuracy, macs in ((0.5, 1000), (0.9, 10_000)):
        second.add(accuracy, macs)
    return first, second


def test_volumes_are_measured_from_one_corner(new_study: Any, tmp_path: Path) -> None:
    limited = {"name": "small", "limits": {"macs": {"max": 100_000}}}
    new_study("tight", space=limited).add(0.5, 10_000)
    new_study("loose").add(0.5, 10_000)
    runs = {run.name: run for run in load_comparison(tmp_path, ["tight", "loose"]).runs}
    # The loosest limit, one million: two decades above the point, at half of all accuracy.
    assert runs["tight"].volumes.tolist() == pytest.approx([1.0])
    assert runs["loose"].volumes.tolist() == pytest.approx([1.0])


def test_the_corner_is_frozen(new_study: Any, tmp_path: Path) -> None:
    unlimited = {"name": "small"}
    studies = [new_study(name, space=unlimited) for name in ("a", "b")]
    for study in studies:
        study.add(0.5, 5_000)
    page = write_comparison(load_comparison(tmp_path, ["a", "b"]))
    corner = json.loads((page.parent / "reference.json").read_text(encoding="utf-8"))
    assert corner == {"cost": "macs", "error": 1.0, "log10_cost": 4.0}
    before = load_comparison(tmp_path, ["a", "b"]).runs[0].volumes
    studies[1].add(0.9, 5_000_000)
    # In any order the same studies are the same comparison.
    after = load_comparison(tmp_path, ["b", "a"]).runs[1].volumes
    assert after.tolist() == before.tolist()


def test_a_corner_is_kept_only_once_there_is_one(new_study: Any, tmp_path: Path) -> None:
    studies = [new_study(name, space={"name": "small"}) for name in ("a", "b")]
    page = write_comparison(load_comparison(tmp_path, ["a", "b"]))
    assert "Without a trained architecture, so missing from the plots: a, b." in page.read_text(encoding="utf-8")
    assert not (page.parent / "reference.json").exists()
    studies[0].add(0.5, 5_000)
    assert load_comparison(tmp_path, ["a", "b"]).runs[0].volumes[-1] > 0


def test_attainment_of_two_seeds(two_seeds: Any, tmp_path: Path) -> None:
    comparison = load_comparison(tmp_path, ["a", "b"])
    (group,) = comparison.groups.values()
    assert {run.name for run in group} == {"a", "b"}
    surfaces = attainment(group, comparison.cost)
    assert list(surfaces) == [50, 100]
    np.testing.assert_allclose(np.sort(surfaces[50], axis=0), [[1000, 60], [10_000, 90]])
    np.testing.assert_allclose(np.sort(surfaces[100], axis=0), [[1000, 50], [10_000, 80]])


def test_attainment_of_three_seeds_has_a_median(two_seeds: Any, new_study: Any, tmp_path: Path) -> None:
    new_study("c", seed=2).add(0.7, 1000)
    comparison = load_comparison(tmp_path, ["a", "b", "c"])
    (group,) = comparison.groups.values()
    surfaces = attainment(group, comparison.cost)
    cheapest = {share: surface[surface[:, 0] == 1000][0, 1] for share, surface in surfaces.items()}
    assert cheapest == {33: pytest.approx(70), 50: pytest.approx(60), 100: pytest.approx(50)}


def test_no_two_comparisons_share_a_folder(tmp_path: Path) -> None:
    long = [f"{'a' * 40}-seed{seed}" for seed in range(10)]
    asked = [["a", "b-c"], ["a-b", "c"], long[:4], [*long[:3], long[9]]]
    assert len({comparison_dir(tmp_path, names) for names in asked}) == 4
    assert all(len(comparison_dir(tmp_path, names).name) <= 150 for names in asked)
    assert comparison_dir(tmp_path, long) == comparison_dir(tmp_path, long[::-1])


@pytest.mark.parametrize("part", ["measure", "budget", "round_size"])
def test_studies_that_spent_or_admitted_something_else_are_no_group(part: str, new_study: Any, tmp_path: Path) -> None:
    new_study("a").add(0.5, 1000)
    new_study("b", seed=1, **{part: 7}).add(0.5, 1000)
    assert load_comparison(tmp_path, ["a", "b"]).groups == {}


def test_studies_that_differ_in_more_than_the_seed_are_no_group(new_study: Any, tmp_path: Path) -> None:
    new_study("a").add(0.5, 1000)
    new_study("b", recipe={"epochs": 9}).add(0.5, 1000)
    comparison = load_comparison(tmp_path, ["a", "b"])
    assert comparison.groups == {}
    assert "The studies did not train with the same recipe." in build_comparison(comparison)


def test_the_page_is_the_same_twice(two_seeds: Any, tmp_path: Path) -> None:
    page = write_comparison(load_comparison(tmp_path, ["a", "b"]))
    first = {path.name: path.read_bytes() for path in page.parent.iterdir()}
    write_comparison(load_comparison(tmp_path, ["a", "b"]))
    assert {path.name: path.read_bytes() for path in page.parent.iterdir()} == first
    assert sorted(first) == ["index.html", "reference.json"]
    assert page.parent.name == "compare-a+b"


def test_what_is_drawn(two_seeds: Any, tmp_path: Path) -> None:
    drawn = {one.name: one.figure for one in comparison_figures(load_comparison(tmp_path, ["a", "b"]))}
    assert list(drawn) == ["fronts", "volumes", "volumes-seconds", "attainment-0"]
    marks = [trace for trace in drawn["fronts"].data if trace.mode == "markers"]
    assert [(trace.name, list(trace.y)) for trace in marks] == [("a", [60, 80]), ("b", [50, 90])]
    assert marks[0].customdata[0][0] == "key00000"


def test_names_from_outside_stay_text(new_study: Any, tmp_path: Path) -> None:
    new_study("a").add(0.5, 1000, key="<img src=x>")
    new_study("b").add(status="failed", error="<script>")
    page = write_comparison(load_comparison(tmp_path, ["a", "b"])).read_text(encoding="utf-8")
    assert "<img" not in page


@pytest.mark.parametrize(
    ("names", "message"),
    [(["a", "a"], "named twice"), (["a", "gone"], "no study 'gone'"), (["a", "../a"], "not a plain file name")],
)
def test_what_cannot_be_compared(new_study: Any, tmp_path: Path, names: list[str], message: str) -> None:
    new_study("a")
    with pytest.raises(StoreError, match=message):
        load_comparison(tmp_path, names)


def test_a_damaged_corner_is_told(two_seeds: Any, tmp_path: Path) -> None:
    page = write_comparison(load_comparison(tmp_path, ["a", "b"]))
    (page.parent / "reference.json").write_text("{", encoding="utf-8")
    with pytest.raises(StoreError, match="damaged"):
        load_comparison(tmp_path, ["a", "b"])
