"""The lock among real processes: who waits for whom, who is not starved, what a kill releases."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crossvit_core.device_lock import DeviceLock, lock_folder, lock_name

_HOLDER = """
import sys
from pathlib import Path
from crossvit_core.device_lock import DeviceLock
lock = DeviceLock(sys.argv[1], Path(sys.argv[2]))
with getattr(lock, sys.argv[3])():
    print("held", flush=True)
    sys.stdin.readline()
print("left", flush=True)
"""


@contextmanager
def process(folder: Path, kind: str, device: str = "cuda:0") -> Iterator[subprocess.Popen[str]]:
    """A process that takes the lock, says so, and keeps it until it reads a line."""
    command = [sys.executable, "-c", _HOLDER, device, str(folder), kind]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def wait_until_held(child: subprocess.Popen[str]) -> None:
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"


def leave(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def takes(lock: DeviceLock, kind: str) -> threading.Event:
    """Take and leave the lock in a thread of its own; the event says that it was had."""
    had = threading.Event()

    def run() -> None:
        with getattr(lock, kind)():
            had.set()

    threading.Thread(target=run, daemon=True).start()
    return had


@pytest.mark.parametrize(("first", "second"), [("shared", "exclusive"), ("exclusive", "shared"), ("exclusive",) * 2])
def test_one_waits_for_the_other(tmp_path: Path, first: str, second: str) -> None:
    with process(tmp_path, first) as holder:
        wait_until_held(holder)
        had = takes(DeviceLock("cuda", tmp_path), second)
        assert not had.wait(0.3)
        leave(holder)
        assert had.wait(20)


def test_shared_holders_do_not_wait(tmp_path: Path) -> None:
    with process(tmp_path, "shared") as holder:
        wait_until_held(holder)
        assert takes(DeviceLock("cuda:0", tmp_path), "shared").wait(20)


def test_devices_are_apart(tmp_path: Path) -> None:
    with process(tmp_path, "exclusive", "cuda:1") as holder:
        wait_until_held(holder)
        assert takes(DeviceLock("cuda:0", tmp_path), "exclusive").wait(20)


def test_killed_holder_releases(tmp_path: Path) -> None:
    with process(tmp_path, "exclusive") as holder:
        wait_until_held(holder)
        had = takes(DeviceLock("cuda:0", tmp_path), "exclusive")
        assert not had.wait(0.3)
        os.kill(holder.pid, signal.SIGKILL)
        assert had.wait(20)


def test_killed_waiter_leaves_the_turnstile_open(tmp_path: Path) -> None:
    with process(tmp_path, "shared") as holder:
        wait_until_held(holder)
        with process(tmp_path, "exclusive") as waiter:
            had = wait_for_turnstile(tmp_path)
            os.kill(waiter.pid, signal.SIGKILL)
            assert had.wait(20)


def wait_for_turnstile(folder: Path) -> threading.Event:
    """Wait until somebody stands in the turnstile, then queue a shared holder behind; the event says it passed."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        had = takes(DeviceLock("cuda:0", folder), "shared")
        if not had.wait(0.5):
            return had
    raise AssertionError("the exclusive process never waited")


def test_waiting_exclusive_holder_goes_before_later_shared_ones(tmp_path: Path) -> None:
    with process(tmp_path, "shared") as holder:
        wait_until_held(holder)
        with process(tmp_path, "exclusive") as measuring:
            late = wait_for_turnstile(tmp_path)
            leave(holder)
            wait_until_held(measuring)
            assert not late.wait(0.3)
            leave(measuring)
            assert late.wait(20)


def test_error_inside_releases(tmp_path: Path) -> None:
    lock = DeviceLock("cuda:0", tmp_path)
    with pytest.raises(KeyError), lock.exclusive():
        raise KeyError
    assert takes(DeviceLock("cuda:0", tmp_path), "exclusive").wait(20)


def test_taking_twice_in_a_thread_is_an_error_not_a_hang(tmp_path: Path) -> None:
    lock = DeviceLock("cuda:0", tmp_path)
    with lock.shared(), pytest.raises(RuntimeError, match="holds the lock of cuda:0 already"), lock.exclusive():
        pass
    with lock.exclusive():
        pass


def test_on_a_cpu_only_measurements_exclude_each_other(tmp_path: Path) -> None:
    with process(tmp_path, "exclusive", "cpu") as holder:
        wait_until_held(holder)
        assert takes(DeviceLock("cpu", tmp_path), "shared").wait(20)
        assert not takes(DeviceLock("cpu", tmp_path), "exclusive").wait(0.3)


def test_survives_a_cleaner_of_temporary_files(tmp_path: Path) -> None:
    with process(tmp_path, "exclusive") as holder:
        wait_until_held(holder)
        waiting = takes(DeviceLock("cuda:0", tmp_path), "exclusive")
        assert not waiting.wait(0.3)
        (tmp_path / "cuda-0.lock").unlink()
        leave(holder)
        assert waiting.wait(20)
        assert (tmp_path / "cuda-0.lock").exists()


def test_is_picklable(tmp_path: Path) -> None:
    lock = pickle.loads(pickle.dumps(DeviceLock("cuda:0", tmp_path)))
    with lock.exclusive():
        assert not takes(DeviceLock("cuda:0", tmp_path), "shared").wait(0.3)


@pytest.mark.parametrize(
    ("device", "visible", "name"),
    [
        ("cpu", None, "cpu"),
        ("cuda", None, "cuda-0"),
        ("cuda:1", None, "cuda-1"),
        ("cuda:0", "3,1", "cuda-3"),
        ("cuda:1", "3, 1", "cuda-1"),
        ("cuda:0", "GPU-8f6a", "cuda-GPU-8f6a"),
        ("mps/../x", None, "mps----x"),
    ],
)
def test_name_is_the_machines_not_the_processs(
    device: str, visible: str | None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert lock_name(device) == name


def test_default_folder_is_private_and_may_be_there_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CROSSVIT_LOCK_DIR")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for _ in range(2):
        folder = lock_folder()
        assert folder == tmp_path / f"crossvit-{os.getuid()}"
        assert folder.stat().st_mode & 0o777 == 0o700
    with DeviceLock("cuda:0").exclusive():
        assert sorted(file.name for file in folder.iterdir()) == ["cuda-0.lock", "cuda-0.turnstile"]


def test_environment_names_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSVIT_LOCK_DIR", str(tmp_path / "locks"))
    with DeviceLock("cpu").exclusive():
        assert sorted(file.name for file in (tmp_path / "locks").iterdir()) == ["cpu.lock", "cpu.turnstile"]


def test_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="link is not a folder of this user"):
        lock_folder(tmp_path / "link")
