"""Files on a cluster whose machines share no disk: the dataset comes from the driver's, a trial's files go back there.

``HomeFiles`` lives on the driver's machine, ``NodeFiles`` in each worker; they talk in chunks, so that a file may be
larger than the memory between them. Where the study's folder is seen by the worker too, nothing is sent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from crossvit_core import data_cache
from crossvit_core.checkpoint_files import find_checkpoints, remove_checkpoints
from crossvit_core.device_lock import lock_folder
from results.records import Finished
from search.plan import Plan
from search.trial import Trial

CHUNK_BYTES = 32 * 2**20

Call = Callable[..., Any]


class HomeFiles:
    """The driver's end: serves one study's dataset, and takes the files of its trials in."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def sees(self, path: Path) -> bool:
        """Whether a file of the driver's is there for this process as well."""
        return path.is_file()

    def data_fingerprint(self) -> str:
        return str(data_cache.read_meta(self._plan.data_path)["fingerprint"])

    def list_data(self) -> list[str]:
        """Names of the dataset's files, the one that makes it valid last."""
        names = sorted(path.name for path in self._plan.data_path.iterdir() if path.is_file())
        return sorted(names, key=lambda name: name == "meta.json")

    def read_data(self, name: str, offset: int) -> bytes:
        return _read_chunk(self._plan.data_path / Path(name).name, offset)

    def list_checkpoints(self, number: int) -> list[str]:
        return [path.name for path in find_checkpoints(self._plan.trial_dir(number))]

    def read_trial(self, number: int, name: str, offset: int) -> bytes:
        return _read_chunk(self._plan.trial_dir(number) / Path(name).name, offset)

    def write_trial(self, number: int, name: str, offset: int, content: bytes, transfer: str, last: bool) -> None:
        """Add a chunk to a file that takes its name when the last one is there."""
        target = self._plan.trial_dir(number) / Path(name).name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{transfer}.tmp")
        with open(partial, "r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(content)
        if last:
            partial.replace(target)


class NodeFiles:
    """A worker's end. ``call(name, *arguments)`` runs a method of ``HomeFiles``; it raises OSError if it cannot."""

    def __init__(self, plan: Plan, call: Call, marker: Path, cache_dir: Path | None = None) -> None:
        self._call = call
        cache_dir = cache_dir or lock_folder() / "data"
        self._shared = marker.is_file()
        self._scratch = None if self._shared else Path(tempfile.mkdtemp(prefix="crossvit-node-"))
        self._sent: dict[Path, tuple[int, int]] = {}
        self.plan = dataclasses.replace(
            plan,
            data_path=_local_data(plan.data_path, call, cache_dir),
            trials_dir=self._scratch if plan.trials_dir is not None and self._scratch else plan.trials_dir,
        )

    def fetch(self, trial: Trial) -> None:
        """Bring what earlier attempts left, so that this one goes on from there. OSError means starting over."""
        if not self._sends:
            return
        with contextlib.suppress(OSError):
            folder = self.plan.trial_dir(trial.number)
            for name in self._call("list_checkpoints", trial.number):
                folder.mkdir(exist_ok=True)
                _copy_in(folder / name, functools.partial(self._call, "read_trial", trial.number, name))
                self._sent[folder / name] = _version(folder / name)

    def send(self, trial: Trial) -> str:
        """Take what is new in the trial's folder home. Returns what went wrong, in words; nothing raises."""
        if not self._sends:
            return ""
        try:
            for path in sorted(self.plan.trial_dir(trial.number).glob("*")):
                if path.is_file() and self._sent.get(path) != _version(path):
                    self._send_file(trial, path)
                    self._sent[path] = _version(path)
        except OSError as error:
            return f"files of the trial not brought back: {error}"
        return ""

    def send_outcome(self, trial: Trial, finished: Finished) -> Finished:
        """As ``send``, with a failure noted in the outcome; what lies here is removed."""
        note = self.send(trial)
        self._remove(trial)
        return dataclasses.replace(finished, error="; ".join(filter(None, [finished.error, note])))

    def send_rest(self, trial: Trial) -> None:
        """As ``send``, after a trial's early end; what lies here is removed. After any other end nothing is left.

        Checkpoints stay behind: by now the driver may have removed those that it has, and would not do so again.
        """
        if self._sends:
            with contextlib.suppress(OSError):
                remove_checkpoints(self.plan.trial_dir(trial.number))
            self.send(trial)  # a failure is noted nowhere: the outcome has been written
            self._remove(trial)

    def close(self) -> None:
        """Leave nothing but the dataset on this machine."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _remove(self, trial: Trial) -> None:
        if self._sends:
            shutil.rmtree(self.plan.trial_dir(trial.number), ignore_errors=True)
            self._sent.clear()

    @property
    def _sends(self) -> bool:
        return not self._shared and self.plan.trials_dir is not None

    def _send_file(self, trial: Trial, path: Path) -> None:
        transfer, offset = uuid.uuid4().hex[:8], 0
        size = path.stat().st_size
        while True:
            content = _read_chunk(path, offset)
            last = offset + len(content) >= size
            self._call("write_trial", trial.number, path.name, offset, content, transfer, last)
            offset += len(content)
            if last:
                return


def _local_data(path: Path, call: Call, cache_dir: Path) -> Path:
    """The dataset's folder as this machine has it, fetched once per machine if it has not."""
    fingerprint = call("data_fingerprint")
    if _holds(path, fingerprint):
        return path
    entry = cache_dir / fingerprint
    with _only_one(cache_dir / f"{fingerprint}.lock"):
        if not _holds(entry, fingerprint):
            data_cache.publish(entry, lambda folder: _fetch_data(folder, call))
    return entry


def _holds(entry: Path, fingerprint: str) -> bool:
    try:
        return data_cache.read_meta(entry).get("fingerprint") == fingerprint
    except data_cache.CacheError:
        return False


def _fetch_data(folder: Path, call: Call) -> None:
    """Raises CacheError for what arrives damaged, before it is anybody's dataset."""
    for name in call("list_data"):
        _copy_in(folder / name, functools.partial(call, "read_data", name))
    data_cache.verify(folder)


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Workers of one machine start together: one of them fetches, the others wait for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _copy_in(target: Path, read: Callable[[int], bytes]) -> None:
    partial = target.with_name(f".{target.name}.part")
    with open(partial, "wb") as file:
        while chunk := read(file.tell()):
            file.write(chunk)
    partial.replace(target)


def _read_chunk(path: Path, offset: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(CHUNK_BYTES)


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size
