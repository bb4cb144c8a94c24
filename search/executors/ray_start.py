"""What must be right before Ray is imported and while it runs: its settings, short paths, whose words go where.

It imports no Ray.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from crossvit_core.machine import visible_device
from search.executors.base import ExecutorError

# Read by Ray when it is imported. Nothing is reported to anybody, nothing is written beside the study's folder.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_THRESHOLD_S": "60",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_MAX_PENDING_TRIALS_PG": "100000",  # max_concurrent_trials is the limit
}

# A socket's path has at most 107 bytes, of which Ray's own folders take about 65.
_LONGEST_TEMP_DIR = 40
_SHORT_TEMP_DIRS = ("/tmp", "/var/tmp", "/dev/shm")

_ANSWER_SECONDS = 5.0

_PACKAGES = ("crossvit_core", "space", "search", "results")
_NOT_CODE = ("runs", "reference", "__pycache__")


def set_environment(*, joins_cluster: bool) -> None:
    """Settings that the user has not made. Call before ``import ray``."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if "ray" not in sys.modules:  # it has read its mode: one that is set now would hold for its children alone
        _set_auth_mode(joins_cluster)
    _set_temp_dir()


def copy_code(folder: Path) -> None:
    """Our packages, without the studies beside them, to be sent to machines that have others or none installed."""
    for package in _PACKAGES:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise RuntimeError(f"the package {package} is not on sys.path, so other machines cannot be given it")
        source = Path(next(iter(spec.submodule_search_locations)))
        shutil.copytree(source, folder / package, ignore=shutil.ignore_patterns(*_NOT_CODE))


def check_answers(address: str | None) -> None:
    """Raise ExecutorError if nothing listens at host:port, which Ray would try for minutes. Other forms are Ray's."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ExecutorError(f"nothing answers at the Ray address {address} ({error}); is the cluster up?") from error


@contextlib.contextmanager
def only_device(device: str) -> Iterator[None]:
    """With ``cuda:2`` asked for, what is started here sees that GPU and no other."""
    kind, _, number = device.partition(":")
    if kind != "cuda" or not number:
        yield
        return
    name = "CUDA_VISIBLE_DEVICES"
    before = os.environ.get(name)
    os.environ[name] = visible_device(int(number))
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


@contextlib.contextmanager
def ray_speaks_on_stderr() -> Iterator[None]:
    """Ray's threads print "(raylet) A worker died ..." to standard output, which belongs to the results."""
    stdout = sys.stdout
    own: Any = _NotRays(stdout)
    sys.stdout = own
    try:
        yield
    finally:
        if sys.stdout is own:
            sys.stdout = stdout


class _NotRays:
    """A stream that hands what threads of Ray's write to standard error."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._target().write(text)

    def flush(self) -> None:
        self._target().flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _target(self) -> IO[str]:
        return sys.stderr if threading.current_thread().name.startswith("ray_") else self._stream


def _set_auth_mode(joins_cluster: bool) -> None:
    """A token in the home folder keeps other users of the machine out; without a home to write to there is none.

    A cluster has one if its users gave it one: then its file is in the home folder.
    """
    token = _home() / ".ray" / "auth_token"
    usable = token.is_file() or (not joins_cluster and _can_make(token.parent))
    if usable or not joins_cluster:
        os.environ.setdefault("RAY_AUTH_MODE", "token" if usable else "disabled")


def _set_temp_dir() -> None:
    current = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if len(current) <= _LONGEST_TEMP_DIR and _writable(current):
        return
    short = next((path for path in _SHORT_TEMP_DIRS if _writable(path)), None)
    if short is not None:
        os.environ["RAY_TMPDIR"] = short


def _can_make(folder: Path) -> bool:
    try:
        folder.mkdir(exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _writable(path: str) -> bool:
    return os.path.isdir(path) and os.access(path, os.W_OK)


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # neither HOME nor an entry for this user
        return Path("/nonexistent")


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """Where Tune writes what nobody reads."""
    return tempfile.TemporaryDirectory(prefix="crossvit-tune-", ignore_cleanup_errors=True)
