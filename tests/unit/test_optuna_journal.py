"""The journal for Optuna's dashboard: at every moment what the ledger says, also after a kill -9; never in the way."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage
from optuna.trial import FrozenTrial, TrialState

from crossvit_core import PRESETS
from crossvit_core.recipe import TrainRecipe
from results.records import Asked, Event, Finished, Rung, Started
from results.store import StoreError, StudyStore
from search.executors.local import InProcessExecutor
from search.mirrors import MirrorError, find_mirrors, open_mirrors
from search.objectives import find_objectives
from search.optuna_journal import JOURNAL, JournalMirror, describe_opening, write_journal
from search.optuna_searcher import OptunaSearcher
from search.plan import Plan
from search.session import Session
from search.study import resolve_study, run_study
from search.study_config import StudyConfig
from search.study_folder import open_study
from search.synthetic import SyntheticEvaluation
from space import load_space

OBJECTIVES = find_objectives(("val_accuracy", "macs"))
STATES = {"ok": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "infeasible": TrialState.PRUNED}


def load_journal(study: Path) -> list[FrozenTrial]:
    path = str(study / JOURNAL)
    storage = JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
    return optuna.load_study(study_name=study.name, storage=storage).trials


def search(path: Path, trials: int, listener: Callable[[Event], None] | None = None, seconds: float = 0.0) -> None:
    """A search over the space 'small' that trains nothing, with the mirror; goes on where the last one ended."""
    space = load_space("small").space
    asked = {
        "name": path.name,
        "space": space.to_dict(),
        "objectives": [{"metric": o.metric, "direction": o.direction} for o in OBJECTIVES],
        "trials": trials,
    }
    searcher = OptunaSearcher(space, OBJECTIVES, sampler="random", trials=trials, seed=0)
    store = StudyStore.open(path) if StudyStore.exists(path) else StudyStore.create(path, asked)
    with store, open_mirrors(("dashboard",), path) as mirrors:
        listeners = [*mirrors, *([listener] if listener is not None else [])]
        session = Session(store, searcher, trials=trials, seed=0, listeners=listeners)
        evaluate = SyntheticEvaluation(seconds=seconds, faults={1: "nan"})
        InProcessExecutor(evaluate).run(session, Plan(TrainRecipe(), Path("unused"), None))


def compare(study: Path) -> list[FrozenTrial]:
    """The journal's trials, after holding each against the ledger."""
    trials = load_journal(study)
    events = list(StudyStore.open_readonly(study).events())
    finished = {event.trial: event for event in events if isinstance(event, Finished)}
    asked = [event for event in events if isinstance(event, Asked)]
    assert [trial.number for trial in trials] == [event.trial for event in asked]
    for trial, question in zip(trials, asked):
        rungs = [event for event in events if isinstance(event, Rung) and event.trial == trial.number]
        assert trial.intermediate_values == {rung.epoch: rung.metrics["val_accuracy"] for rung in rungs}
        assert trial.user_attrs["arch_key"] == question.arch_key
        assert trial.user_attrs["architecture"]
        assert trial.datetime_start is not None
        assert trial.datetime_start.timestamp() == pytest.approx(question.time, abs=0.01)
        check_outcome(trial, finished.get(trial.number))
    return trials


def check_outcome(trial: FrozenTrial, finished: Finished | None) -> None:
    if finished is None:
        assert trial.state == TrialState.RUNNING
        return
    values = [finished.metrics.get("val_accuracy", math.nan), finished.metrics.get("macs", math.nan)]
    whole = finished.status == "ok" and all(map(math.isfinite, values))
    assert trial.state == (
        TrialState.FAIL if finished.status == "ok" and not whole else STATES.get(finished.status, TrialState.FAIL)
    )
    assert trial.user_attrs["status"] == finished.status
    assert trial.user_attrs["error"] == finished.error
    if whole:
        assert trial.values == values
    for name, value in finished.metrics.items():
        assert trial.user_attrs[name] == (value if math.isfinite(value) else str(value))


def test_at_every_event_the_journal_is_the_ledger(tmp_path: Path) -> None:
    states: set[TrialState] = set()
    search(tmp_path / "s", 4, lambda _: states.update(trial.state for trial in compare(tmp_path / "s")))
    assert states == {TrialState.RUNNING, TrialState.COMPLETE, TrialState.FAIL}
    trials = compare(tmp_path / "s")
    assert len(trials) == 4
    small = load_space("small").space
    for trial in trials:
        assert set(trial.params) <= {dimension.path for dimension in small.dimensions}
        for dimension in small.dimensions:
            if dimension.path in trial.params:
                assert trial.params[dimension.path] in dimension.choices
    path = str(tmp_path / "s" / JOURNAL)
    study = optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(path)))
    assert study.metric_names == ["val_accuracy", "macs"]


def test_a_resumed_search_writes_it_anew(tmp_path: Path) -> None:
    search(tmp_path / "s", 2)
    (tmp_path / "s" / JOURNAL).write_text('{"op_code": 0, "stu')
    (tmp_path / "s" / f"{JOURNAL}.lock").touch()
    start = time.monotonic()
    search(tmp_path / "s", 4)
    assert time.monotonic() - start < 20  # a killed writer's lock is not waited for
    assert len(compare(tmp_path / "s")) == 4
    (tmp_path / "s" / JOURNAL).unlink()
    assert write_journal(tmp_path / "s") == (tmp_path / "s" / JOURNAL).absolute()
    assert len(compare(tmp_path / "s")) == 4


