"""kill -9 of the driver at random moments: nothing finished is lost, nothing finished is repeated."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from results.frame import front, load_frame
from results.records import Asked, Finished, Rung
from results.store import StudyBusyError, StudyStore
from search.interrupt import descendants

DRIVER = Path(__file__).with_name("drive.py")


def start(
    folder: Path, trials: int, executor: str, seconds: float, stopping: str = "none", round_size: int = 0
) -> subprocess.Popen[str]:
    arguments = (folder, trials, executor, seconds, stopping, round_size)
    command = [sys.executable, str(DRIVER), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished_in(folder: Path) -> dict[int, Finished]:
    if not StudyStore.exists(folder):
        return {}
    events = StudyStore.open_readonly(folder).events()
    return {event.trial: event for event in events if isinstance(event, Finished)}


def wait_for_finished(folder: Path, count: int, process: subprocess.Popen[str], seconds: float = 90.0) -> None:
    """Until ``count`` trials are over (or the driver is), so that the kill that follows falls into the run."""
    deadline = time.monotonic() + seconds
    while len(finished_in(folder)) < count and process.poll() is None:
        assert time.monotonic() < deadline, "the driver makes no progress"
        time.sleep(0.02)


def storm(
    folder: Path, *, trials: int, executor: str, seconds: float, kills: int, seed: int, stopping: str = "none"
) -> None:
    """Kill the driver ``kills`` times, resume each time, and check the ledger against what was there before."""
    rng = random.Random(seed)
    done: dict[int, Finished] = {}
    struck = 0
    for kill in range(kills):
        process = start(folder, trials, executor, seconds, stopping)
        wait_for_finished(folder, min(trials - 1, (kill + 1) * trials // (kills + 1)), process)
        time.sleep(rng.uniform(0, 3 * seconds))
        struck += process.poll() is None
        process.kill()
        process.communicate()
        now = finished_in(folder)
        assert {number: now[number] for number in done} == done
        done = now
    process = start(folder, trials, executor, seconds, stopping)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "over" in output
    assert struck >= kills - 1, "most kills came too late"
    check_settled(folder, trials, kills, done)


def check_settled(folder: Path, trials: int, kills: int, before_last: dict[int, Finished]) -> None:
    events = list(StudyStore.open_readonly(folder).events())
    asked = Counter(event.trial for event in events if isinstance(event, Asked))
    finished = Counter(event.trial for event in events if isinstance(event, Finished))
    assert asked == finished == Counter(range(trials))
    assert len({event.arch_key for event in events if isinstance(event, Asked)}) == trials
    after = finished_in(folder)
    assert {number: after[number] for number in before_last} == before_last
    assert set(front(load_frame(folder))["trial"]) == undominated(after)
    # Each kill may cost the trials that two workers were at, and nothing else.
    starts = len(list((folder.parent / "starts").iterdir()))
    assert starts <= trials + 2 * kills


def undominated(outcomes: dict[int, Finished]) -> set[int]:
    """The front by its definition, from the records alone."""
    points = {n: (-o.metrics["val_accuracy"], o.metrics["macs"]) for n, o in outcomes.items() if o.status == "ok"}
    return {
        number
        for number, (error, macs) in points.items()
        if not any(e <= error and m <= macs and (e, m) != (error, macs) for e, m in points.values())
    }


def test_driver_killed_local(tmp_path: Path) -> None:
    storm(tmp_path / "study", trials=16, executor="local", seconds=0.05, kills=3, seed=0)


def test_decisions_to_stop_outlive_the_driver(tmp_path: Path) -> None:
    """Each trial has the outcome that its rungs on the disk say, and no rung was decided twice."""
    folder = tmp_path / "study"
    storm(folder, trials=24, executor="local", seconds=0.03, kills=3, seed=5, stopping="asha")
    rungs = [event for event in StudyStore.open_readonly(folder).events() if isinstance(event, Rung)]
    assert len({(rung.trial, rung.epoch) for rung in rungs}) == len(rungs)
    stops = {rung.trial: rung.epoch for rung in rungs if rung.decision == "stop"}
    outcomes = finished_in(folder)
    stopped = {n: outcome for n, outcome in outcomes.items() if outcome.status == "stopped"}
    assert len(stopped) > 3
    assert {n: outcome.metrics["epochs"] for n, outcome in stopped.items()} == stops


def trials_in(folder: Path) -> list[Asked | Rung | Finished]:
    """What was asked, seen and decided, trial by trial, without the clock."""
    events = StudyStore.open_readonly(folder).events()
    kept = [dataclasses.replace(e, time=0.0) for e in events if isinstance(e, (Asked, Rung, Finished))]
    kept = [dataclasses.replace(e, seconds=0.0, device="") if isinstance(e, Finished) else e for e in kept]
    return sorted(kept, key=lambda event: event.trial)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stopping", "workers"),
    [("asha", 1), ("hyperband", 1), ("pareto_rank", 1), ("optimistic", 1), ("pareto_rank", 3), ("optimistic", 3)],
)
def test_a_deterministic_search_that_stops_early_is_the_same_after_a_kill(
    tmp_path: Path, stopping: str, workers: int
) -> None:
    trials, whole, broken = 18, tmp_path / "whole", tmp_path / "broken"
    process = start(whole, trials, "local", 0.03, stopping, workers)
    assert "over" in process.communicate(timeout=90)[0]
    process = start(broken, trials, "local", 0.03, stopping, workers)
    wait_for_finished(broken, trials // 2, process)
    process.kill()
    process.communicate()
    assert trials // 2 <= len(finished_in(broken)) < trials
    process = start(broken, trials, "local", 0.03, stopping, workers)
    assert "over" in process.communicate(timeout=90)[0]
    assert trials_in(broken) == trials_in(whole)
    stopped = [outcome for outcome in finished_in(whole).values() if outcome.status == "stopped"]
    assert 1 <= len(stopped) < trials


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 20))
def test_driver_killed_local_often(tmp_path: Path, seed: int) -> None:
    storm(tmp_path / "study", trials=40, executor="local", seconds=0.05, kills=11, seed=seed)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", ["raylet", "gcs_server"])
def test_a_part_of_ray_is_killed(tmp_path: Path, part: str) -> None:
    """It may take the driver with it; then the command that is repeated goes on."""
    folder = tmp_path / "study"
    process = start(folder, 16, "ray", 0.2)
    wait_for_finished(folder, 3, process)
    (victim,) = (pid for pid in descendants(process.pid) if command_of(pid).partition(" ")[0].endswith(f"/{part}"))
    os.kill(victim, signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    if "over" not in output:
        process = start(folder, 16, "ray", 0.2)
        output, errors = process.communicate(timeout=300)
        assert "over" in output, errors
    check_settled(folder, 16, 1, {})
    assert {outcome.status for outcome in finished_in(folder).values()} == {"ok"}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_two_studies_on_ray_side_by_side(tmp_path: Path) -> None:
    folders = [tmp_path / name / "study" for name in "ab"]
    for folder in folders:
        folder.parent.mkdir()
    processes = [start(folder, 8, "ray", 0.1) for folder in folders]
    for folder, process in zip(folders, processes):
        output, errors = process.communicate(timeout=300)
        assert "over" in output, errors
        check_settled(folder, 8, 0, {})
        workers = {path.name.split("-")[2] for path in (folder.parent / "starts").iterdir()}
        assert len(workers) <= 2, "workers are not reused"


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_driver_killed_ray(tmp_path: Path) -> None:
    storm(tmp_path / "study", trials=40, executor="ray", seconds=0.1, kills=5, seed=1)


def test_workers_do_not_outlive_a_killed_driver(tmp_path: Path) -> None:
    process = start(tmp_path / "study", 40, "local", 0.05)
    wait_for_finished(tmp_path / "study", 4, process)
    children = children_of(process.pid)
    assert len(children) >= 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{child}/stat").exists() for child in children):
        assert time.monotonic() < deadline, "a worker outlived its driver"
        time.sleep(0.05)


def test_workers_in_the_middle_of_an_epoch_do_not_outlive_it_either(tmp_path: Path) -> None:
    process = start(tmp_path / "study", 4, "local", 100.0)
    deadline = time.monotonic() + 60
    while not (tmp_path / "starts").exists() or len(list((tmp_path / "starts").iterdir())) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    children = children_of(process.pid)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{child}/stat").exists() for child in children):
        assert time.monotonic() < deadline, "a worker outlived its driver"
        time.sleep(0.05)


def test_a_second_driver_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    process = start(folder, 10, "local", 0.1)
    wait_for_finished(folder, 1, process)
    with pytest.raises(StudyBusyError, match=f"pid {process.pid}"):
        StudyStore.open(folder)
    output, _ = process.communicate(timeout=60)
    assert "over" in output
    assert len(finished_in(folder)) == 10


def test_a_worker_killed_by_the_system_costs_its_trial_one_attempt(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    process = start(folder, 12, "local", 0.2)
    wait_for_finished(folder, 2, process)
    os.kill(worker_at_work(tmp_path / "starts"), signal.SIGKILL)
    output, errors = process.communicate(timeout=60)
    assert "over" in output, errors
    assert [event.status for event in finished_in(folder).values()] == ["ok"] * 12
    assert len(list((tmp_path / "starts").iterdir())) == 13


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_workers_killed_at_random(tmp_path: Path, seed: int) -> None:
    """Of trials that were killed over and over some may be given up, none twice, and none without a word."""
    rng = random.Random(seed)
    folder = tmp_path / "study"
    process = start(folder, 60, "local", 0.1)
    for kill in range(12):
        wait_for_finished(folder, 4 * kill + 1, process)
        time.sleep(rng.uniform(0, 0.3))
        while not (workers := [pid for pid in children_of(process.pid) if is_worker(pid)]):
            time.sleep(0.01)  # both were killed, and the next one is on its way
        os.kill(rng.choice(workers), signal.SIGKILL)
    output, errors = process.communicate(timeout=120)
    assert "over" in output, errors
    check_settled(folder, 60, 12, {})
    lost = [outcome for outcome in finished_in(folder).values() if outcome.status != "ok"]
    assert all(outcome.status == "lost" and "lost 3 times" in outcome.error for outcome in lost)
    assert len(lost) <= 2


def worker_at_work(starts: Path) -> int:
    """The process that began a trial last, which it is still at."""
    latest = max(starts.iterdir(), key=lambda path: int(path.name.split("-")[3]))
    assert not latest.stat().st_size
    return int(latest.name.split("-")[2])


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_worker(pid: int) -> bool:
    return "spawn_main" in command_of(pid)


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
