"""Trials whose worker is lost, hangs, or runs out of memory: what the session and the executors' queue make of it."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from crossvit_core.recipe import TrainRecipe
from results.frame import build_frame, complete, front
from results.records import Asked, Finished, Rung
from results.store import StudyStore
from search.budget import Budget, Spending
from search.executors.base import TrialQueue, run_guarded, spoils_worker
from search.executors.conversation import Conversation, Loss, pack_event, pack_trial, unpack_trial
from search.executors.local import InProcessExecutor
from search.executors.worker_process import WorkerProcess
from search.objectives import find_objectives
from search.optuna_searcher import OptunaSearcher
from search.outcomes import (
    broken_outcome,
    is_memory_error,
    out_of_memory_outcome,
    overdue_outcome,
    ran_out_of_memory,
    stopped_outcome,
)
from search.plan import MeasurePlan, Plan
from search.session import MAX_ATTEMPTS, MAX_FAILED_STARTS_IN_A_ROW, Session, StudyFailedError
from search.synthetic import SyntheticEvaluation
from search.trial import Trial
from space import load_space

PLAN = Plan(TrainRecipe(), Path("unused"), None)
OpenSession = Callable[..., Session]


@pytest.fixture
def open_session(tmp_path: Path) -> Iterator[OpenSession]:
    with StudyStore.create(tmp_path / "study", {}) as store:

        def open_one(trials: int = 8, spending: Spending | None = None) -> Session:
            objectives = find_objectives(("val_accuracy", "macs"))
            searcher = OptunaSearcher(load_space("small").space, objectives, sampler="random", trials=trials, seed=0)
            return Session(store, searcher, trials=trials, seed=0, spending=spending)

        yield open_one


def take(session: Session) -> Trial:
    trial = session.next_trial()
    assert trial is not None
    return trial


def finished(trial: Trial) -> Finished:
    *_, last = SyntheticEvaluation()(trial, PLAN)
    assert isinstance(last, Finished)
    return last


def too_big(trial: Trial) -> Finished:
    return out_of_memory_outcome(trial, "tried to allocate 2 GiB", 1.0)


def test_a_trial_that_never_started_is_not_held_against_it(open_session: OpenSession) -> None:
    """One machine's death makes many errors; the trials waiting for it come again with all their attempts."""
    session = open_session()
    for handed_out in range(1, 10):
        trial = take(session)
        assert (trial.number, trial.attempt) == (0, handed_out)
        session.record_lost(trial, "its machine is gone", started=False)
    for _ in range(MAX_ATTEMPTS):
        session.record_lost(take(session), "killed by signal 9")
    assert [(o.status, o.error) for o in session.outcomes] == [("lost", "lost 3 times; last: killed by signal 9")]


def report_rung(session: Session, trial: Trial, **metrics: float) -> Rung:
    rung = Rung(trial=trial.number, epoch=3, metrics={"val_accuracy": 0.5, **metrics}, decision="continue")
    session.report(rung)
    return rung


def lose_for_good(session: Session, seconds: float) -> Finished:
    """The outcome of trial 0, which reports a rung in its first attempt alone and dies after ``seconds`` in each."""
    for attempt in range(MAX_ATTEMPTS):
        trial = take(session)
        if attempt == 0:
            report_rung(session, trial, measure_seconds=2.0, train_seconds=30.0)
        session.record_lost(trial, "killed by signal 9", seconds=seconds)
    return session.outcomes[0]


@pytest.mark.parametrize(("seconds", "expected"), [(20.0, 60.0), (0.0, 32.0)])
def test_a_lost_trial_keeps_what_its_last_rung_says_and_what_it_took(
    open_session: OpenSession, seconds: float, expected: float
) -> None:
    """By the clocks of its attempts or, where earlier drivers had those, by the rung."""
    session = open_session()
    outcome = lose_for_good(session, seconds)
    assert (outcome.status, outcome.seconds) == ("lost", expected)
    assert outcome.metrics == {"val_accuracy": 0.5, "measure_seconds": 2.0, "train_seconds": 30.0, "epochs": 3}


