"""A study's folder: what was asked, what it runs on, and the ledger of events, each durable before it is acted on.

Standard library only. One process writes (it holds the lock); any number may read.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from results.records import Event, decode_event, encode_event

FORMAT = 1
_MAX_SHARED = 1024
DEFAULT_RUNS_DIR = Path("results/runs")

# The files of a trial: TRIALS_FOLDER / trial_name(number) / ...
TRIALS_FOLDER = "trials"
WEIGHTS_FILE = "weights.safetensors"
CURVE_FILE = "curve.jsonl"

# A new study's name leaves room for what is appended to it: "-retrain".
MAX_NEW_NAME = 100
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LOCK_PATIENCE_SECONDS = 0.2


class StoreError(Exception):
    """A study that cannot be opened, written or read; the message is for the user."""


class WriteError(StoreError):
    """A study under way that could not be written to; what was written before is safe."""


class StudyBusyError(StoreError):
    """Another process is writing this study."""


def trial_name(number: int) -> str:
    """What a trial's folder is called: '00017'."""
    return f"{number:05d}"


def check_study_name(name: str) -> str:
    """Return the name, or raise StoreError if it could leave the folder of runs."""
    if not _NAME.fullmatch(name):
        raise StoreError(
            f"study name {name!r} is not a plain file name; use letters, digits, '.', '_' and '-', "
            f"for example {plain_name(name)!r}"
        )
    return name


def check_new_name(name: str) -> str:
    """As ``check_study_name``, for a study that is to be made."""
    if len(check_study_name(name)) > MAX_NEW_NAME:
        raise StoreError(f"study name {name!r} has {len(name)} characters; use at most {MAX_NEW_NAME}")
    return name


def plain_name(name: str, suffix: str = "") -> str:
    """The nearest name that a new study may have, its end ``suffix``."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")
    return (plain[: MAX_NEW_NAME - len(suffix)] or "study") + suffix


class StudyStore:
    """The folder of one study. Make it with ``create``, ``open`` (to write) or ``open_readonly``."""

    def __init__(self, path: Path, lock: IO[str] | None) -> None:
        self.path = path
        self._lock = lock
        self._ledger: io.FileIO | None = None
        self._good_bytes = 0

    @classmethod
    def create(cls, path: Path, study: dict[str, Any]) -> StudyStore:
        """Make the folder and write study.json. Raises StoreError if the study exists or nothing can be written."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            store = cls(path, _take_lock(path))
            if (path / "ledger.jsonl").exists() and not (path / "study.json").exists():
                store.close()
                raise StoreError(_headless(path))
            if (path / "study.json").exists():
                store.close()
                raise StoreError(f"study {path.name!r} exists already in {path.parent}")
            store._write_json("study.json", {"format": FORMAT, **study})
        except OSError as error:
            raise _write_error(path, error) from error
        return store

    @classmethod
    def open(cls, path: Path) -> StudyStore:
        """Open to go on writing. Raises StudyBusyError while another process does."""
        _check_format(path)
        try:
            return cls(path, _take_lock(path))
        except OSError as error:
            raise _write_error(path, error) from error

    @classmethod
    def open_readonly(cls, path: Path) -> StudyStore:
        """Open to read, also while another process writes."""
        _check_format(path)
        return cls(path, None)

    @staticmethod
    def exists(path: Path) -> bool:
        return (path / "study.json").is_file()

    @property
    def study(self) -> dict[str, Any]:
        return _read_json(self.path / "study.json")

    @property
    def environment(self) -> dict[str, Any]:
        path = self.path / "environment.json"
        return _read_json(path) if path.exists() else {}

    def trial_dir(self, trial: int) -> Path:
        return self.path / TRIALS_FOLDER / trial_name(trial)

    def write_json(self, name: str, data: Any) -> None:
        """Write a file of the study whole or not at all. Raises WriteError, with the file as before."""
        try:
            self._write_json(name, data)
        except OSError as error:
            raise WriteError(str(_write_error(self.path, error))) from error

    def _write_json(self, name: str, data: Any) -> None:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        write_durably(target, json.dumps(data, indent=1, allow_nan=False) + "\n")

    def append(self, event: Event) -> None:
        """Add an event and return when it is on the disk. Raises WriteError, with the ledger as before."""
        line = json.dumps(encode_event(event), separators=(",", ":"), allow_nan=False).encode() + b"\n"
        try:
            ledger = self._open_ledger()
            if ledger.write(line) != len(line):
                raise OSError(errno.ENOSPC, "the line was written in part")
            os.fsync(ledger.fileno())
        except OSError as error:
            self._cut_ledger()
            raise WriteError(str(_write_error(self.path, error))) from error
        self._good_bytes += len(line)

    def events(self) -> Iterator[Event]:
        """All whole events, oldest first. A torn last line (a writer was killed) is dropped.

        Events of one architecture may share its record: it is to be read only.
        """
        path = self.path / "ledger.jsonl"
        archs: dict[str, dict[str, Any]] = {}
        if not path.exists():
            return
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                yield _parse_line(line, path, number, archs)

    def close(self) -> None:
        """Let go of the ledger and of the lock."""
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> StudyStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_ledger(self) -> io.FileIO:
        if self._ledger is None:
            if self._lock is None:
                raise StoreError(f"study {self.path.name!r} was opened to read only")
            path = self.path / "ledger.jsonl"
            path.touch()
            _drop_torn_tail(path)
            self._ledger = io.FileIO(path, "a")
            self._good_bytes = path.stat().st_size
            _sync_folder(self.path)
        return self._ledger

    def _cut_ledger(self) -> None:
        """Take back what a failed append left behind, so that the next one starts on a line of its own."""
        if self._ledger is None:
            return
        try:
            self._ledger.truncate(self._good_bytes)
        except OSError:
            self._ledger.close()
            self._ledger = None


