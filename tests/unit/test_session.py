"""The session's rules, with a searcher that walks a list and an executor that is this test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterator
from pathlib import Path

import pytest

from crossvit_core import PRESETS, ArchConfig
from results.records import Asked, Event, Finished, Rung, Started
from results.store import StudyStore
from search.searcher import Proposal
from search.session import MAX_ATTEMPTS, MAX_FAILURES_IN_A_ROW, Session, StudyFailedError
from search.trial import Trial

BASE = PRESETS["crossvit_nano_16"]


class ListSearcher:
    """Proposes architectures with 2, 3, 4, ... classes; remembers what it was told."""

    def __init__(self, count: int = 1000) -> None:
        self.count = count
        self.told: list[int] = []
        self.restored: list[int] = []

    def ask(self, number: int, taken: Container[str]) -> Proposal | None:
        if number >= self.count:
            return None
        arch = BASE.replace(num_classes=number + 2)
        assert arch.key() not in taken
        return Proposal(arch, "list")

    def restore(self, asked: Asked) -> None:
        self.restored.append(asked.trial)

    def tell(self, finished: Finished) -> None:
        self.told.append(finished.trial)


OpenSession = Callable[..., tuple[Session, ListSearcher]]


@pytest.fixture
def open_session(tmp_path: Path) -> Iterator[OpenSession]:
    """Opens the session of study 's' (or another name) as a new process would: the one before is closed first."""
    with contextlib.ExitStack() as stores:

        def open_one(
            name: str = "s", trials: int = 4, seed: int = 0, count: int = 1000
        ) -> tuple[Session, ListSearcher]:
            stores.close()
            path = tmp_path / name
            store = StudyStore.open(path) if StudyStore.exists(path) else StudyStore.create(path, {})
            stores.enter_context(store)
            searcher = ListSearcher(count)
            return Session(store, searcher, trials=trials, seed=seed), searcher

        yield open_one


def written(tmp_path: Path) -> list[Event]:
    return list(StudyStore.open_readonly(tmp_path / "s").events())


def outcome(trial: Trial, status: str = "ok") -> Finished:
    return Finished(
        trial=trial.number,
        status=status,  # type: ignore[arg-type]
        arch_key=trial.arch_key,
        arch=trial.arch.to_dict(),
        seed=trial.seed,
        seconds=1.0,
        device="cpu",
        metrics={"val_accuracy": 0.5},
        error="" if status == "ok" else "broken",
    )


def rung(trial: Trial, epoch: int = 1) -> Rung:
    return Rung(trial=trial.number, epoch=epoch, metrics={"val_accuracy": 0.5}, decision="continue")


def test_the_budget_is_handed_out_once(open_session: OpenSession) -> None:
    session, searcher = open_session(trials=3)
    trials = [session.next_trial() for _ in range(5)]
    assert [t.number for t in trials if t] == [0, 1, 2]
    assert trials[3:] == [None, None]
    assert not session.is_over()
    for trial in trials[:3]:
        assert trial is not None
        session.record(outcome(trial))
    assert session.is_over()
    assert searcher.told == [0, 1, 2]


def test_asked_is_on_the_disk_before_the_trial_is_handed_out(open_session: OpenSession, tmp_path: Path) -> None:
    session, _ = open_session()
    trial = session.next_trial()
    assert trial is not None
    events = written(tmp_path)
    assert [type(event) for event in events] == [Started, Asked]
    assert ArchConfig.from_dict(events[1].arch) == trial.arch  # type: ignore[union-attr]


def test_a_resumed_session_hands_out_unfinished_trials_first_under_their_numbers(open_session: OpenSession) -> None:
    session, _ = open_session()
    first, second = session.next_trial(), session.next_trial()
    assert first and second
    session.record(outcome(second))
    resumed, searcher = open_session()
    assert searcher.restored == [0, 1]
    assert searcher.told == [1]
    again, new = resumed.next_trial(), resumed.next_trial()
    assert again and new
    assert (again.number, again.arch, again.seed) == (first.number, first.arch, first.seed)
    assert new.number == 2


def test_a_second_outcome_of_a_trial_is_passed_over(open_session: OpenSession) -> None:
    session, searcher = open_session()
    trial = session.next_trial()
    assert trial
    session.record(outcome(trial))
    session.record(outcome(trial, "failed"))
    session.record_lost(trial, "late news")
    assert searcher.told == [0]
    assert [o.status for o in session.outcomes] == ["ok"]


def test_a_rung_reported_twice_is_written_once(open_session: OpenSession, tmp_path: Path) -> None:
    session, _ = open_session()
    trial = session.next_trial()
    assert trial
    assert session.report(rung(trial)) == session.report(rung(trial)) == "continue"
    resumed, _ = open_session()
    resumed.next_trial()
    assert resumed.report(rung(trial)) == "continue"
    events = written(tmp_path)
    assert sum(isinstance(event, Rung) for event in events) == 1


def test_an_architecture_on_record_under_another_key_is_taken(open_session: OpenSession, tmp_path: Path) -> None:
    arch = BASE.replace(num_classes=2)  # which the searcher proposes first
    with StudyStore.create(tmp_path / "s", {}) as store:
        store.append(Asked(trial=0, arch_key="0123456789ab", arch=arch.to_dict(), seed=0, source="tpe"))
    session, searcher = open_session()
    session.next_trial()
    with pytest.raises(AssertionError):  # of the searcher's, which looks at what is taken
        searcher.ask(0, session._taken)


def test_a_lost_trial_comes_again_and_is_given_up_in_the_end(open_session: OpenSession) -> None:
    session, searcher = open_session(trials=1)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        trial = session.next_trial()
        assert trial
        assert (trial.number, trial.attempt) == (0, attempt)
        session.record_lost(trial, "killed by signal 9")
    assert session.next_trial() is None
    assert session.is_over()
    assert searcher.told == [0]
    assert session.outcomes[0].status == "lost"
    assert "killed by signal 9" in session.outcomes[0].error


def test_an_exhausted_space_ends_the_study_with_the_reason(open_session: OpenSession) -> None:
    session, _ = open_session(count=1)
    trial = session.next_trial()
    assert trial
    assert session.next_trial() is None
    assert not session.is_over()
    session.record(outcome(trial))
    assert session.is_over()
    assert "every architecture" in session.stop_reason


def test_failures_in_a_row_stop_the_study_with_the_last_error(open_session: OpenSession) -> None:
    session, _ = open_session(trials=100)
    with pytest.raises(StudyFailedError, match=f"{MAX_FAILURES_IN_A_ROW} trials in a row came to nothing; .*broken"):
        for _ in range(100):
            trial = session.next_trial()
            assert trial
            session.record(outcome(trial, "failed"))
    assert len(session.outcomes) == MAX_FAILURES_IN_A_ROW


def test_the_budget_can_be_raised(open_session: OpenSession) -> None:
    session, _ = open_session(trials=1)
    trial = session.next_trial()
    assert trial
    session.record(outcome(trial))
    resumed, _ = open_session(trials=2)
    more = resumed.next_trial()
    assert more
    assert more.number == 1
    assert resumed.next_trial() is None


def test_training_seeds_follow_from_study_seed_and_architecture(open_session: OpenSession) -> None:
    session, _ = open_session()
    first, second = session.next_trial(), session.next_trial()
    other, _ = open_session("t", seed=1)
    moved = other.next_trial()
    assert first and second and moved
    assert first.seed != second.seed
    assert first.seed != moved.seed