def test_what_a_lost_trial_took_is_spent(open_session: OpenSession) -> None:
    session = open_session(spending=Spending(Budget(device_hours=60 / 3600)))
    lose_for_good(session, 20.0)
    assert session.next_trial() is None
    assert session.stop_reason == "its 0.0166667 device-hours are spent"


def test_a_lost_trial_with_an_accuracy_is_no_result(open_session: OpenSession) -> None:
    session = open_session()
    lost = lose_for_good(session, 1.0)
    asked = Asked(trial=0, arch_key=lost.arch_key, arch=lost.arch, seed=0, source="tpe")
    frame = build_frame([asked, dataclasses.replace(lost, metrics={**lost.metrics, "macs": 1e6})])
    assert frame[["status", "val_accuracy", "macs"]].to_numpy().tolist() == [["lost", 0.5, 1e6]]
    assert complete(frame, "macs").empty and front(frame).empty


def test_workers_that_cannot_start_end_the_study_with_the_reason(open_session: OpenSession) -> None:
    session = open_session()
    with pytest.raises(StudyFailedError, match="24 workers in a row did not start; the last: no torch"):
        for _ in range(MAX_FAILED_STARTS_IN_A_ROW):
            session.record_lost(take(session), "no torch", started=False)
    assert session.outcomes == []


def test_one_that_starts_breaks_the_row(open_session: OpenSession) -> None:
    session = open_session()
    for _ in range(3):
        for _ in range(MAX_FAILED_STARTS_IN_A_ROW - 1):
            session.record_lost(take(session), "no torch", started=False)
        session.record(finished(take(session)))
    assert len(session.outcomes) == 3


def test_out_of_memory_is_tried_once_more_alone(open_session: OpenSession) -> None:
    session = open_session()
    first, second = take(session), take(session)
    session.record(too_big(first))
    assert session.outcomes == []
    again = take(session)
    assert (again.number, again.attempt, again.alone) == (first.number, 2, True)
    session.record(too_big(again))
    session.record(finished(second))
    assert [outcome.status for outcome in session.outcomes] == ["failed", "ok"]
    assert session.outcomes[0].error == (
        "out of memory on its machine, which it had to itself: tried to allocate 2 GiB"
    )
    assert take(session).number == 2


def test_each_attempt_without_memory_counts_with_the_time_that_it_took(open_session: OpenSession) -> None:
    session = open_session()
    session.record(dataclasses.replace(too_big(take(session)), seconds=100.0))
    session.record(dataclasses.replace(too_big(take(session)), seconds=50.0))
    assert [outcome.seconds for outcome in session.outcomes] == [150.0]


def test_a_trial_alone_waits_for_the_others_and_they_for_it(open_session: OpenSession) -> None:
    session = open_session()
    queue = TrialQueue(session, shares_devices=True)
    first, second = queue.pull(0), queue.pull(1)
    assert first and second
    session.record(too_big(first))
    assert queue.pull(1) is None
    assert queue.pull(1) is None
    session.record(finished(second))
    alone = queue.pull(0)
    assert alone and alone.alone and alone.number == first.number
    assert queue.pull(1) is None
    session.record(finished(alone))
    third, fourth = queue.pull(0), queue.pull(1)
    assert third and fourth
    assert [third.number, fourth.number] == [2, 3]


def test_where_each_worker_has_its_device_nobody_waits(open_session: OpenSession) -> None:
    session = open_session()
    queue = TrialQueue(session, shares_devices=False)
    first = queue.pull(0)
    assert first and queue.pull(1)
    session.record(too_big(first))
    alone = queue.pull(1)
    assert alone and alone.alone
    assert queue.pull(2) is not None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError("no"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA driver error: out of memory"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("memory"), False),
    ],
)
def test_errors_of_memory_are_told_from_others(error: Exception, expected: bool) -> None:
    assert is_memory_error(error) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("AcceleratorError: CUDA error: device-side assert triggered", True),
        ("RuntimeError: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", True),
        ("ValueError: a mistake", False),
    ],
)
def test_a_worker_whose_gpu_is_in_disorder_trains_no_more(
    error: str, expected: bool, open_session: OpenSession
) -> None:
    assert spoils_worker(broken_outcome(take(open_session()), error, 1.0)) is expected


