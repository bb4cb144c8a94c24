"""Early stopping in a study: what is on record of a stopped trial, what a resumed study does, what may be asked for."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from crossvit_core.config import ArchConfig
from crossvit_core.recipe import TrainRecipe
from results.frame import complete, front, load_frame, progress
from results.picks import pick_members
from results.records import Asked, Event, Finished, Rung
from results.store import StoreError, StudyStore
from results.tables import front_cells
from search.executors.local import InProcessExecutor, ProcessExecutor
from search.objectives import find_objectives
from search.optuna_searcher import OptunaSearcher
from search.outcomes import stopped_outcome, worker_seconds
from search.plan import MeasurePlan, Plan
from search.session import Session
from search.stopping import NeverStop, Stopping, StoppingError, Verdict, make_rule
from search.study import resolve_study
from search.study_config import StudyConfig, StudyConfigError
from search.study_folder import open_study
from search.synthetic import SyntheticEvaluation
from search.trial import Trial
from space import SpaceError, load_space

BOTH = ("val_accuracy", "macs")
ALL = (*BOTH, "throughput_ips")
SYNTHETIC_EPOCHS = 3
SYNTHETIC_RUNGS = (0.34, 0.67)
PLAN = Plan(TrainRecipe(), Path("unused"), None)


def open_session(
    store: StudyStore, name: str, trials: int, sampler: str = "random", round_size: int = 0, **settings: object
) -> Session:
    objectives = find_objectives(ALL)
    stopping = Stopping(name, rungs=SYNTHETIC_RUNGS, **settings)  # type: ignore[arg-type]
    searcher = OptunaSearcher(load_space("smoke").space, objectives, sampler=sampler, trials=trials, seed=0)
    rule = make_rule(stopping, objectives, SYNTHETIC_EPOCHS)
    return Session(store, searcher, trials=trials, seed=0, stopping=rule, round_size=round_size)


@pytest.fixture
def study(tmp_path: Path) -> Iterator[StudyStore]:
    with StudyStore.create(tmp_path / "study", {}) as made:
        yield made


@pytest.mark.parametrize("workers", [0, 2])
def test_stopped_trials_are_records_that_say_why_and_no_results(study: StudyStore, workers: int) -> None:
    session = open_session(study, "asha", 16, eta=2)
    evaluate = SyntheticEvaluation()
    (ProcessExecutor(workers, evaluate) if workers else InProcessExecutor(evaluate)).run(session, PLAN)
    stopped = [outcome for outcome in session.outcomes if outcome.status == "stopped"]
    assert 3 <= len(stopped) < 16
    decisions = {(e.trial, e.epoch): e for e in study.events() if isinstance(e, Rung) and e.decision == "stop"}
    for outcome in stopped:
        event = decisions[(outcome.trial, int(outcome.metrics["epochs"]))]
        assert outcome.metrics == {**event.metrics, "epochs": event.epoch}
        assert {
            "val_accuracy",
            "macs",
            "params",
            "throughput_ips",
            "rung_better",
            "rung_results",
        } <= event.metrics.keys()
    check_not_among_the_results(study.path, {outcome.trial for outcome in stopped})


def check_not_among_the_results(path: Path, stopped: set[int]) -> None:
    # Even if it were the best there is: a stopped trial's accuracy is made perfect, and nothing may change.
    frame = load_frame(path)
    better = frame.assign(val_accuracy=frame["val_accuracy"].where(~frame["trial"].isin(list(stopped)), 1.0))
    for cost in ("macs", "params", "throughput_ips"):
        members = front(better, cost)
        assert len(members) and not stopped & set(members["trial"])
        assert members.equals(front(frame, cost))
        assert not stopped & set(complete(better, cost)["trial"])
        assert not stopped & {pick.trial for pick in pick_members(members, cost)}
        assert front_cells(members) == front_cells(front(frame, cost))
        np.testing.assert_array_equal(progress(better, cost)[0], progress(frame, cost)[0])


class Interrupted(Exception):
    """The driver dies."""


class DyingStore(StudyStore):
    """Dies just after its ``writes``-th event is on the disk."""

    writes = 0

    def append(self, event: Event) -> None:
        super().append(event)
        self.writes -= 1
        if self.writes == 0:
            raise Interrupted


def ledger_of(path: Path) -> list[Event]:
    """What was asked, seen and found, without what differs between two runs: the clock, and how often it started."""
    events = [event for event in StudyStore.open_readonly(path).events() if isinstance(event, (Asked, Rung, Finished))]
    events = [dataclasses.replace(event, time=0.0) for event in events]
    return [dataclasses.replace(e, seconds=0.0, device="") if isinstance(e, Finished) else e for e in events]


@pytest.mark.parametrize(
    ("name", "sampler", "round_size"),
    [
        ("optimistic", "tpe", 0),
        ("optimistic", "tpe", 1),
        ("pareto_rank", "nsga2", 1),
        ("asha", "tpe", 3),
        ("hyperband", "random", 0),
    ],
)
def test_a_study_that_is_killed_and_resumed_is_the_unbroken_one(
    tmp_path: Path, name: str, sampler: str, round_size: int
) -> None:
    def run(path: Path, writes: int = 0) -> None:
        with DyingStore.open(path) if StudyStore.exists(path) else DyingStore.create(path, {}) as store:
            store.writes = writes  # type: ignore[attr-defined]
            session = open_session(store, name, 14, sampler, round_size, max_killed=0.3, eta=2)
            InProcessExecutor(SyntheticEvaluation()).run(session, PLAN)

    run(tmp_path / "whole")
    whole = ledger_of(tmp_path / "whole")
    assert 1 <= sum(isinstance(event, Finished) and event.status == "stopped" for event in whole) < 14
    events = list(StudyStore.open_readonly(tmp_path / "whole").events())
    after_stop = next(i for i, event in enumerate(events, 1) if isinstance(event, Rung) and event.decision == "stop")
    for writes in (7, after_stop, after_stop + 1, len(events) - 3):
        path = tmp_path / f"killed-{writes}"
        with pytest.raises(Interrupted):
            run(path, writes)
        run(path)
        assert ledger_of(path) == whole


def test_with_one_worker_rounds_stop_the_same_trials_as_no_rounds(tmp_path: Path) -> None:
    ledgers = []
    for round_size in (0, 1):
        with StudyStore.create(tmp_path / str(round_size), {}) as store:
            session = open_session(store, "pareto_rank", 14, "tpe", round_size, eta=2)
            InProcessExecutor(SyntheticEvaluation()).run(session, PLAN)
            ledgers.append(ledger_of(store.path))
    assert ledgers[0] == ledgers[1]
    assert any(isinstance(event, Finished) and event.status == "stopped" for event in ledgers[0])


@pytest.mark.parametrize("name", ["asha", "hyperband", "pareto_rank", "optimistic"])
def test_in_rounds_it_does_not_matter_which_worker_was_faster(tmp_path: Path, name: str) -> None:
    """Three trials at a time, their rungs and ends interleaved at random: the same are stopped, at the same rungs."""
    decided = []
    for seed in range(2):
        with StudyStore.create(tmp_path / str(seed), {}) as store:
            session = open_session(store, name, 21, "nsga2", 3, max_killed=0.3, eta=2)
            interleave(session, 3, np.random.default_rng(seed))
            rungs = [event for event in store.events() if isinstance(event, Rung)]
            assert [rung.trial for rung in rungs] != sorted(rung.trial for rung in rungs)
            decided.append({(rung.trial, rung.epoch): (rung.decision, rung.metrics) for rung in rungs})
    assert decided[0] == decided[1]
    assert 1 <= sum(decision == "stop" for decision, _ in decided[0].values()) < 21


def interleave(session: Session, workers: int, rng: np.random.Generator) -> None:
    """Run the session with that many trials under way, any of which may be the next to report."""
    running: list[tuple[Trial, Iterator[Rung | Finished]]] = []
    while not session.is_over():
        while len(running) < workers and (trial := session.next_trial()) is not None:
            running.append((trial, SyntheticEvaluation()(trial, PLAN)))
        trial, events = running[int(rng.integers(len(running)))]
        event = next(events)
        if isinstance(event, Finished):
            session.record(event)
        elif session.report(event) == "continue":
            continue
        else:
            session.record(stopped_outcome(trial, event, 0.0, ""))
        running.remove((trial, events))


def test_a_decision_on_the_disk_stands_whatever_the_rule_says_now(study: StudyStore) -> None:
    arch = load_space("smoke").space.base
    for trial, decision in ((0, "stop"), (1, "continue")):
        changed: ArchConfig = arch.replace(num_classes=10 + trial)
        study.append(Asked(trial=trial, arch_key=changed.key(), arch=arch.to_dict(), seed=1, source="x"))
        metrics = {"val_accuracy": 0.3, "macs": 5.0, "train_seconds": 2.5}
        study.append(Rung(trial=trial, epoch=1, metrics=metrics, decision=decision))  # type: ignore[arg-type]

    class AlwaysStop(NeverStop):
        def decide(self, rung: Rung) -> Verdict:
            return Verdict("stop")

    searcher = OptunaSearcher(load_space("smoke").space, find_objectives(BOTH), sampler="random", trials=2, seed=0)
    session = Session(study, searcher, trials=2, seed=0, stopping=AlwaysStop())
    (outcome,) = session.outcomes  # the stopped one needs no worker any more
    assert (outcome.trial, outcome.status, outcome.metrics["epochs"], outcome.seconds) == (0, "stopped", 1, 2.5)
    trial = session.next_trial()
    assert trial is not None and trial.number == 1
    arrivals = [Rung(trial=1, epoch=epoch, metrics={"val_accuracy": 0.2}, decision="continue") for epoch in (1, 2)]
    assert [session.report(arrival) for arrival in arrivals] == ["continue", "stop"]


def real_trial(tmp_path: Path) -> tuple[Trial, Plan]:
    """A training of two epochs with a rung after the first."""
    from crossvit_core.data import load_dataset

    arch = load_space("smoke").space.for_data(num_classes=10, in_channels=1).base
    data = load_dataset("digits", image_size=arch.size, cache_dir=tmp_path / "cache", limit=200)
    assert data.cache_path is not None
    plan = Plan(
        TrainRecipe(epochs=2),
        data.cache_path,
        tmp_path / "trials",
        device="cpu",
        rungs=(1,),
        measure=MeasurePlan(pairs=10, window_ms=1.0),
    )
    return Trial(0, arch, arch.key(), 1), plan


def test_a_rung_holds_all_that_is_known_and_a_stopped_trial_keeps_its_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from search.evaluate import evaluate

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # not to wait for whoever measures on this machine
    trial, plan = real_trial(tmp_path)
    events = evaluate(trial, plan)
    event = next(events)
    assert isinstance(event, Rung)
    scores = {"val_accuracy", "val_loss", "train_loss", "train_seconds", "train_cpu_seconds"}
    known_before = {"macs", "params", "activations", "throughput_ips", "throughput_iqr", "measure_seconds"}
    assert scores | known_before <= event.metrics.keys()
    events.close()  # type: ignore[attr-defined]
    (epoch,) = (plan.trial_dir(0) / "curve.jsonl").read_text().splitlines()
    assert json.loads(epoch)["val_accuracy"] == pytest.approx(event.metrics["val_accuracy"])


def test_a_trial_that_goes_on_from_a_checkpoint_counts_what_it_took_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measurement too, which is not done again."""
    from search.evaluate import evaluate

    measurements = iter([[{"measure_seconds": 1000.0}]])
    monkeypatch.setattr("search.evaluate.measure", lambda candidate: next(measurements))
    trial, plan = real_trial(tmp_path)
    events = evaluate(trial, plan)
    rung = next(events)
    events.close()  # type: ignore[attr-defined]
    *_, outcome = evaluate(dataclasses.replace(trial, attempt=2), plan)
    assert isinstance(outcome, Finished) and outcome.status == "ok"
    assert outcome.metrics["train_seconds"] > rung.metrics["train_seconds"]
    assert outcome.seconds > worker_seconds(outcome.metrics) > 1000


