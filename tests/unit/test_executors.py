"""Every executor through the same contract, with real processes that are really killed."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crossvit_core.recipe import TrainRecipe
from results.records import Decision, Finished, Rung
from results.store import StudyStore
from search.executors.base import Executor, ExecutorError
from search.executors.local import InProcessExecutor, ProcessExecutor
from search.executors.ray_tune import RayExecutor
from search.interrupt import descendants
from search.objectives import find_objectives
from search.optuna_searcher import OptunaSearcher
from search.plan import Plan
from search.session import MAX_ATTEMPTS, Session, StudyFailedError
from search.synthetic import SyntheticEvaluation
from space import load_space

PLAN = Plan(TrainRecipe(), Path("unused"), None)

# Ray takes five seconds to notice each dead worker, and as long to start another: that is for the slow tests.
QUIET = {1: "missing", 2: "nan", 4: "raise", 6: "oom_in_company", 8: "oom", 10: "text"}
FAULTS: dict[str, dict[int, str]] = {
    "in-process": QUIET,
    "processes": {**QUIET, 3: "kill_once", 7: "vanish"},
    "ray-slow": {**QUIET, 3: "kill_once", 5: "kill", 7: "vanish"},
}
# How often a trial is started, and how it ends.
ENDS = {
    "missing": (1, "ok"),
    "nan": (1, "ok"),
    "raise": (1, "failed"),
    "text": (1, "failed"),
    "oom_in_company": (2, "ok"),
    "oom": (2, "failed"),
    "kill_once": (2, "ok"),
    "kill": (MAX_ATTEMPTS, "lost"),
    "vanish": (MAX_ATTEMPTS, "lost"),
}

STOPPED = (1, "stopped")

MESSAGES = {
    "raise": "RuntimeError: asked to fail",
    "text": "TypeError: metric 'val_accuracy' is no number: 'high'",
    "oom": "out of memory on its machine, which it had to itself: CUDA out of memory",
    "kill": f"lost {MAX_ATTEMPTS} times",
    "vanish": f"lost {MAX_ATTEMPTS} times",
}

MakeExecutor = Callable[[SyntheticEvaluation], Executor]

IN_PROCESS = pytest.param(lambda evaluate: InProcessExecutor(evaluate), id="in-process")
PROCESSES = pytest.param(lambda evaluate: ProcessExecutor(2, evaluate), id="processes")
RAY_SLOW = pytest.param(
    lambda evaluate: RayExecutor(2, evaluate=evaluate), id="ray-slow", marks=[pytest.mark.ray, pytest.mark.slow]
)
RAY_WHEN_SLOW = [IN_PROCESS, PROCESSES, RAY_SLOW]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StudyStore]:
    with StudyStore.create(tmp_path / "study", {}) as made:
        yield made


def make_session(
    store: StudyStore, trials: int, cls: type[Session] = Session, sampler: str = "random", **options: Any
) -> Session:
    objectives = find_objectives(("val_accuracy", "macs"))
    searcher = OptunaSearcher(load_space("small").space, objectives, sampler=sampler, trials=trials, seed=0)
    return cls(store, searcher, trials=trials, seed=0, **options)


def starts_of(folder: Path) -> dict[int, int]:
    """How often each trial was started."""
    counts: dict[int, int] = {}
    for path in folder.iterdir():
        number = int(path.name.split("-")[0])
        counts[number] = counts.get(number, 0) + 1
    return counts


def assert_alone(folder: Path, again: Path) -> None:
    """While this attempt ran, no other was begun or ended."""
    begun, ended = span_of(again)
    for path in set(folder.iterdir()) - {again}:
        assert not any(begun <= moment <= ended for moment in span_of(path)), path.name


def span_of(path: Path) -> tuple[float, float]:
    """When a start of a trial began and ended, in seconds; one that did not end is a moment."""
    begun = int(path.name.split("-")[3]) / 1e9
    return begun, json.loads(path.read_text())["ended"] if path.stat().st_size else begun


class StopsNine(Session):
    """Stops trial 9 at its first rung."""

    def report(self, rung: Rung) -> Decision:
        super().report(rung)
        return "stop" if rung.trial == 9 else "continue"


@pytest.mark.parametrize("make_executor", RAY_WHEN_SLOW)
def test_faults_are_outcomes_and_every_trial_is_settled_once(
    make_executor: MakeExecutor, store: StudyStore, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    faults = FAULTS[request.node.callspec.id]
    starts = tmp_path / "starts"
    starts.mkdir()
    session = make_session(store, 12, StopsNine)
    make_executor(SyntheticEvaluation(faults=faults, starts_dir=starts)).run(session, PLAN)
    assert session.is_over()
    outcomes = session.outcomes
    assert [outcome.trial for outcome in outcomes] == list(range(12))
    assert len({outcome.arch_key for outcome in outcomes}) == 12
    ends = {number: ENDS[faults[number]] if number in faults else (1, "ok") for number in range(12)} | {9: STOPPED}
    assert {outcome.trial: outcome.status for outcome in outcomes} == {n: status for n, (_, status) in ends.items()}
    assert starts_of(starts) == {number: count for number, (count, _) in ends.items()}
    errors = {faults[outcome.trial]: outcome.error for outcome in outcomes if outcome.error}
    for fault, message in MESSAGES.items():
        assert fault not in errors or message in errors[fault]
    (again,) = starts.glob("6-2-*")
    assert_alone(starts, again)
    if "in-process" not in request.node.callspec.id:
        assert again.name.split("-")[2] not in {
            path.name.split("-")[2] for path in starts.iterdir() if span_of(path) < span_of(again)
        }


@pytest.mark.parametrize("make_executor", [PROCESSES, RAY_SLOW])
def test_a_trial_that_hangs_is_ended_and_the_search_goes_on(
    make_executor: MakeExecutor, store: StudyStore, tmp_path: Path
) -> None:
    session = make_session(store, 6)
    plan = dataclasses.replace(PLAN, trial_minutes=0.05)
    make_executor(SyntheticEvaluation(faults={1: "hang"})).run(session, plan)
    hung = session.outcomes[1]
    assert hung.error == "took longer than 0.05 minutes between two reports, so its worker was ended"
    assert hung.seconds > 3
    assert [outcome.status for outcome in session.outcomes] == ["ok", "failed", "ok", "ok", "ok", "ok"]


class HalvingSession(Session):
    """Stops every trial with an odd number at its first rung."""

    def report(self, rung: Rung) -> Decision:
        super().report(rung)
        return "stop" if rung.trial % 2 else "continue"


@pytest.mark.parametrize("make_executor", RAY_WHEN_SLOW)
def test_a_stopped_trial_is_a_record_of_its_rung(make_executor: MakeExecutor, store: StudyStore) -> None:
    session = make_session(store, 6, HalvingSession)
    make_executor(SyntheticEvaluation()).run(session, PLAN)
    statuses = [outcome.status for outcome in session.outcomes]
    assert statuses == ["ok", "stopped"] * 3
    assert {outcome.metrics["epochs"] for outcome in session.outcomes if outcome.status == "stopped"} == {1}


class StopsAll(Session):
    """Stops every trial at its first rung."""

    def report(self, rung: Rung) -> Decision:
        super().report(rung)
        return "stop"


@pytest.mark.parametrize(("has_gpu", "device"), [(False, "cpu"), (True, "cuda:0")])
def test_in_this_process_a_stopped_trial_names_the_device_that_auto_stands_for(
    store: StudyStore, monkeypatch: pytest.MonkeyPatch, has_gpu: bool, device: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_gpu)
    session = make_session(store, 1, StopsAll)
    InProcessExecutor(SyntheticEvaluation()).run(session, PLAN)
    assert [outcome.device for outcome in session.outcomes] == [device]


@pytest.mark.parametrize(("gpus", "device"), [((), "cpu"), (("0",), "cuda:0")])
def test_a_trial_stopped_in_a_worker_process_names_its_device(
    store: StudyStore, gpus: tuple[str, ...], device: str
) -> None:
    session = make_session(store, 1, StopsAll)
    ProcessExecutor(1, SyntheticEvaluation(), gpus=gpus).run(session, PLAN)
    assert [outcome.device for outcome in session.outcomes] == [device]


class DyingSession(Session):
    """Fails while it writes the third outcome down, as a full disk would."""

    def record(self, finished: Finished) -> None:
        if len(self.outcomes) == 2:
            raise StudyFailedError("cannot write")
        super().record(finished)


@pytest.mark.parametrize("make_executor", RAY_WHEN_SLOW)
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


@pytest.mark.slow
def test_a_deterministic_search_with_three_workers_is_repeated_to_the_last_trial(tmp_path: Path) -> None:
    studies = []
    for name in ("a", "b"):
        with StudyStore.create(tmp_path / name, {}) as store:
            session = make_session(store, 24, round_size=3, sampler="tpe")
            ProcessExecutor(3, SyntheticEvaluation(seconds=0.1, uneven=True)).run(session, PLAN)
            order = [event.trial for event in store.events() if isinstance(event, Finished)]
            assert order != sorted(order)
            studies.append([(o.trial, o.arch_key, o.seed, o.metrics) for o in session.outcomes])
    assert len(studies[0]) == 24
    assert studies[0] == studies[1]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_long_search_is_several_runs_of_tune(store: StudyStore, tmp_path: Path) -> None:
    """What Tune keeps of its trials ends with each run, and nothing of the study does."""
    session = make_session(store, 9)
    starts = tmp_path / "starts"
    starts.mkdir()
    evaluate = SyntheticEvaluation(starts_dir=starts, faults={2: "kill_once", 4: "oom_in_company"})
    RayExecutor(2, evaluate=evaluate, trials_per_run=4).run(session, PLAN)
    assert [outcome.status for outcome in session.outcomes] == ["ok"] * 9
    started = [path.name.split("-") for path in starts.iterdir()]
    assert len(started) == 9 + 2
    runs_of_workers = [{int(number) for number, _, worker, _ in started if worker == pid} for _, _, pid, _ in started]
    assert all(len(numbers) <= 4 for numbers in runs_of_workers)


def test_without_ray_there_is_one_sentence(store: StudyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ExecutorError, match=r"Ray is not installed .*; EXECUTOR=local runs without it"):
        RayExecutor(1).run(make_session(store, 1), PLAN)


def living_descendants() -> set[int]:
    return {pid for pid in descendants(os.getpid()) if is_alive(pid)}


def is_alive(pid: int) -> bool:
    """Not gone, and not a zombie either."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class StartsBadly:
    """In the place of the package ray: raises ``error`` at every start."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.starts = 0

    def is_initialized(self) -> bool:
        return False

    def init(self, **options: Any) -> None:
        self.starts += 1
        raise self.error

    def shutdown(self) -> None:
        return


@pytest.mark.parametrize(
    ("error", "starts", "sentence"),
    [
        (
            Exception("The current node timed out during startup."),  # so bare does Ray raise it
            3,
            "Ray failed 3 times in a row; the last time: Ray did not start: "
            "The current node timed out during startup; EXECUTOR=local runs without it",
        ),
        (ConnectionError("no route"), 1, "Ray did not start: no route; EXECUTOR=local runs without it"),
        (Exception("no room"), 1, "Ray did not start: no room; EXECUTOR=local runs without it"),
    ],
)
def test_a_start_of_ray_that_timed_out_is_tried_again(
    store: StudyStore, monkeypatch: pytest.MonkeyPatch, error: Exception, starts: int, sentence: str
) -> None:
    ray = StartsBadly(error)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(ExecutorError, match=f"^{sentence}$"):
        RayExecutor(1).run(make_session(store, 1), PLAN)
    assert ray.starts == starts


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:subprocess .* is still running", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_after_a_start_of_ray_that_timed_out_nothing_of_it_is_left(
    store: StudyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's first node is said to be late; Ray itself forgets the processes of such a node."""
    import ray
    from ray._private import services

    init, get_node, others = ray.init, services.get_node, living_descendants()
    found: list[set[int]] = []
    begun: set[int] = set()

    def start(**options: Any) -> Any:
        found.append(living_descendants() - others)
        return init(**options)

    def look(*arguments: Any) -> Any:
        if len(found) == 1:
            begun.update(living_descendants() - others)
            raise Exception("The current node timed out during startup.")
        return get_node(*arguments)

    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(services, "get_node", look)
    session = make_session(store, 1)
    RayExecutor(1, evaluate=SyntheticEvaluation()).run(session, PLAN)
    assert [outcome.status for outcome in session.outcomes] == ["ok"]
    assert begun
    assert found == [set(), set()]


def test_local_workers_are_spread_over_the_gpus(store: StudyStore, tmp_path: Path) -> None:
    session = make_session(store, 12)
    starts = tmp_path / "starts"
    starts.mkdir()
    evaluate = SyntheticEvaluation(seconds=0.1, starts_dir=starts, device="cuda:0")
    ProcessExecutor(4, evaluate, gpus=("3", "GPU-8f")).run(session, PLAN)
    notes = [json.loads(path.read_text()) for path in starts.iterdir()]
    assert {note["visible"] for note in notes} == {"3", "GPU-8f"}
    for device in ("3", "GPU-8f"):
        on_device = [note for note in notes if note["visible"] == device]
        for note in on_device:
            ((start, end),) = note["measured"]
            spans = [span for other in on_device if other is not note for span in other["measured"] + other["trained"]]
            assert all(end <= begun or ended <= start for begun, ended in spans)
