"""An advisory lock per device, among all processes of one user: training shares it, measuring has it alone.

Two files with ``flock``: whoever wants the lock passes a turnstile first and an exclusive holder-to-be waits inside it,
so that a stream of shared holders cannot keep it waiting for ever. The kernel drops the lock of a killed process; only
its forked children, should it have any, hold it on until they end.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crossvit_core.machine import visible_device

_FILE_MODE = 0o600
_FOLDER_MODE = 0o700


class DeviceLock:
    """``with DeviceLock("cuda:0").shared(): train()`` and ``with DeviceLock("cuda:0").exclusive(): measure()``.

    ``folder`` holds the lock files; without it the environment's ``CROSSVIT_LOCK_DIR``, or ``crossvit-<uid>`` in the
    folder for temporary files. On a CPU
    ``shared`` takes nothing: a measurement there counts CPU time of one thread, which training beside it does not
    move by more than they spread anyway (benchmarks/throughput_repeatability.py), so measurements exclude each other
    only. Picklable.
    """

    def __init__(self, device: str, folder: Path | None = None) -> None:
        self.device = device
        self._folder = folder
        self._held = threading.local()

    def __reduce__(self) -> Any:
        return (DeviceLock, (self.device, self._folder))

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Use the device beside other users of it; waits while one has it alone."""
        if self.device.partition(":")[0] == "cpu":
            yield
            return
        with self._hold(fcntl.LOCK_SH):
            yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Have the device alone; waits for all others to leave it.

        Raises RuntimeError in a thread that holds this lock already, which would wait for itself.
        """
        with self._hold(fcntl.LOCK_EX):
            yield

    @contextmanager
    def _hold(self, kind: int) -> Iterator[None]:
        if getattr(self._held, "now", False):
            raise RuntimeError(f"this thread holds the lock of {self.device} already; leave the outer 'with' first")
        folder = lock_folder(self._folder)
        name = lock_name(self.device)
        turnstile = _acquire(folder / f"{name}.turnstile", fcntl.LOCK_EX)
        try:
            descriptor = _acquire(folder / f"{name}.lock", kind)
        finally:
            _release(turnstile)
        self._held.now = True
        try:
            yield
        finally:
            self._held.now = False
            _release(descriptor)


def lock_name(device: str) -> str:
    """The file name for a device: ``cuda`` means ``cuda:0``, numbered as the machine does, not as this process sees it.

    By CUDA_VISIBLE_DEVICES, with which launchers rename each worker's device to cuda:0.
    """
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return _file_name(device)
    number = number or "0"
    return _file_name(f"cuda-{visible_device(int(number)) if number.isdecimal() else number}")


def lock_folder(folder: Path | None = None) -> Path:
    """The folder of the lock files, made private to the user if it is not there.

    Raises PermissionError when something else bears its name or another user owns it.
    """
    folder = folder or Path(os.environ.get("CROSSVIT_LOCK_DIR") or _default_folder())
    folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise PermissionError(f"{folder} is not a folder of this user, so locks in it mean nothing; remove it")
    return folder


def _default_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"crossvit-{os.getuid()}"


def _file_name(text: str) -> str:
    return "".join(char if char.isalnum() or char in "-_" else "-" for char in text)


def _acquire(path: Path, kind: int) -> int:
    """An open descriptor that holds the lock on the file now called ``path``."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        try:
            fcntl.flock(descriptor, kind)
            if _is_current(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # a cleaner of temporary files removed it while we waited: lock its successor


def _is_current(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _release(descriptor: int) -> None:
    # Unlocked explicitly: closing alone keeps the lock while a forked child has the descriptor too.
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)
