"""Datasets by name: where their images lie. Registry: ``DATASETS``."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from crossvit_core.config import suggest
from crossvit_core.data_folder import LAYOUT, folder_source
from crossvit_core.data_parquet import find_parquet, parquet_source
from crossvit_core.data_source import AbsentDataError, ArrayPart, Contents, DataError, Part, Source

TORCH_NAMES = ("cifar10", "cifar100", "fashion_mnist", "kmnist", "mnist", "qmnist")
TORCH_ROOT = "data"
_NEAR_SIBLING = 0.75  # likeness of names: one letter of four


def open_source(name: str) -> Source:
    """Find the dataset ``name``: a key of ``DATASETS``, ``torch/<name>``, ``hfds/<name>``, a folder or a parquet file.

    Raises AbsentDataError for a name that is none of these, with the nearest that is; DataError for a broken one.
    """
    if name in DATASETS:
        return DATASETS[name]()
    prefix, separator, rest = name.partition("/")
    if separator and prefix in PREFIXES:
        return PREFIXES[prefix](rest)
    path = Path(name).expanduser()
    if path.is_dir():
        return parquet_source(path) if find_parquet(path) else folder_source(path)
    if path.is_file() and path.suffix.lower() == ".parquet":
        return parquet_source(path)
    if path.is_file():
        raise DataError(f"{path} is a file but not a .parquet one; {_allowed()}")
    raise AbsentDataError(f"there is no dataset {name!r}; {_nearest(name, path)}. {_allowed()}")


def _allowed() -> str:
    return (
        f"A dataset is {' or '.join(map(repr, DATASETS))}, a folder ({LAYOUT}), a parquet file or a folder of them, "
        "torch/<name>[@folder] or hfds/<name>[@folder]"
    )


def _nearest(name: str, path: Path) -> str:
    torch_names = [f"torch/{known}" for known in TORCH_NAMES] if name.startswith("torch") else []
    return suggest(str(path), [*DATASETS, *torch_names, *_near_siblings(path)])


def _near_siblings(path: Path) -> list[str]:
    """What lies beside it under nearly its name, at most one; the folder that they share makes nothing near."""
    if not path.parent.is_dir() or path.absolute().parent == Path(path.anchor or "/"):  # no images lie in the root
        return []
    names = sorted(entry.name for entry in path.parent.iterdir() if _may_hold_images(entry))
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=_NEAR_SIBLING)
    return [str(path.with_name(sibling)) for sibling in near]


def _may_hold_images(entry: Path) -> bool:
    return not entry.name.startswith(".") and (entry.is_dir() or entry.suffix.lower() == ".parquet")


def _digits() -> Source:
    """scikit-learn's 1797 handwritten digits of 8x8: values 0..16 scaled to 0..255."""
    return Source(listing="digits of scikit-learn, 1797 images", read=_read_digits)


def _read_digits() -> Contents:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    part = ArrayPart("digits", images, digits.target.tolist())
    return Contents({"all": part}, class_names=tuple(str(digit) for digit in digits.target_names))


def _split_root(rest: str) -> tuple[str, str | None]:
    name, separator, root = rest.partition("@")
    return name, root if separator else None


def _torch_source(rest: str) -> Source:
    """torchvision's small sets through timm, from files already in ``data/`` or the folder after ``@``."""
    name, root = _split_root(rest)
    if name not in TORCH_NAMES:
        raise DataError(f"torch/{name} is not a dataset read here; {suggest(name, TORCH_NAMES)}")
    folder = str(Path(root or TORCH_ROOT).expanduser())
    sets = {split: _create(f"torch/{name}", folder, timm_split) for split, timm_split in _TORCH_SPLITS.items()}
    parts: dict[str, Part] = {s: ArrayPart(f"torch/{name} {s}", _pixels(d), _targets(d)) for s, d in sets.items()}
    class_names = tuple(str(class_name) for class_name in sets["train"].classes)
    return Source(listing=_digest_parts(parts), read=lambda: Contents(parts, class_names))


_TORCH_SPLITS = {"train": "train", "test": "validation"}


def _pixels(dataset: Any) -> np.ndarray:
    return np.asarray(dataset.data)


def _targets(dataset: Any) -> list[int]:
    targets = np.asarray(dataset.targets)
    return (targets[:, 0] if targets.ndim == 2 else targets).tolist()  # QMNIST: the digit is the first of eight columns


def _digest_parts(parts: dict[str, Part]) -> str:
    digest = hashlib.sha256()
    for part in parts.values():
        if isinstance(part, ArrayPart):
            digest.update(np.ascontiguousarray(part.images).tobytes())
            digest.update(np.asarray(part.labels).tobytes())
    return digest.hexdigest()


class _HubPart:
    """A Hugging Face split through timm's reader; images come encoded."""

    def __init__(self, name: str, dataset: Any) -> None:
        self._name = name
        self._dataset = dataset
        self.fingerprint = str(dataset.reader.dataset._fingerprint)
        self.class_to_index: dict[str, int] = dict(dataset.reader.class_to_idx or {})
        self.labels: list[int] = list(dataset.reader.dataset[dataset.reader.label_key])

    def open(self, index: int) -> Any:
        return self._dataset[index][0]

    def where(self, index: int) -> str:
        return f"{self._name}, row {index}"


def _hub_source(rest: str) -> Source:
    """A Hugging Face dataset through timm; files come from its local cache, or the folder after ``@``."""
    name, root = _split_root(rest)
    train = _HubPart(f"hfds/{name} train", _create(f"hfds/{name}", root, "train"))
    parts: dict[str, Any] = {"train": train}
    for split, hub_split in (("val", "validation"), ("test", "test")):
        try:
            parts[split] = _HubPart(f"hfds/{name} {split}", _create(f"hfds/{name}", root, hub_split))
        except DataError:
            continue  # most sets lack one of the two; what is missing is drawn from the training images
    names = tuple(sorted(train.class_to_index, key=train.class_to_index.__getitem__)) or None
    listing = " ".join(part.fingerprint for part in parts.values())
    return Source(listing=listing, read=lambda: Contents(parts, names))


def _create(name: str, root: str | None, split: str) -> Any:
    """timm's dataset of one split, its images unconverted; whatever fails in a foreign reader becomes a DataError."""
    from timm.data import create_dataset

    try:
        reader_options: dict[str, Any] = {} if name.startswith("torch/") else {"input_img_mode": ""}
        return create_dataset(name, root=root, split=split, download=False, **reader_options)
    except (Exception, SystemExit) as error:
        place = root or "the library's own cache"
        raise DataError(
            f"{name}, split {split!r}, could not be read from {place}: {error}. "
            f"Nothing is downloaded here: put its files there, or say where they are with {name}@<folder>"
        ) from error


PREFIXES: dict[str, Callable[[str], Source]] = {"torch": _torch_source, "hfds": _hub_source}
DATASETS: dict[str, Callable[[], Source]] = {"digits": _digits}