def test_torchs_own_error_of_memory_is_one() -> None:
    import torch

    assert is_memory_error(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60)
    assert is_memory_error(raised.value)


def test_what_an_evaluation_raises_is_its_outcome(open_session: OpenSession) -> None:
    trial = take(open_session())
    *_, event = run_guarded(SyntheticEvaluation(faults={0: "raise"}), trial, PLAN)
    assert isinstance(event, Finished)
    assert (event.status, event.error) == ("failed", "RuntimeError: asked to fail")
    assert not spoils_worker(event)
    *_, event = run_guarded(SyntheticEvaluation(faults={0: "oom"}), trial, PLAN)
    assert isinstance(event, Finished)
    assert ran_out_of_memory(event) and spoils_worker(event)


def test_a_trial_travels_as_plain_data(open_session: OpenSession) -> None:
    trial = take(open_session())
    assert unpack_trial(json.loads(json.dumps(pack_trial(trial)))) == trial


def talk_of(session: Session, **options: Any) -> Conversation:
    return Conversation(session, Plan(TrainRecipe(), Path("unused"), None, **options), shares_devices=True)


def test_a_run_that_is_full_is_followed_by_one_that_goes_on(open_session: OpenSession) -> None:
    talk = talk_of(open_session())
    assert talk.allow_pulls(1)
    assert talk.pull("a") is not None and talk.is_run_full()
    talk.settle("a", None, Loss("defect", "no"))
    assert talk.allow_pulls(2) and not talk.is_run_full()
    assert talk.pull("b") is not None
    assert not talk.allow_pulls(2), "this run ended early: something is wrong with it"


@pytest.mark.parametrize(
    ("loss", "begun", "ends"),
    [
        (Loss("infrastructure", "node died"), False, None),
        (Loss("infrastructure", "node died"), True, None),
        (Loss("defect", "ValueError: no"), True, ("failed", "ValueError: no")),
        (Loss("memory", "14 of 15 GB"), True, None),
        (None, True, None),
    ],
)
def test_what_a_loss_means(
    open_session: OpenSession, loss: Loss | None, begun: bool, ends: tuple[str, str] | None
) -> None:
    session = open_session()
    talk = talk_of(session)
    talk.pull("a")
    if begun:
        talk.begin("a")
    talk.settle("a", None, loss)
    assert [(o.status, o.error) for o in session.outcomes] == ([ends] if ends else [])
    again = take(session)
    assert (again.number, again.alone) == ((1, False) if ends else (0, loss is not None and loss.kind == "memory"))


def test_a_run_is_overdue_once_and_from_its_beginning(open_session: OpenSession) -> None:
    session = open_session()
    talk = talk_of(session, trial_minutes=1e-9)
    talk.pull("a")
    assert talk.overdue() == []
    talk.begin("a")
    assert talk.overdue() == ["a"]
    assert talk.overdue() == []
    talk.settle("a", None, Loss("infrastructure", "killed"))
    assert session.outcomes[0].status == "failed"
    assert "took longer than 1e-09 minutes" in session.outcomes[0].error


@pytest.mark.parametrize("outcome", ["overdue", "memory", "defect"])
def test_an_outcome_that_no_evaluation_brought_keeps_what_is_on_record(open_session: OpenSession, outcome: str) -> None:
    """After an attempt of 100 s that was lost and a rung that knows of 32 s."""
    session = open_session()
    trial = take(session)
    report_rung(session, trial, measure_seconds=2.0, train_seconds=30.0)
    session.record_lost(trial, "killed by signal 9", seconds=100.0)
    trial = dataclasses.replace(take(session), alone=True)
    session.record(
        {
            "overdue": overdue_outcome(trial, 5, 300.0),
            "memory": dataclasses.replace(too_big(trial), error="no", seconds=300.0),
            "defect": broken_outcome(trial, "ValueError: no", 300.0),
        }[outcome]
    )
    assert [(o.status, o.seconds, o.metrics.get("epochs")) for o in session.outcomes] == [("failed", 400.0, 3)]


