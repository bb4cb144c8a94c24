"""What ends a study besides its number of trials."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from results.records import Finished, Started, Status
from results.store import StudyStore
from search.budget import Budget, BudgetError, Plateau, Spending, open_spending
from search.objectives import find_objectives
from space import Limit

OBJECTIVES = find_objectives(("val_accuracy", "macs"))
HOUR = 3600.0


def finished(
    accuracy: float, macs: float = 1e6, *, status: Status = "ok", seconds: float = 0.0, at: float = 0.0
) -> Finished:
    return Finished(
        trial=0,
        status=status,
        arch_key="k",
        arch={},
        seed=0,
        seconds=seconds,
        device="cpu",
        metrics={"val_accuracy": accuracy, "macs": macs},
        time=at,
    )


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"hours": 0.0}, "hours must be a number above 0, as 1.5, got 0.0"),
        ({"hours": math.nan}, "hours must be"),
        ({"device_hours": -1.0}, "device-hours must be a number above 0"),
        ({"plateau": 0}, "plateau must be a number of trials of at least 1, got 0"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(bounds: dict[str, float], message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        Budget(**bounds).check()  # type: ignore[arg-type]


def test_without_bounds_nothing_is_exceeded() -> None:
    spending = Spending(Budget().check())
    spending.observe(finished(0.5, seconds=1e9, at=1e9))
    assert spending.exceeded(2e9) == ""


def test_hours_are_summed_over_runs_and_leave_out_what_lies_between() -> None:
    spending = Spending(Budget(hours=3.0))
    spending.observe(Started(time=100 * HOUR))
    spending.observe(finished(0.5, at=101.5 * HOUR))
    spending.close_run()
    assert spending.exceeded(500 * HOUR) == ""
    spending.observe(Started(time=200 * HOUR))
    assert spending.exceeded(201.4 * HOUR) == ""
    assert spending.exceeded(201.5 * HOUR) == "its 3 hours are spent"


def test_a_killed_run_counts_up_to_its_last_event() -> None:
    spending = Spending(Budget(hours=2.0))
    for event in (Started(time=0.0), finished(0.5, at=HOUR), Started(time=10 * HOUR), finished(0.5, at=11 * HOUR)):
        spending.observe(event)
    spending.close_run()
    assert spending.exceeded(20 * HOUR) == "its 2 hours are spent"


def test_device_hours_are_the_trials_seconds() -> None:
    spending = Spending(Budget(device_hours=0.5))
    spending.observe(finished(0.5, seconds=1799.0))
    assert spending.exceeded(0.0) == ""
    spending.observe(finished(0.1, status="failed", seconds=1.0))
    assert spending.exceeded(0.0) == "its 0.5 device-hours are spent"


def plateau_after(accuracies: list[float], patience: int, **options: object) -> list[bool]:
    plateau = Plateau(patience, OBJECTIVES, (0.0, 7.0), **options)  # type: ignore[arg-type]
    reached = []
    for accuracy in accuracies:
        plateau.add(finished(accuracy))
        reached.append(plateau.reached())
    return reached


def test_a_plateau_is_so_many_trials_without_gain() -> None:
    assert plateau_after([0.5, 0.6, 0.6, 0.6, 0.6], 3) == [False] * 4 + [True]
    assert plateau_after([0.5, 0.6, 0.6, 0.6, 0.7, 0.6, 0.6, 0.6], 3) == [False] * 7 + [True]


def test_small_steps_are_a_gain_once_they_add_up() -> None:
    """A twentieth of a percent each: three together are more than a tenth, two are not."""
    rising = [0.5 * 1.0005**step for step in range(9)]
    assert not any(plateau_after(rising, 3))
    assert any(plateau_after(rising, 1))


def test_a_search_without_a_result_is_on_no_plateau() -> None:
    assert not any(plateau_after([math.nan] * 9, 2))


def test_lost_trials_say_nothing_about_a_plateau() -> None:
    plateau = Plateau(2, OBJECTIVES, (0.0, 7.0))
    for _ in range(2):
        plateau.add(finished(0.6))
    for _ in range(5):
        plateau.add(finished(math.nan, status="lost"))
    assert not plateau.reached()
    plateau.add(finished(math.nan, status="failed"))
    assert plateau.reached()


def test_the_reference_is_fixed_by_the_first_trials_and_kept() -> None:
    kept: list[list[float]] = []
    plateau = Plateau(2, OBJECTIVES, (0.0, None), keep_reference=kept.append)
    for macs in (2e5, 3e6, 5e8):
        plateau.add(finished(0.5, macs))
    assert kept == [[0.0, 7.0]]


def test_a_resumed_study_measures_from_the_reference_on_record(tmp_path: Path) -> None:
    limits = [Limit("params", None, 10**6)]
    with StudyStore.create(tmp_path / "s", {"name": "s"}) as store:
        spending = open_spending(store, Budget(plateau=2), OBJECTIVES, limits)
        for macs in (2e5, 3e6, 3e6):
            spending.judge(finished(0.5, macs))
        assert store.study == {"format": 1, "name": "s", "hypervolume_reference": [0.0, 7.0]}
        resumed = open_spending(store, Budget(plateau=4), OBJECTIVES, limits)
        for macs in (2e8, 3e8, 3e8, 3e8):
            resumed.observe(finished(0.5, macs))
        assert store.study["hypervolume_reference"] == [0.0, 7.0]
        # Nothing lies within the reference, so nothing was gained that could fail to grow.
        assert resumed.exceeded(0.0) == ""


def test_limits_of_the_space_are_the_reference(tmp_path: Path) -> None:
    objectives = find_objectives(("val_accuracy", "macs", "throughput_ips"))
    limits = [Limit("macs", None, 4_000_000), Limit("throughput_ips", 10.0, None)]
    with StudyStore.create(tmp_path / "s", {}) as store:
        spending = open_spending(store, Budget(plateau=1), objectives, limits)
        event = finished(0.5)
        event.metrics["throughput_ips"] = 1000.0
        spending.judge(event)
        assert store.study["hypervolume_reference"] == pytest.approx([0.0, math.log10(4e6), -1.0])


def test_the_words_of_a_plateau() -> None:
    spending = Spending(Budget(plateau=1), Plateau(1, OBJECTIVES, (0.0, 7.0)))
    spending.judge(finished(0.5))
    spending.judge(finished(0.5))
    assert spending.exceeded(0.0) == "1 trial in a row raised the hypervolume by less than 0.1%"