# What is asked for ---------------------------------------------------------------------------------------------------

SPACE = """\
name: mine
base: crossvit_nano_16
dimensions:
  branches.0.embed_dim: [8, 16]
study:
  data: digits
  epochs: 16
"""


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optimstic", "unknown stopping rule 'optimstic'; did you mean 'optimistic'"),
        (["asha"], "stopping must be a rule's name or a mapping"),
        ({"rule": "asha", "et": 3}, "unknown stopping setting 'et'; did you mean 'eta'"),
        ({"rule": "asha", "eta": 1}, "eta must be a whole number of at least 2, got 1"),
        ({"rule": "optimistic", "max_killed": 0}, "max_killed must be a share above 0 and up to 0.5, got 0"),
        ({"rule": "optimistic", "rungs": [0.5, 1]}, "rungs must be shares of the epochs between 0 and 1"),
    ],
)
def test_a_setting_that_cannot_be_is_said_in_one_sentence(setting: object, message: str) -> None:
    with pytest.raises(StoppingError, match=message):
        Stopping.from_setting(setting)


def resolve(tmp_path: Path, lines: str = "", **asked: object) -> StudyConfig:
    path = tmp_path / "mine.yaml"
    path.write_text(SPACE + lines)
    return StudyConfig(space=str(path), runs_dir=tmp_path / "runs", **asked)  # type: ignore[arg-type]


