"""Ctrl-C, once and again, with workers at work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from results.records import Asked
from results.store import StudyStore
from search.interrupt import descendants

CROSSVIT = str(Path(sys.executable).with_name("crossvit"))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def search(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A search under way, with two trials handed out."""
    command = [CROSSVIT, "search", "--space", "smoke", "--executor", "local", "--workers", "2", "--trials", "40"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        wait_for_trials(tmp_path / "results/runs/smoke-digits", 2, process)
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_trials(study: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 100
    while count_asked(study) < count:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def count_asked(study: Path) -> int:
    if not StudyStore.exists(study):
        return 0
    return sum(isinstance(event, Asked) for event in StudyStore.open_readonly(study).events())


@pytest.mark.parametrize("pause_seconds", [0.0, pytest.param(0.2, marks=pytest.mark.slow)])
def test_ctrl_c_twice_ends_at_once_and_leaves_no_process(search: subprocess.Popen[str], pause_seconds: float) -> None:
    family = descendants(search.pid)
    assert family
    for _ in range(2):
        os.killpg(search.pid, signal.SIGINT)
        time.sleep(pause_seconds)
    _, errors = search.communicate(timeout=5)
    assert search.returncode == 130, errors
    assert "Traceback" not in errors
    deadline = time.monotonic() + 5
    while any(is_alive(pid) for pid in family):
        assert time.monotonic() < deadline, "a process of ours is left"
        time.sleep(0.02)


_INTERRUPTED_WHILE_STARTING = """
import os, signal, threading, time
from search import interrupt
from search.executors.worker_process import _deaf_to_ctrl_c

threading.Thread(target=time.sleep, args=(2,), daemon=True).start()  # as the display's: it may be dealt the signal
interrupt.arm()
heard_within = True
try:
    with _deaf_to_ctrl_c():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(50):
            time.sleep(0.01)
        heard_within = False
except KeyboardInterrupt:
    print("within" if heard_within else "after")
"""


def test_ctrl_c_while_a_worker_is_started_waits_until_it_is() -> None:
    """In between, the worker would be left half told what to do, and say so in a traceback."""
    script = [sys.executable, "-c", _INTERRUPTED_WHILE_STARTING]
    ended = subprocess.run(script, capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("after\n", "", 0)
