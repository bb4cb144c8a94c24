"""A retraining with other epochs than the search is never compared without a word."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import pytest

from results.epochs import describe_epochs
from results.report import write_report
from search.finalists import Wish
from search.selection import select
from search.selection_report import epochs_notes, write_selection


def again(new_study: Any, **changes: Any) -> Path:
    """A study of 2 epochs with one trial, trained again on two seeds."""
    study, retraining = new_study(), new_study("s-retrain", retrain_of="s", finalists=["one"], **changes)
    study.add(0.9, 1000, key="one")
    for accuracy in (0.95, 0.96):
        retraining.add(accuracy, 1000, key="one")
    return Path(study.path)


def test_other_epochs_are_named_in_the_report(new_study: Any) -> None:
    page = html.unescape(write_report(again(new_study, recipe={"epochs": 5})).read_text(encoding="utf-8"))
    part = page[page.index("<h2>Trained again") : page.index("<h2>The front")]
    assert "2 epochs in the search, 5 epochs when trained again" in part
    assert "A longer one may change their order" not in page


def test_other_epochs_are_named_in_the_choice(new_study: Any) -> None:
    folder = again(new_study, recipe={"epochs": 1})
    selection = select(folder, Wish())
    write_selection(folder, selection, None)
    assert "2 epochs in the search, 1 epoch when trained again" in (folder / "selection.md").read_text()
    assert epochs_notes(folder) == [describe_epochs(folder)]


@pytest.mark.parametrize("changes", [{}, {"recipe": {}}, {"recipe": {"epochs": 2}}])
def test_nothing_is_said_of_equal_or_unknown_epochs(new_study: Any, changes: dict[str, Any]) -> None:
    folder = again(new_study, **changes)
    assert describe_epochs(folder) == ""
    assert epochs_notes(folder) == []
    assert "epochs when trained again" not in write_report(folder).read_text(encoding="utf-8")


def test_a_study_without_a_retraining_says_nothing_of_epochs(typical_study: Any) -> None:
    assert describe_epochs(typical_study.path) == ""