def write_durably(path: Path, text: str) -> None:
    """Replace a file whole or not at all, and return when it is on the disk. OSError passes through."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def find_studies(runs_dir: Path) -> list[str]:
    """Names of the studies in a folder of runs."""
    if not runs_dir.is_dir():
        return []
    return sorted(entry.name for entry in runs_dir.iterdir() if StudyStore.exists(entry))


def _parse_line(line: bytes, path: Path, number: int, archs: dict[str, dict[str, Any]]) -> Event:
    try:
        data = json.loads(line.decode())
        if "arch" in data:
            data["arch"] = _shared(archs, data.get("arch_key"), data["arch"])
        return decode_event(data)
    except (ValueError, TypeError, AttributeError) as error:  # all that JSON of another shape can lead to
        raise StoreError(f"{path}, line {number} is not an event of a ledger ({error}); cut it out to go on") from error


def _shared(archs: dict[str, dict[str, Any]], key: str, arch: dict[str, Any]) -> dict[str, Any]:
    """The same record for the latest architectures: who keeps events would hold each of them many times."""
    if len(archs) >= _MAX_SHARED:
        archs.clear()
    known = archs.setdefault(key, arch)
    return known if known == arch else arch


def _drop_torn_tail(path: Path) -> None:
    """Cut a last line that has no end: its writer was killed, so nothing was ever done on its strength."""
    with open(path, "rb+") as file:
        size = file.seek(0, os.SEEK_END)
        end = size
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            file.truncate(end)
            os.fsync(file.fileno())


def _take_lock(path: Path) -> IO[str]:
    lock = open(path / "lock", "a+", encoding="utf-8")  # noqa: SIM115  held until close
    if not _locked(lock):
        lock.seek(0)
        owner = lock.read().strip()
        lock.close()
        raise StudyBusyError(
            f"study {path.name!r} is being written by another process{f' (pid {owner})' if owner else ''}; "
            "wait for it, stop it, or give this search a name of its own with STUDY="
        )
    lock.seek(0)
    lock.truncate()
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _locked(lock: IO[str]) -> bool:
    """Not at the first refusal: whoever asks how a study stands looks at its lock for a moment."""
    deadline = time.monotonic() + _LOCK_PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)


def _headless(path: Path) -> str:
    return (
        f"the folder {path} has the trials of a study in its ledger.jsonl, and no study.json that says what they are; "
        "put that file back, or move the folder away"
    )


def _check_format(path: Path) -> None:
    if not StudyStore.exists(path):
        if (path / "ledger.jsonl").exists():
            raise StoreError(_headless(path))
        known = find_studies(path.parent)
        listing = f"; studies there: {', '.join(known)}" if known else "; there are no studies there yet"
        raise StoreError(f"no study {path.name!r} in {path.parent}{listing}")
    version = _read_json(path / "study.json").get("format")
    if version != FORMAT:
        raise StoreError(f"study {path.name!r} has format {version!r}; this version reads format {FORMAT}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} is damaged: {error}") from error
    if not isinstance(data, dict):
        raise StoreError(f"{path} is damaged: it holds no fields")
    return data


def _write_error(path: Path, error: OSError) -> StoreError:
    reasons = {
        errno.EACCES: "permission denied",
        errno.EROFS: "the file system is read-only",
        errno.ENOSPC: "the disk is full; free some space and repeat the command to go on",
        errno.EDQUOT: "the disk quota is used up; free some space and repeat the command to go on",
        errno.ENOTDIR: "a file is in the way of a folder",
    }
    return StoreError(f"cannot write to {path}: {reasons.get(error.errno or 0, error.strerror or str(error))}")


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