def test_a_trial_that_is_settled_when_a_study_is_opened_is_settled_there_too(tmp_path: Path) -> None:
    """Killed between the decision to stop a trial and its outcome, which the next process writes before all else."""
    asked = StudyConfig(space="smoke", trials=2, runs_dir=tmp_path, dashboard=True, objectives=("val_accuracy", "macs"))
    study = resolve_study(asked)
    with open_study(study) as store:
        arch = study.space.base
        store.append(Started(time=1000.0))
        store.append(Asked(trial=0, arch_key=arch.key(), arch=arch.to_dict(), seed=1, source="random", time=1000.0))
        store.append(Rung(trial=0, epoch=1, metrics={"val_accuracy": 0.1, "macs": 1e5}, decision="stop", time=1001.0))
    run_study(study, InProcessExecutor(SyntheticEvaluation()))
    assert compare(study.path)[0].state == TrialState.PRUNED


def test_the_journal_survives_a_kill(tmp_path: Path) -> None:
    """kill -9 while trials run; then resumed to the end."""
    study = tmp_path / "s"
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path\n"
    script += f"from test_optuna_journal import search; search(Path({str(study)!r}), 200, seconds=0.01)"
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 120
    while not (study / "ledger.jsonl").exists() or (study / "ledger.jsonl").read_bytes().count(b'"finished"') < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    before = len([e for e in StudyStore.open_readonly(study).events() if isinstance(e, Finished)])
    search(study, before + 2)
    trials = compare(study)
    assert len(trials) >= before + 2
    assert all(trial.state != TrialState.RUNNING for trial in trials)


def test_a_running_mirror_keeps_the_journal_to_itself(tmp_path: Path) -> None:
    search(tmp_path / "s", 2)
    mirror = JournalMirror(tmp_path / "s")
    written = (tmp_path / "s" / JOURNAL).read_bytes()
    write_journal(tmp_path / "s")
    assert (tmp_path / "s" / JOURNAL).read_bytes() == written
    mirror.close()
    write_journal(tmp_path / "s")
    assert (tmp_path / "s" / JOURNAL).read_bytes() != written  # times of writing differ


def test_a_mirror_that_breaks_is_given_up_and_the_search_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s" / JOURNAL).mkdir(parents=True)
    search(tmp_path / "s", 2)
    assert len([e for e in StudyStore.open_readonly(tmp_path / "s").events() if isinstance(e, Finished)]) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("crossvit: dashboard is no longer kept up to date: ")
    assert len(complaint.splitlines()) == 1


def test_every_kind_of_end_has_its_state(typical_study: Any) -> None:
    write_journal(typical_study.path)
    trials = compare(typical_study.path)
    assert [trial.state.name for trial in trials] == [
        *["COMPLETE"] * 5,
        "PRUNED",
        "PRUNED",
        "FAIL",
        "FAIL",
        "RUNNING",
    ]
    assert trials[6].user_attrs["error"] == "macs 2 M over 1 M"


def test_a_starred_path_is_told_of_the_places_that_are_its_own(tmp_path: Path) -> None:
    dimensions = {"encoders.*.fusion": ["none", "cross_attention"], "encoders.0.fusion": ["none", "pairwise"]}
    study = {"space": {"dimensions": dimensions}, "objectives": [{"metric": "macs", "direction": "min"}]}
    base = PRESETS["crossvit_nano_16"]
    first, second = (dataclasses.replace(base.encoders[0], fusion=name) for name in ("pairwise", "cross_attention"))
    with StudyStore.create(tmp_path / "s", study) as store:
        for number, encoders in enumerate([(first,), (first, second)]):
            arch = base.replace(encoders=encoders)
            store.append(Asked(trial=number, arch_key=arch.key(), arch=arch.to_dict(), seed=0, source="tpe"))
    write_journal(tmp_path / "s")
    alone, both = (trial.params for trial in load_journal(tmp_path / "s"))
    assert alone == {"encoders.0.fusion": "pairwise"}
    assert both == {"encoders.0.fusion": "pairwise", "encoders.*.fusion": "cross_attention"}


def test_a_damaged_study_is_one_sentence(tmp_path: Path) -> None:
    StudyStore.create(tmp_path / "s", {"name": "s"}).close()
    with pytest.raises(StoreError, match="it names no objectives"):
        write_journal(tmp_path / "s")
    assert not (tmp_path / "s" / JOURNAL).exists()


def test_how_to_open_it(tmp_path: Path) -> None:
    words = describe_opening(tmp_path / "my runs" / JOURNAL)
    assert f"optuna-dashboard '{tmp_path}/my runs/{JOURNAL}'" in words


def test_what_may_be_mirrored(tmp_path: Path) -> None:
    assert find_mirrors({}) == ()
    assert find_mirrors({"dashboard": True}) == find_mirrors({}, dashboard=True) == ("dashboard",)
    with pytest.raises(MirrorError, match="dashboard must be true or false, got 'yes'"):
        find_mirrors({"dashboard": "yes"})