def test_the_space_file_recommends_a_rule_and_the_command_decides(tmp_path: Path) -> None:
    lines = "  stopping: {rule: optimistic, max_killed: 0.1, rungs: [0.25, 0.5]}\n"
    study = resolve_study(resolve(tmp_path, lines))
    assert study.plan.rungs == (4, 8)
    assert study.describe()["stopping"] == {"rule": "optimistic", "max_killed": 0.1}
    changed = resolve_study(resolve(tmp_path, lines, stopping="asha"))
    assert changed.describe()["stopping"] == {"rule": "asha", "eta": 3}
    plain = resolve_study(resolve(tmp_path))
    assert (plain.describe()["stopping"], plain.plan.rungs) == ({"rule": "none"}, (2, 4, 8))
    with pytest.raises(SpaceError, match="line 8: unknown stopping rule 'asa'"):
        resolve_study(resolve(tmp_path, "  stopping: asa\n"))
    with pytest.raises(
        StudyConfigError, match="max_killed is a setting of the stopping rule optimistic, not of 'asha'"
    ):
        resolve_study(resolve(tmp_path, stopping="asha", max_killed=0.1))
    with pytest.raises(StudyConfigError, match="judges by val_accuracy, which is none of the objectives"):
        resolve_study(resolve(tmp_path, stopping="asha", objectives=("macs", "params")))


def test_the_rule_is_part_of_what_a_study_is(tmp_path: Path) -> None:
    study = resolve_study(resolve(tmp_path))
    with open_study(study) as store:
        older = {name: value for name, value in store.study.items() if name != "stopping"}
        store.write_json("study.json", older)  # as written before there were rules
    open_study(study).close()
    other = resolve_study(resolve(tmp_path, stopping="optimistic"))
    with pytest.raises(StoreError, match=r"stopping\.rule: none, now optimistic"):
        open_study(other)
