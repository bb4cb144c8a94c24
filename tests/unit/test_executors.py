"""Every executor through the same contract, with real processes that are really killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crossvit_core.recipe import TrainRecipe
from results.records import Decision, Finished, Rung
from results.store import StudyStore
from search.executors.base import Executor
from search.executors.local import InProcessExecutor, ProcessExecutor
from search.executors.ray_tune import RayExecutor
from search.objectives import find_objectives
from search.optuna_searcher import OptunaSearcher
from search.plan import Plan
from search.session import MAX_ATTEMPTS, Session, StudyFailedError
from search.synthetic import SyntheticEvaluation
from space import load_space

PLAN = Plan(TrainRecipe(), Path("unused"), None)

# Ray takes five seconds to notice each dead worker: one of each kind is for the slow tests.
FAULTS: dict[str, dict[int, str]] = {
    "in-process": {2: "nan"},
    "processes": {2: "nan", 3: "kill_once", 5: "kill", 7: "vanish"},
    "ray": {2: "nan", 3: "kill_once"},
    "ray-slow": {2: "nan", 3: "kill_once", 5: "kill", 7: "vanish"},
}

MakeExecutor = Callable[[SyntheticEvaluation], Executor]

IN_PROCESS = pytest.param(lambda evaluate: InProcessExecutor(evaluate), id="in-process")
PROCESSES = pytest.param(lambda evaluate: ProcessExecutor(2, evaluate), id="processes")
RAY = pytest.param(lambda evaluate: RayExecutor(2, evaluate=evaluate), id="ray", marks=pytest.mark.ray)
RAY_SLOW = pytest.param(
    lambda evaluate: RayExecutor(2, evaluate=evaluate), id="ray-slow", marks=[pytest.mark.ray, pytest.mark.slow]
)
ALL = [IN_PROCESS, PROCESSES, RAY]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StudyStore]:
    with StudyStore.create(tmp_path / "study", {}) as made:
        yield made


def make_session(store: StudyStore, trials: int, cls: type[Session] = Session, **options: Any) -> Session:
    objectives = find_objectives(("val_accuracy", "macs"))
    searcher = OptunaSearcher(load_space("small").space, objectives, sampler="random", trials=trials, seed=0)
    return cls(store, searcher, trials=trials, seed=0, **options)


def starts_of(folder: Path) -> dict[int, int]:
    """How often each trial was started."""
    counts: dict[int, int] = {}
    for path in folder.iterdir():
        number = int(path.name.split("-")[0])
        counts[number] = counts.get(number, 0) + 1
    return counts


@pytest.mark.parametrize("make_executor", [*ALL, RAY_SLOW])
def test_faults_are_outcomes_and_every_trial_is_settled_once(
    make_executor: MakeExecutor, store: StudyStore, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    faults = FAULTS[request.node.callspec.id]
    starts = tmp_path / "starts"
    starts.mkdir()
    session = make_session(store, 12)
    make_executor(SyntheticEvaluation(faults=faults, starts_dir=starts)).run(session, PLAN)
    assert session.is_over()
    outcomes = session.outcomes
    assert [outcome.trial for outcome in outcomes] == list(range(12))
    assert len({outcome.arch_key for outcome in outcomes}) == 12
    lost = {outcome.trial for outcome in outcomes if outcome.status == "lost"}
    assert lost == {number for number, fault in faults.items() if fault in ("kill", "vanish")}
    expected = {n: MAX_ATTEMPTS if n in lost else 2 if faults.get(n) == "kill_once" else 1 for n in range(12)}
    assert starts_of(starts) == expected


class HalvingSession(Session):
    """Stops every trial with an odd number at its first rung."""

    def report(self, rung: Rung) -> Decision:
        super().report(rung)
        return "stop" if rung.trial % 2 else "continue"


@pytest.mark.parametrize("make_executor", ALL)
def test_a_stopped_trial_is_a_record_of_its_rung(make_executor: MakeExecutor, store: StudyStore) -> None:
    session = make_session(store, 6, HalvingSession)
    make_executor(SyntheticEvaluation()).run(session, PLAN)
    statuses = [outcome.status for outcome in session.outcomes]
    assert statuses == ["ok", "stopped"] * 3
    assert {outcome.metrics["epochs"] for outcome in session.outcomes if outcome.status == "stopped"} == {1}


class DyingSession(Session):
    """Fails while it writes the third outcome down, as a full disk would."""

    def record(self, finished: Finished) -> None:
        if len(self.outcomes) == 2:
            raise StudyFailedError("cannot write")
        super().record(finished)


@pytest.mark.parametrize("make_executor", ALL)
def test_an_error_of_the_session_comes_out_unchanged(make_executor: MakeExecutor, store: StudyStore) -> None:
    session = make_session(store, 12, DyingSession)
    with pytest.raises(StudyFailedError, match="cannot write"):
        make_executor(SyntheticEvaluation()).run(session, PLAN)
    assert len(session.outcomes) == 2


def test_more_trials_than_workers_run_at_no_time(store: StudyStore) -> None:
    most = 0

    def watch(event: object) -> None:
        nonlocal most
        most = max(most, len(session.running))

    session = make_session(store, 8, listeners=[watch])
    ProcessExecutor(2, SyntheticEvaluation(seconds=0.01)).run(session, PLAN)
    assert most <= 2
    assert len(session.outcomes) == 8