def test_what_an_evaluation_brings_itself_stands(open_session: OpenSession) -> None:
    session = open_session()
    trial = take(session)
    report_rung(session, trial, train_seconds=30.0)
    session.record_lost(trial, "killed by signal 9", seconds=100.0)
    diverged = dataclasses.replace(broken_outcome(take(session), "the loss is not finite", 40.0), metrics={"macs": 1.0})
    session.record(diverged)
    assert [(o.seconds, o.metrics) for o in session.outcomes] == [(40.0, {"macs": 1.0})]


class Stopping(Session):
    """Stops every trial at its first rung."""

    def report(self, rung: Rung) -> Any:
        super().report(rung)
        return "stop"


def test_a_stopped_run_is_settled_once(open_session: OpenSession) -> None:
    session = open_session()
    session.__class__ = Stopping
    talk = talk_of(session, device="cuda:0")
    config = talk.pull("a")
    assert config is not None
    rung = Rung(trial=0, epoch=1, metrics={"val_accuracy": 0.5}, decision="continue")
    assert not talk.goes_on("a", pack_event(rung))
    talk.settle("a", pack_event(rung))
    assert [(outcome.status, outcome.device) for outcome in session.outcomes] == [("stopped", "cuda:0")]
    assert stopped_outcome(unpack_trial(config), rung, 1.0, "cpu").metrics["epochs"] == 1


def drive_in_process(session: Session, rung: Rung, pass_seconds: Callable[[float], None]) -> None:
    def report(trial: Trial, plan: Plan) -> Iterator[Rung]:
        pass_seconds(5)
        yield rung

    InProcessExecutor(report).run(session, PLAN)


def fake_worker() -> tuple[WorkerProcess, Connection]:
    """For a worker's messages, without the process: the driver's end, and where to send them."""
    worker = WorkerProcess(multiprocessing.get_context("spawn"), PLAN, None)
    worker.connection.close()
    worker.connection, far_end = multiprocessing.Pipe()
    return worker, far_end


def begun_worker(session: Session, pass_seconds: Callable[[float], None]) -> tuple[WorkerProcess, Connection]:
    """Five seconds into a trial that waited a hundred for its process."""
    worker, far_end = fake_worker()
    worker.give(take(session))
    pass_seconds(100)
    far_end.send("begun")
    worker.settle(session)
    pass_seconds(5)
    return worker, far_end


def drive_worker_process(session: Session, rung: Rung, pass_seconds: Callable[[float], None]) -> None:
    worker, far_end = begun_worker(session, pass_seconds)
    far_end.send(rung)
    worker.settle(session)
    worker.end()


def drive_lost_process(session: Session, pass_seconds: Callable[[float], None]) -> None:
    worker, far_end = begun_worker(session, pass_seconds)
    far_end.close()
    worker.process.kill()
    worker.settle(session)
    worker.end()


def drive_lost_ray(session: Session, pass_seconds: Callable[[float], None]) -> None:
    talk = talk_of(session)
    talk.pull("a")
    pass_seconds(100)
    talk.begin("a")
    pass_seconds(5)
    talk.settle("a", None, Loss("infrastructure", "killed"))


def drive_ray(session: Session, rung: Rung, pass_seconds: Callable[[float], None]) -> None:
    talk = talk_of(session)
    talk.pull("a")
    pass_seconds(100)
    talk.begin("a")
    pass_seconds(5)
    talk.goes_on("a", pack_event(rung))


@pytest.mark.parametrize("drive", [drive_lost_process, drive_lost_ray])
def test_the_clocks_of_lost_attempts_are_added_up(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch, drive: Callable[..., None]
) -> None:
    """From where each was begun, for which it waits 100 s here."""
    moments = [1000.0]
    monkeypatch.setattr(time, "perf_counter", lambda: moments[-1])
    session = open_session(trials=1)
    for _ in range(MAX_ATTEMPTS):
        drive(session, lambda passed: moments.append(moments[-1] + passed))
    assert [(outcome.status, outcome.seconds) for outcome in session.outcomes] == [("lost", 15.0)]


