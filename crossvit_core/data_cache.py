"""Decoded datasets on disk: a folder of .npy files and a meta.json, written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL

_FORMAT = 3
_CHUNK_BYTES = 1 << 24
_REPLACED = "replaced"
_ABANDONED_SECONDS = 86_400


class CacheError(Exception):
    """A cache entry that is absent or damaged: build it again."""


def entry_path(cache_dir: Path, listing: str, options: Mapping[str, Any]) -> Path:
    """Where the dataset of these files, decoded with these options by this Pillow, is kept."""
    text = json.dumps([_FORMAT, PIL.__version__, listing, dict(options)], sort_keys=True)
    return cache_dir / hashlib.sha256(text.encode()).hexdigest()[:16]


def publish(entry: Path, write: Callable[[Path], None]) -> None:
    """Have ``write`` fill a folder and move it to ``entry`` in one step; what lies there is replaced."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(entry)
    building = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=entry.parent))
    try:
        write(building)
        _replace(entry, building)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _remove_abandoned(entry: Path) -> None:
    """A process killed while it built this entry left its folder behind; nobody builds for a day."""
    for folder in entry.parent.glob(f".{entry.name}-*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _replace(entry: Path, building: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        entry.rename(building / _REPLACED)
    try:
        building.rename(entry)
    except OSError:
        if not (entry / "meta.json").is_file():  # otherwise another process has just published the same content
            raise
    shutil.rmtree(entry / _REPLACED, ignore_errors=True)


def seal(folder: Path, meta: Mapping[str, Any]) -> None:
    """Write meta.json with a checksum of every array: the last act of writing an entry."""
    checksums = {file.name: _checksum(file) for file in sorted(folder.glob("*.npy"))}
    text = json.dumps({**meta, "format": _FORMAT, "checksums": checksums}, indent=1)
    (folder / "meta.json").write_text(text, encoding="utf-8")


def read_meta(entry: Path) -> dict[str, Any]:
    """The entry's meta.json. Raises CacheError."""
    try:
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CacheError(f"{entry}: {error}") from error
    if not isinstance(meta, dict) or meta.get("format") != _FORMAT:
        raise CacheError(f"{entry} is not of cache format {_FORMAT}")
    return meta


def read_array(entry: Path, name: str) -> np.ndarray:
    """One array, memory-mapped and read-only, so that all processes share its pages. Raises CacheError."""
    try:
        return np.load(entry / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CacheError(f"{entry}/{name}.npy: {error}") from error


def verify(entry: Path) -> None:
    """Raise CacheError unless every array is byte for byte what was written."""
    for name, checksum in _checksums(entry).items():
        try:
            found = _checksum(entry / name)
        except OSError as error:
            raise CacheError(f"{entry}/{name}: {error}") from error
        if found != checksum:
            raise CacheError(f"{entry}/{name} is damaged")


def _checksums(entry: Path) -> dict[str, int]:
    checksums = read_meta(entry).get("checksums")
    if not isinstance(checksums, dict):
        raise CacheError(f"{entry}/meta.json lists no checksums")
    return checksums


def _checksum(file: Path) -> int:
    value = 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            value = zlib.crc32(chunk, value)
    return value
