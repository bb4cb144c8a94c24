"""What checkpoints are called, and their removal once a training is over. Imports no torch: the driver does this."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

_PREFIX = "checkpoint-"
_SUFFIX = ".safetensors"


def new_checkpoint_path(folder: Path, attempt: int) -> Path:
    """A name that no other writer has, not even one of the same attempt under another driver."""
    return folder / f"{_PREFIX}{attempt:03d}-{uuid.uuid4().hex[:12]}{_SUFFIX}"


def find_checkpoints(folder: Path) -> list[Path]:
    """Every checkpoint in a folder, by name."""
    return sorted(folder.glob(f"{_PREFIX}*{_SUFFIX}"))


def remove_checkpoints(folder: Path) -> None:
    """The training is over: remove its checkpoints, what killed writers left, and the folder if it is then empty."""
    found = [*find_checkpoints(folder), *folder.glob(f".{_PREFIX}*.tmp")]
    remove_files(found)
    if found and not any(folder.iterdir()):
        folder.rmdir()


def remove_files(paths: Iterable[Path]) -> None:
    """Remove files that somebody else may have removed already."""
    for path in paths:
        path.unlink(missing_ok=True)


def folders_with_checkpoints(trials_dir: Path) -> Iterator[Path]:
    """Folders of trials that hold a checkpoint, or the rest of one."""
    names = {
        path.parent for pattern in (f"*/{_PREFIX}*{_SUFFIX}", f"*/.{_PREFIX}*.tmp") for path in trials_dir.glob(pattern)
    }
    yield from sorted(names)
