"""A driver killed in the middle of a write leaves a ledger that ends anywhere: the search goes on as if it had not."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from crossvit_core.recipe import TrainRecipe
from results.records import Event, Started
from results.store import StudyStore
from search.executors.local import InProcessExecutor
from search.objectives import find_objectives
from search.optuna_searcher import OptunaSearcher
from search.plan import Plan
from search.session import Session
from search.stopping import Stopping, make_rule
from search.synthetic import SyntheticEvaluation
from space import load_space

TRIALS = 12
PLAN = Plan(TrainRecipe(), Path("unused"), None)
SPACE = load_space("smoke").space
OBJECTIVES = find_objectives(("val_accuracy", "macs"))


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is lost here is what was not written; waiting for the disk a thousand times would show nothing."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def go_on(folder: Path) -> list[Event]:
    """Run the study to its end from wherever its ledger stands; all its events but those about time."""
    searcher = OptunaSearcher(SPACE, OBJECTIVES, sampler="tpe", trials=TRIALS, seed=0)
    rule = make_rule(Stopping("asha", rungs=(0.34, 0.67)), OBJECTIVES, epochs=3)
    with StudyStore.open(folder) if StudyStore.exists(folder) else StudyStore.create(folder, {}) as store:
        session = Session(store, searcher, trials=TRIALS, seed=0, stopping=rule)
        InProcessExecutor(SyntheticEvaluation()).run(session, PLAN)
    events = StudyStore.open_readonly(folder).events()
    return [without_time(event) for event in events if not isinstance(event, Started)]


def without_time(event: Event) -> Event:
    changes = {name: 0.0 for name in ("time", "seconds") if hasattr(event, name)}
    return dataclasses.replace(event, **{**changes, **({"device": ""} if hasattr(event, "device") else {})})


def check_cuts(folder: Path, cuts: int) -> None:
    whole = go_on(folder / "whole")
    ledger = (folder / "whole" / "ledger.jsonl").read_bytes()
    for index in range(cuts):
        study = folder / f"cut-{index}"
        StudyStore.create(study, {}).close()
        (study / "ledger.jsonl").write_bytes(ledger[: index * len(ledger) // cuts])
        assert go_on(study) == whole, f"cut after {index * len(ledger) // cuts} bytes"


def test_a_ledger_cut_anywhere_is_gone_on_with(tmp_path: Path) -> None:
    check_cuts(tmp_path, cuts=23)


@pytest.mark.slow
def test_a_ledger_cut_anywhere_at_all_is_gone_on_with(tmp_path: Path) -> None:
    check_cuts(tmp_path, cuts=601)
