"""What the session does about budgets, enqueued architectures, rounds, and the end of a study."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import pytest

from crossvit_core import PRESETS, ArchConfig
from results.frame import load_frame
from results.records import Asked, Ended, Event, Finished, Rung, Started
from results.store import StudyStore
from search.budget import Budget, Plateau, Spending
from search.enqueue import Enqueued
from search.objectives import find_objectives
from search.searcher import Proposal
from search.session import MAX_ATTEMPTS, Session
from search.stopping import NeverStop, Verdict
from search.trial import Trial

BASE = PRESETS["crossvit_nano_16"]
OBJECTIVES = find_objectives(("val_accuracy", "macs"))
HOUR = 3600.0


def arch(classes: int) -> ArchConfig:
    return BASE.replace(num_classes=classes)


class ListSearcher:
    """Proposes architectures with 2, 3, 4, ... classes, passing over those taken; notes what it hears, in order."""

    def __init__(self, last: int = 1000) -> None:
        self.last = last
        self.heard: list[str] = []

    def ask(self, number: int, taken: Container[str]) -> Proposal | None:
        self.heard.append(f"ask {number}")
        new = (arch(classes) for classes in range(2, self.last + 1) if arch(classes).key() not in taken)
        found = next(new, None)
        return None if found is None else Proposal(found, "list")

    def restore(self, asked: Asked) -> None:
        self.heard.append(f"restore {asked.trial}")

    def tell(self, finished: Finished) -> None:
        self.heard.append(f"tell {finished.trial}")


class StopAll(NeverStop):
    def decide(self, rung: Rung) -> Verdict:
        return Verdict("stop")


class Clock:
    def __init__(self) -> None:
        self.now = 1000 * HOUR

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


Open = Callable[..., tuple[Session, ListSearcher]]


@pytest.fixture
def open_session(tmp_path: Path, clock: Clock) -> Iterator[Open]:
    """Opens the session of study 's' as a new process would: the one before is closed first."""
    with contextlib.ExitStack() as stores:

        def open_one(trials: int = 4, last: int = 1000, budget: Budget | None = None, **options: Any) -> Any:
            stores.close()
            path = tmp_path / "s"
            store = StudyStore.open(path) if StudyStore.exists(path) else StudyStore.create(path, {})
            stores.enter_context(store)
            searcher = ListSearcher(last)
            budget = (budget or Budget()).check()
            plateau = None if budget.plateau is None else Plateau(budget.plateau, OBJECTIVES, (0.0, 7.0))
            spending = Spending(budget, plateau)
            session = Session(store, searcher, trials=trials, seed=0, spending=spending, clock=clock, **options)
            return session, searcher

        yield open_one


def written(tmp_path: Path) -> list[Event]:
    return list(StudyStore.open_readonly(tmp_path / "s").events())


def asked_sources(tmp_path: Path) -> list[str]:
    return [event.source for event in written(tmp_path) if isinstance(event, Asked)]


def outcome(trial: Trial, seconds: float = 1.0, accuracy: float = 0.5) -> Finished:
    return Finished(
        trial=trial.number,
        status="ok",
        arch_key=trial.arch_key,
        arch=trial.arch.to_dict(),
        seed=trial.seed,
        seconds=seconds,
        device="cpu",
        metrics={"val_accuracy": accuracy, "macs": 1e5},
    )


def take(session: Session) -> Trial:
    trial = session.next_trial()
    assert trial is not None
    return trial


def finish(session: Session, seconds: float = 1.0) -> int:
    """Hand out and finish trials until there are no more; how many."""
    count = 0
    while (trial := session.next_trial()) is not None:
        session.record(outcome(trial, seconds))
        count += 1
    return count


# The end -------------------------------------------------------------------------------------------------------------


def test_the_end_is_on_record_once_with_its_reason(open_session: Open, tmp_path: Path) -> None:
    session, _ = open_session(trials=2)
    take(session)
    session.end()
    assert not [event for event in written(tmp_path) if isinstance(event, Ended)]
    session, _ = open_session(trials=2)
    finish(session)
    session.end()
    again, _ = open_session(trials=2)
    assert again.is_over()
    again.end()
    assert [event.reason for event in written(tmp_path) if isinstance(event, Ended)] == ["its 2 trials are done"]
    assert isinstance(written(tmp_path)[-1], Ended)


def test_a_study_that_ended_goes_on_with_a_larger_budget(open_session: Open, tmp_path: Path) -> None:
    for trials in (1, 3):
        session, _ = open_session(trials=trials)
        finish(session)
        session.end()
    reasons = [event.reason for event in written(tmp_path) if isinstance(event, Ended)]
    assert reasons == ["its 1 trial is done", "its 3 trials are done"]
    assert len(load_frame(tmp_path / "s")) == 3


def test_a_failure_is_a_reason_too(open_session: Open, tmp_path: Path) -> None:
    session, _ = open_session()
    take(session)
    session.end("8 trials in a row came to nothing")
    event = written(tmp_path)[-1]
    assert isinstance(event, Ended) and event.reason.startswith("8 trials")


def test_an_exhausted_space_is_the_reason(open_session: Open, tmp_path: Path) -> None:
    session, _ = open_session(last=2)
    finish(session)
    session.end()
    event = written(tmp_path)[-1]
    assert isinstance(event, Ended) and "every architecture" in event.reason


def test_a_trial_that_was_lost_when_the_space_was_exhausted_is_trained_all_the_same(open_session: Open) -> None:
    session, _ = open_session(last=2)
    trial = take(session)
    assert session.next_trial() is None
    session.record_lost(trial, "killed")
    assert not session.is_over()
    assert take(session).number == 0


# Budgets -------------------------------------------------------------------------------------------------------------


def test_hours_end_a_study_and_cut_no_running_trial(open_session: Open, clock: Clock, tmp_path: Path) -> None:
    session, _ = open_session(trials=10, budget=Budget(hours=2.0))
    first = take(session)
    clock.now += 3 * HOUR
    assert session.next_trial() is None
    assert not session.is_over()
    session.record(outcome(first))
    assert session.is_over()
    assert session.stop_reason == "its 2 hours are spent"


def test_hours_are_counted_on_after_a_pause(open_session: Open, clock: Clock, tmp_path: Path) -> None:
    for _ in range(2):
        session, _ = open_session(trials=10, budget=Budget(hours=2.0))
        trial = take(session)
        clock.now += 0.9 * HOUR
        session.record(outcome(trial))
        clock.now += 100 * HOUR
    session, _ = open_session(trials=10, budget=Budget(hours=2.0))
    assert not session.is_over()
    trial = take(session)
    clock.now += 0.3 * HOUR
    session.record(outcome(trial))
    assert session.next_trial() is None
    assert sum(isinstance(event, Started) for event in written(tmp_path)) == 3


def test_a_pause_before_the_end_is_on_record_is_no_work(open_session: Open, clock: Clock) -> None:
    """Killed between the last outcome and the end: what the next process writes first is the end."""
    session, _ = open_session(trials=1)
    trial = take(session)
    clock.now += 0.1 * HOUR
    session.record(outcome(trial))
    for trials in (1, 2):
        clock.now += 100 * HOUR
        session, _ = open_session(trials=trials, budget=Budget(hours=1.0))
        session.end()
    assert session.next_trial() is not None


def test_a_pause_before_a_stop_is_acted_on_is_no_work(open_session: Open, clock: Clock, tmp_path: Path) -> None:
    """Killed between the decision and the outcome, which the next process writes first."""
    session, _ = open_session(trials=2, stopping=StopAll())
    trial = take(session)
    clock.now += 0.1 * HOUR
    session.report(Rung(trial=trial.number, epoch=1, metrics={"val_accuracy": 0.1}, decision="continue"))
    for _ in range(2):
        clock.now += 100 * HOUR
        session, _ = open_session(trials=2, budget=Budget(hours=1.0), stopping=StopAll())
    assert not session.is_over()
    kinds = [type(event) for event in written(tmp_path)]
    assert kinds == [Started, Asked, Rung, Started, Finished]


def test_a_spent_study_is_over_at_once_until_it_is_given_more(open_session: Open) -> None:
    session, _ = open_session(trials=10, budget=Budget(device_hours=1.0))
    assert finish(session, seconds=1800.0) == 2
    spent, searcher = open_session(trials=10, budget=Budget(device_hours=1.0))
    assert spent.is_over()
    assert spent.stop_reason == "its 1 device-hour is spent"
    assert "ask 2" not in searcher.heard
    more, _ = open_session(trials=10, budget=Budget(device_hours=2.0))
    assert not more.is_over()
    assert finish(more, seconds=1800.0) == 2


def test_what_was_running_is_finished_though_the_budget_is_spent(open_session: Open) -> None:
    session, _ = open_session(trials=10, budget=Budget(device_hours=1.0))
    first, second = take(session), take(session)
    session.record(outcome(first, seconds=HOUR))
    resumed, _ = open_session(trials=10, budget=Budget(device_hours=1.0))
    assert not resumed.is_over()
    assert take(resumed).number == second.number
    assert resumed.next_trial() is None


# Enqueued ------------------------------------------------------------------------------------------------------------


def test_enqueued_architectures_come_first_and_once(open_session: Open, tmp_path: Path) -> None:
    wanted = [Enqueued("preset:p", arch(500), required=False), Enqueued("enqueued:e", arch(501))]
    for trials in (1, 3, 5):
        session, _ = open_session(trials=trials, enqueued=wanted)
        finish(session)
    assert asked_sources(tmp_path) == ["enqueued:e", "preset:p", "list", "list", "list"]


def test_the_searcher_learns_of_enqueued_trials_in_their_place(open_session: Open) -> None:
    session, searcher = open_session(trials=2, enqueued=[Enqueued("enqueued:e", arch(500))])
    finish(session)
    assert searcher.heard == ["restore 0", "tell 0", "ask 1", "tell 1"]


def test_what_is_enqueued_to_a_finished_study_is_trained_beyond_its_budget(open_session: Open, tmp_path: Path) -> None:
    session, _ = open_session(trials=2)
    finish(session)
    wanted = [Enqueued("preset:p", arch(500), required=False), Enqueued("enqueued:e", arch(501))]
    resumed, _ = open_session(trials=2, enqueued=wanted)
    assert not resumed.is_over()
    assert resumed.trials == 3
    assert finish(resumed) == 1
    assert resumed.is_over()
    again, _ = open_session(trials=2, enqueued=wanted)
    assert again.is_over()
    assert asked_sources(tmp_path) == ["list", "list", "enqueued:e"]


def test_what_was_tried_already_is_not_enqueued_again(open_session: Open, tmp_path: Path) -> None:
    session, _ = open_session(trials=1)
    finish(session)
    resumed, _ = open_session(trials=2, enqueued=[Enqueued("enqueued:same", arch(2))] * 2)
    finish(resumed)
    assert asked_sources(tmp_path) == ["list", "list"]


def test_an_enqueued_trial_that_a_kill_interrupts_keeps_its_number(open_session: Open, tmp_path: Path) -> None:
    wanted = [Enqueued("enqueued:a", arch(500)), Enqueued("enqueued:b", arch(501))]
    session, _ = open_session(enqueued=wanted)
    take(session)
    resumed, _ = open_session(enqueued=wanted)
    assert [take(resumed).arch.num_classes for _ in range(2)] == [500, 501]
    assert asked_sources(tmp_path) == ["enqueued:a", "enqueued:b"]


# Rounds --------------------------------------------------------------------------------------------------------------


def test_a_round_is_asked_together_and_told_in_order_of_numbers(open_session: Open) -> None:
    session, searcher = open_session(trials=6, round_size=3)
    trials = [take(session) for _ in range(3)]
    assert session.next_trial() is None
    for index in (2, 0):
        session.record(outcome(trials[index]))
        assert session.next_trial() is None
        assert not session.is_over()
    session.record(outcome(trials[1]))
    take(session)
    assert searcher.heard == ["ask 0", "ask 1", "ask 2", "tell 0", "tell 1", "tell 2", "ask 3"]


def test_one_worker_plays_the_same_rounds(open_session: Open) -> None:
    session, searcher = open_session(trials=6, round_size=3)
    finish(session)
    asks = [f"ask {number}" for number in range(6)]
    tells = [f"tell {number}" for number in range(6)]
    assert searcher.heard == [*asks[:3], *tells[:3], *asks[3:], *tells[3:]]


def test_a_lost_trial_holds_up_its_round_and_no_longer(open_session: Open) -> None:
    session, _ = open_session(trials=4, round_size=2)
    first, second = take(session), take(session)
    session.record(outcome(second))
    for _ in range(MAX_ATTEMPTS - 1):
        session.record_lost(first, "killed")
        first = take(session)
        assert (first.number, session.next_trial()) == (0, None)
    session.record_lost(first, "killed")
    assert take(session).number == 2


def test_a_round_that_a_kill_interrupts_is_completed_first(open_session: Open) -> None:
    session, _ = open_session(trials=6, round_size=3)
    trials = [take(session) for _ in range(2)]
    session.record(outcome(trials[1]))
    resumed, searcher = open_session(trials=6, round_size=3)
    assert [take(resumed).number for _ in range(2)] == [0, 2]
    assert resumed.next_trial() is None
    assert searcher.heard == ["restore 0", "restore 1", "ask 2"]


# The second trial of the first round is the first gain; who is recorded first decides nothing.
ACCURACIES = [0.5, 0.6] + [0.6] * 38


def play_rounds(session: Session, backwards: bool, stop_after: int = 10**9) -> int:
    """Rounds of two, recorded in this order, until ``stop_after`` outcomes; how many there were."""
    count = 0
    while True:
        trials = [trial for trial in (session.next_trial(), session.next_trial()) if trial is not None]
        for trial in sorted(trials, key=lambda trial: trial.number, reverse=backwards):
            if count == stop_after:
                return count
            session.record(outcome(trial, accuracy=ACCURACIES[trial.number]))
            count += 1
        if not trials:
            return count


def test_a_plateau_of_rounds_does_not_hang_on_who_is_faster(open_session: Open) -> None:
    session, _ = open_session(trials=40, budget=Budget(plateau=3), round_size=2)
    assert play_rounds(session, backwards=False) == 6
    assert session.stop_reason.startswith("3 trials in a row")


def test_nor_does_it_the_other_way_round(open_session: Open) -> None:
    session, _ = open_session(trials=40, budget=Budget(plateau=3), round_size=2)
    assert play_rounds(session, backwards=True) == 6


@pytest.mark.parametrize("stop_after", range(1, 6))
def test_nor_on_where_it_was_interrupted(stop_after: int, open_session: Open) -> None:
    session, _ = open_session(trials=40, budget=Budget(plateau=3), round_size=2)
    play_rounds(session, backwards=True, stop_after=stop_after)
    resumed, _ = open_session(trials=40, budget=Budget(plateau=3), round_size=2)
    assert stop_after + play_rounds(resumed, backwards=False) == 6
