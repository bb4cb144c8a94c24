"""A training under way, on disk: all it takes to go on as if nothing had happened. Nothing here unpickles.

A checkpoint is one safetensors file: tensors as tensors; step, epoch, curve and a checksum of it all in its header.
Each writer has a file name of its own, so that one which should be dead by now spoils nobody's work.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from crossvit_core.atomic_file import write_atomically
from crossvit_core.checkpoint_files import find_checkpoints, new_checkpoint_path, remove_files

FORMAT = "crossvit-checkpoint-1"
EVERY_SECONDS = 1.0

_QUICK_SECONDS = 0.05  # saving that takes longer is done as much more rarely: a twentieth of the time goes into it


class CheckpointError(ValueError):
    """A file that is no checkpoint of ours, a damaged one, or one of another training."""


@dataclass(frozen=True)
class Checkpoint:
    """The state after ``epoch`` whole epochs. ``state`` is anything that JSON can hold."""

    epoch: int
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


def save_checkpoint(path: Path, checkpoint: Checkpoint, identity: Mapping[str, Any]) -> None:
    """Write the file whole or not at all; ``identity`` says which training this is. OSError passes through."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    header = {
        "format": FORMAT,
        "identity": _canonical(identity),
        "epoch": str(checkpoint.epoch),
        "state": json.dumps(dict(checkpoint.state)),
    }
    header["checksum"] = str(_checksum(header, tensors))
    write_atomically(path, save(tensors, header))


def load_checkpoint(path: Path, identity: Mapping[str, Any]) -> Checkpoint:
    """Read a file that ``save_checkpoint`` wrote, tensors on the CPU. Raises CheckpointError."""
    header, tensors = _read(path, identity, with_tensors=True)
    if header.get("checksum") != str(_checksum(header, tensors)):
        raise CheckpointError(f"{path.name} is damaged: its checksum does not match")
    return Checkpoint(int(header["epoch"]), tensors, json.loads(header["state"]))


class CheckpointFolder:
    """Where one attempt at a training leaves its checkpoints, and finds those of attempts before it.

    ``found`` is the one that is furthest on, or None. ``extra`` is kept with every checkpoint: JSON data of the
    caller's, at first what ``found`` had. ``notes`` says what could not be read or written; training goes on anyway.
    A checkpoint is due at ``epochs`` and where the last one is ``every_seconds`` old; older where saving takes long, as
    with a large network on a GPU, whose epochs may be as short.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        *,
        attempt: int = 1,
        epochs: Container[int] = (),
        every_seconds: float = EVERY_SECONDS,
    ) -> None:
        self.notes: list[str] = []
        self._folder = folder
        self._identity = dict(identity)
        self._epochs = epochs
        self._every_seconds = every_seconds
        self._last_saved = time.monotonic()
        self._save_seconds = 0.0
        self._path = new_checkpoint_path(folder, attempt)
        self._older = find_checkpoints(folder)
        self.found = self._find()
        self.extra: dict[str, Any] = dict(self.found.state.get("extra", {})) if self.found else {}

    def is_due(self, epoch: int) -> bool:
        """Whether the state after this epoch is to be saved."""
        age = self._every_seconds * max(1.0, self._save_seconds / _QUICK_SECONDS)
        return epoch in self._epochs or time.monotonic() - self._last_saved >= age

    def save(self, epoch: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Replace this attempt's checkpoint; those of earlier attempts go once there is one."""
        start = time.monotonic()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            checkpoint = Checkpoint(epoch, tensors, {**state, "extra": self.extra})
            save_checkpoint(self._path, checkpoint, self._identity)
        except OSError as error:
            self.note(f"checkpoint not kept: {error.strerror or error}")
            return
        self._last_saved = time.monotonic()
        self._save_seconds = self._last_saved - start
        remove_files(self._older)
        self._older = []

    def take_found(self) -> Checkpoint | None:
        """``found``, which is let go of: its tensors take as much memory as the training."""
        found, self.found = self.found, None
        return found

    def note(self, text: str) -> None:
        """Say something once."""
        if text not in self.notes:
            self.notes.append(text)

    def _find(self) -> Checkpoint | None:
        """The furthest checkpoint that can be used; the headers of all are read, the tensors of one."""
        epochs: dict[Path, int] = {}
        for path in self._older:
            try:
                epochs[path] = int(_read(path, self._identity, with_tensors=False)[0]["epoch"])
            except CheckpointError as error:
                self.note(f"checkpoint not used: {error}")
        for path in sorted(epochs, key=lambda path: epochs[path], reverse=True):
            try:
                return load_checkpoint(path, self._identity)
            except CheckpointError as error:
                self.note(f"checkpoint not used: {error}")
        return None


def _read(path: Path, identity: Mapping[str, Any], *, with_tensors: bool) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            _check_header(path, header, identity)
            names = list(file.keys()) if with_tensors else []
            # Cloned: a mapped file that somebody cuts short would end the process.
            return header, {name: file.get_tensor(name).clone() for name in names}
    except CheckpointError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path.name} cannot be read: {str(error).splitlines()[0]}") from error


def _check_header(path: Path, header: Mapping[str, str], identity: Mapping[str, Any]) -> None:
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path.name} has format {header.get('format')!r}, not {FORMAT!r}")
    if not header.get("epoch", "").isdecimal():
        raise CheckpointError(f"{path.name} names no epoch")
    stored = json.loads(header.get("identity", "{}"))
    asked = json.loads(_canonical(identity))
    differing = sorted(name for name in stored.keys() | asked.keys() if stored.get(name) != asked.get(name))
    if differing:
        raise CheckpointError(f"{path.name} belongs to another training: it differs in {', '.join(differing)}")


def _canonical(data: Mapping[str, Any]) -> str:
    return json.dumps(dict(data), sort_keys=True)


def _checksum(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 over what the header says and over names and bytes of the tensors, in the order of names."""
    value = zlib.crc32("\n".join(header.get(name, "") for name in ("identity", "epoch", "state")).encode())
    for name in sorted(tensors):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, value)
    return value
