"""Ray on this machine: what it says where, odd surroundings, memory that runs out, interrupts, trials gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from results.records import Event, Finished, Rung
from results.store import StudyStore
from search.interrupt import descendants

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]

CROSSVIT = str(Path(sys.executable).with_name("crossvit"))
SMOKE = ("search", "--space", "smoke", "--executor", "ray", "--workers", "2")
LIMIT_SECONDS = 400


def start(folder: Path, *arguments: str, **environment: str | None) -> subprocess.Popen[str]:
    changed = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
    return subprocess.Popen(
        [CROSSVIT, *SMOKE, *arguments],
        cwd=folder,
        env=changed,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def events_in(study: Path) -> list[Event]:
    return list(StudyStore.open_readonly(study).events()) if StudyStore.exists(study) else []


def outcomes_in(folder: Path) -> list[Finished]:
    return [event for event in events_in(folder / "results/runs/smoke-digits") if isinstance(event, Finished)]


def wait_for_outcomes(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while len(outcomes_in(folder)) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "the search makes no progress"
        time.sleep(0.05)


def workers_of(pid: int) -> Iterator[int]:
    """The processes of Ray that are at a trial."""
    for child in descendants(pid):
        try:
            if b"EvaluateTrial" in Path(f"/proc/{child}/cmdline").read_bytes():
                yield child
        except OSError:
            continue


def kill_worker(process: subprocess.Popen[str]) -> None:
    """Its name is not to be read at every moment: a title of Ray's for each call, and one in between."""
    deadline = time.monotonic() + 60
    while not (workers := list(workers_of(process.pid))):
        assert time.monotonic() < deadline, "no worker is at a trial"
    os.kill(workers[0], signal.SIGKILL)


def gone_within(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(is_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_worker_that_is_killed_says_nothing_on_standard_output(tmp_path: Path) -> None:
    process = start(tmp_path, "--trials", "6", "--epochs", "3")
    wait_for_outcomes(tmp_path, 1, process)
    kill_worker(process)
    output, errors = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 0, errors
    assert "raylet" not in output
    assert "A worker died" not in output
    assert [outcome.status for outcome in outcomes_in(tmp_path)] == ["ok"] * 6


def test_a_trial_whose_worker_is_killed_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """Killed after its rung is on record; the numbers are those of a search that nobody disturbed."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = ("--trials", "2", "--epochs", "24", "--workers", "1", "--sampler", "random")
    for folder in (whole, killed):
        folder.mkdir()
    assert_ends_well(start(whole, *arguments))
    process = start(killed, *arguments)
    study = killed / "results/runs/smoke-digits"
    deadline = time.monotonic() + LIMIT_SECONDS
    while not any(isinstance(event, Rung) for event in events_in(study)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    kill_worker(process)
    assert_ends_well(process)
    scores = [
        [(o.trial, o.arch_key, o.metrics["val_loss"], o.metrics["train_loss"], o.error) for o in outcomes_in(folder)]
        for folder in (whole, killed)
    ]
    assert scores[0] == scores[1]
    curves = [
        [json.loads(line)["train_loss"] for line in (folder / CURVE).read_text().splitlines()]
        for folder in (whole, killed)
    ]
    assert curves[0] == curves[1]
    assert not list(killed.rglob("*checkpoint-*"))


CURVE = "results/runs/smoke-digits/trials/00000/curve.jsonl"


def assert_ends_well(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 0, errors


def test_it_starts_in_odd_surroundings(tmp_path: Path) -> None:
    """No home, a temporary folder of a long name, the record of a cluster that is no more."""
    long_name = tmp_path / ("a-temporary-folder-with-a-name-" * 3)
    long_name.mkdir()
    stale = Path("/tmp/ray/ray_current_cluster")
    before = stale.read_text() if stale.exists() else None
    stale.parent.mkdir(exist_ok=True)
    stale.write_text("127.0.0.1:1")
    try:
        odd = {"HOME": "/nonexistent", "TMPDIR": str(long_name), "RAY_AUTH_MODE": None}
        process = start(tmp_path, "--trials", "2", "--epochs", "1", **odd)
        output, errors = process.communicate(timeout=LIMIT_SECONDS)
    finally:
        stale.write_text(before) if before is not None else stale.unlink(missing_ok=True)
    assert process.returncode == 0, errors
    assert [outcome.status for outcome in outcomes_in(tmp_path)] == ["ok"] * 2
    assert errors == ""
    assert output


OWN_RAY = """\
import ray
from pathlib import Path
from search.executors.base import ExecutorError
from search.executors.ray_start import set_environment
from search.executors.ray_tune import RayExecutor
from search.study import resolve_study, run_study
from search.study_config import StudyConfig

set_environment(joins_cluster=False)
ray.init(num_cpus=1, include_dashboard=False, logging_level="error", object_store_memory=100_000_000)
held = ray.put("mine")
try:
    run_study(resolve_study(StudyConfig(space="smoke", runs_dir=Path("runs"))), RayExecutor(1))
except ExecutorError as error:
    print(error)
print(ray.get(held, timeout=30))
"""


def test_a_ray_of_the_users_own_in_this_process_is_left_alone(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", OWN_RAY], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    error, kept = done.stdout.splitlines()[-2:]
    assert error.startswith("Ray runs in this process already")
    assert kept == "mine"


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_leaves_no_process_behind(tmp_path: Path, presses: int) -> None:
    process = start(tmp_path, "--trials", "40", "--epochs", "1")
    wait_for_outcomes(tmp_path, 1, process)
    family = descendants(process.pid)
    assert len(family) > 3
    pressed = time.monotonic()
    for _ in range(presses):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.3)
    output, errors = process.communicate(timeout=60)
    if presses == 2:
        assert time.monotonic() - pressed < 5
    else:
        assert "To go on:" in output
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert gone_within(family, 5)


def test_memory_that_runs_out_is_found_its_culprit(tmp_path: Path) -> None:
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    available = next(int(words[1]) for words in lines if words[0] == "MemAvailable:")
    if available < 8 * 2**20:
        pytest.skip("takes eight GiB")
    driver = Path(__file__).with_name("drive_cluster.py")
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(driver), "run_out_of_memory", str(tmp_path / "study")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=800)
    assert run.returncode == 0, run.stderr[-3000:]
    events = StudyStore.open_readonly(tmp_path / "study").events()
    assert [event.status for event in events if isinstance(event, Finished)] == ["ok"] * 8