@pytest.mark.parametrize(
    ("known", "seconds"),
    [({"measure_seconds": 2.0, "train_seconds": 30.5}, 32.5), ({"train_seconds": 30.5}, 30.5), ({}, 5.0)],
)
@pytest.mark.parametrize("drive", [drive_in_process, drive_worker_process, drive_ray])
def test_the_seconds_of_a_stopped_trial_are_those_of_its_worker(
    open_session: OpenSession,
    monkeypatch: pytest.MonkeyPatch,
    drive: Callable[..., None],
    known: dict[str, float],
    seconds: float,
) -> None:
    """Of all its attempts, as the rung says; else since it was begun, for which it waits 100 s here."""
    moments = [1000.0]
    monkeypatch.setattr(time, "perf_counter", lambda: moments[-1])
    session = open_session(trials=1)
    session.__class__ = Stopping
    rung = Rung(trial=0, epoch=1, metrics={"val_accuracy": 0.5, **known}, decision="continue")
    drive(session, rung, lambda passed: moments.append(moments[-1] + passed))
    assert [outcome.seconds for outcome in session.outcomes] == [seconds]


def test_all_that_ran_comes_again_when_ray_breaks(open_session: OpenSession) -> None:
    session = open_session()
    talk = talk_of(session)
    for run_id in "abc":
        talk.pull(run_id)
        talk.begin(run_id)
    talk.abandon()
    assert session.outcomes == []
    assert [take(session).number for _ in range(4)] == [0, 1, 2, 3]


def test_one_break_of_ray_ends_no_study_however_many_ran(open_session: OpenSession) -> None:
    """Each of many workers would otherwise count as one that did not start."""
    session = open_session(trials=2 * MAX_FAILED_STARTS_IN_A_ROW)
    for _ in range(3):
        talk = talk_of(session)
        for run_id in range(MAX_FAILED_STARTS_IN_A_ROW + 1):
            talk.pull(str(run_id))
            talk.begin(str(run_id))
        talk.abandon()
    assert take(session).number == 0


def test_a_trial_that_waits_to_be_alone_is_not_lost_when_ray_breaks(open_session: OpenSession) -> None:
    session = open_session(trials=2)
    talk = talk_of(session)
    first, second = talk.pull("a"), talk.pull("b")
    assert first and second
    talk.settle("a", pack_event(too_big(unpack_trial(first))))
    assert talk.pull("c") is None, "it waits for the second one"
    talk.abandon()
    talk = talk_of(session)
    config = talk.pull("d")
    assert config is not None
    again = unpack_trial(config)
    assert (again.number, again.attempt, again.alone) == (0, 2, True)
    assert talk.pull("e") is None
    talk.settle("d", pack_event(finished(again)))
    config = talk.pull("e")
    assert config is not None
    talk.settle("e", pack_event(finished(unpack_trial(config))))
    assert session.is_over()
    assert [outcome.trial for outcome in session.outcomes] == [0, 1]


def test_a_trial_that_no_worker_had_is_taken_back_as_if_it_had_never_been_handed_out(
    open_session: OpenSession,
) -> None:
    session = open_session()
    take(session)
    for _ in range(MAX_FAILED_STARTS_IN_A_ROW + 1):
        trial = take(session)
        assert (trial.number, trial.attempt) == (1, 1)
        session.take_back(trial)
        assert session.running == {0}


def test_a_network_that_memory_cannot_hold_is_a_failure_of_that_kind(open_session: OpenSession, tmp_path: Path) -> None:
    """A real refusal of the allocator: a batch of a million million images."""
    from crossvit_core.data import load_dataset
    from search.evaluate import evaluate

    data = load_dataset("digits", image_size=(16, 16), limit=200, cache_dir=tmp_path / "data")
    assert data.cache_path is not None
    trial = take(open_session())
    trial = dataclasses.replace(trial, arch=trial.arch.replace(in_channels=1, num_classes=10), alone=True)
    plan = Plan(TrainRecipe(), data.cache_path, None, device="cpu", measure=MeasurePlan(batch_size=10**12))
    (event,) = evaluate(trial, plan)
    assert isinstance(event, Finished)
    assert event.error.startswith("out of memory on cpu, which it had to itself: ")
    assert event.metrics["macs"] > 0
    assert spoils_worker(event)
