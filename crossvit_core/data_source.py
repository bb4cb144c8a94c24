"""What a reader of images hands over: the interface between ``datasets`` (where images lie) and ``data`` (arrays)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

SPLIT_SYNONYMS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
POOL = "all"


class DataError(ValueError):
    """A dataset that cannot be used as asked; the message says what is wrong and how to mend it."""


class AbsentDataError(DataError):
    """Nothing is there under the name of a dataset."""


class FewClassesError(DataError):
    """Images of one class, or of none. The reader of a folder knows a ``hint`` at what was meant."""

    def __init__(self, names: Iterable[str], hint: str = "") -> None:
        told = f"the only class is {', '.join(names) or 'none'}; a classifier needs at least two"
        super().__init__(f"{told}; {hint}" if hint else told)


class Part(Protocol):
    """One given split, or the whole pool: encoded images in a fixed order, with their labels."""

    @property
    def labels(self) -> Sequence[int] | Sequence[str]:
        """One class per image."""

    def open(self, index: int) -> Image.Image:
        """The image, possibly not decoded yet; any exception means that it is broken."""

    def where(self, index: int) -> str:
        """The file, or file and row, for people."""


@dataclass(frozen=True)
class Contents:
    """Parts by split name (``train``, ``val``, ``test``, or ``all`` for one pool).

    With ``class_names`` the labels are indices into it; without, they are the classes themselves.
    """

    parts: Mapping[str, Part]
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Source:
    """A dataset found but not read. ``listing`` changes when the files do, and costs no decoding."""

    listing: str
    read: Callable[[], Contents]


@dataclass(frozen=True)
class ArrayPart:
    """Images held as arrays: (H, W) or (H, W, C), uint8."""

    name: str
    images: np.ndarray
    labels: Sequence[int]

    def open(self, index: int) -> Image.Image:
        return Image.fromarray(np.asarray(self.images[index]))

    def where(self, index: int) -> str:
        return f"{self.name}, image {index}"


def list_files(paths: Iterable[Path]) -> str:
    """Paths, sizes and times of change as text: equal as long as nobody touched the files."""
    stats = ((path, path.stat()) for path in paths)
    return "\n".join(f"{path.resolve()}\t{stat.st_size}\t{stat.st_mtime_ns}" for path, stat in stats)
