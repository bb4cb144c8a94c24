"""A dataset as one array in memory, or mapped from a cache that all processes share: ``load_dataset``."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crossvit_core import data_cache
from crossvit_core.config import ArchError, Size, as_size
from crossvit_core.data_cache import CacheError
from crossvit_core.data_decode import Selection, decode, plan
from crossvit_core.data_source import Contents, DataError
from crossvit_core.data_splits import SPLITS, choose, draw_splits, encode_labels
from crossvit_core.datasets import DATASETS, open_source

__all__ = ["DATASETS", "DataError", "ImageData", "load_dataset", "open_cached"]

_CHUNK_IMAGES = 4096
_META_FIELDS = ("name", "class_names", "fingerprint", "mean", "std")


@dataclass(frozen=True, eq=False)
class ImageData:
    """A classification dataset with fixed splits.

    ``images``: uint8 (N, H, W, C), C = 1 or 3, read-only. ``labels``: int64 (N,). ``splits``: ``train``, ``val`` and
    ``test`` to sorted, disjoint indices. ``mean`` and ``std``: per channel of the training split, for pixels in [0, 1].
    ``fingerprint`` names the content: pixels, labels, classes and splits. Pickled with a ``cache_path``, it travels as
    that path.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    splits: dict[str, np.ndarray]
    fingerprint: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    cache_path: Path | None = None

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def in_channels(self) -> int:
        return int(self.images.shape[3])

    @property
    def image_size(self) -> Size:
        """(height, width) in pixels."""
        return (int(self.images.shape[1]), int(self.images.shape[2]))

    def describe(self) -> dict[str, Any]:
        """What a study writes down about its data: plain JSON values."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "num_images": len(self.labels),
            "image_size": list(self.image_size),
            "in_channels": self.in_channels,
            "num_classes": self.num_classes,
            "class_names": list(self.class_names),
            "splits": {split: len(indices) for split, indices in self.splits.items()},
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def __reduce__(self) -> Any:
        if self.cache_path is not None:
            return (open_cached, (self.cache_path,))
        return super().__reduce__()


def load_dataset(
    name: str,
    *,
    image_size: int | Size | None = None,
    in_channels: int | None = None,
    seed: int = 0,
    cache_dir: Path | None = None,
    limit: int | None = None,
) -> ImageData:
    """Load the dataset ``name``: ``digits``, a folder of images, parquet, ``torch/<name>`` or ``hfds/<name>``.

    ``image_size``: (height, width) to resize to; without it the images' common size. ``in_channels``: 1 (gray) or 3;
    without it what most images are. ``seed`` draws the splits that are not given. ``limit``: use about so many images,
    classes in proportion. With ``cache_dir`` the decoded arrays are kept there and mapped.
    Raises DataError for a dataset that is missing, broken, or too small to split.
    """
    options = _Options(_check_size(image_size), in_channels, seed, limit)
    options.check()
    source = open_source(name)
    if cache_dir is None:
        return _build(name, source.read(), options, folder=None)
    asked = {"name": name, **dataclasses.asdict(options)}
    entry = data_cache.entry_path(Path(cache_dir).absolute(), source.listing, asked)
    try:
        data_cache.verify(entry)
        return _open_entry(entry)
    except CacheError:
        contents = source.read()
        data_cache.publish(entry, lambda folder: _write(folder, _build(name, contents, options, folder)))
        return open_cached(entry)


def open_cached(path: Path) -> ImageData:
    """Map a cache entry that ``load_dataset`` wrote, for worker processes. Raises DataError when it is not there."""
    try:
        return _open_entry(Path(path))
    except CacheError as error:
        raise DataError(f"no usable cached dataset: {error}; load the dataset again with a cache_dir") from error


@dataclass(frozen=True)
class _Options:
    image_size: Size | None
    in_channels: int | None
    seed: int
    limit: int | None

    def check(self) -> None:
        if self.in_channels not in (None, 1, 3):
            raise DataError(f"in_channels {self.in_channels!r} is not possible; use 1 (gray) or 3 (colour)")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise DataError(f"seed {self.seed!r} is not an integer of at least 0")
        if self.limit is not None and (not isinstance(self.limit, int) or self.limit < 1):
            raise DataError(f"limit {self.limit!r} is not a number of images; use at least 1, or None for all")


def _check_size(image_size: int | Size | None) -> Size | None:
    if image_size is None:
        return None
    try:
        size = as_size(image_size)
    except ArchError as error:
        raise DataError(str(error)) from error
    if min(size) < 1:
        raise DataError(f"image_size {size} is not positive; use at least 1")
    return size


def _build(name: str, contents: Contents, options: _Options, folder: Path | None) -> ImageData:
    """Choose, split and decode: labels first, so that what cannot be split is refused before any decoding."""
    part_labels, class_names = encode_labels(contents)
    chosen = choose(part_labels, options.limit, options.seed)
    part_labels = {part: part_labels[part][indices] for part, indices in chosen.items()}
    splits = draw_splits(part_labels, class_names, options.seed)
    labels = np.concatenate(list(part_labels.values()))
    selection = [(contents.parts[part], indices) for part, indices in chosen.items()]
    shape = plan(selection, options.image_size, options.in_channels)
    images = _decode(selection, len(labels), shape, folder)
    mean, std = _statistics(images, splits["train"])
    for array in (images, labels, *splits.values()):
        array.setflags(write=False)
    fingerprint = _fingerprint(images, labels, class_names, splits)
    return ImageData(name, images, labels, class_names, splits, fingerprint, mean, std)


def _decode(selection: Selection, count: int, shape: tuple[Size, int], folder: Path | None) -> np.ndarray:
    (height, width), channels = shape
    full = (count, height, width, channels)
    if folder is None:
        images = np.empty(full, dtype=np.uint8)
    else:  # straight to disk: a set may be larger than memory
        images = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=full)
    decode(selection, images)
    if isinstance(images, np.memmap):
        images.flush()
    return images


def _statistics(images: np.ndarray, train: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, from exact counts of the 256 values; a constant channel has 1."""
    counts = np.zeros((images.shape[3], 256), dtype=np.int64)
    for start in range(0, len(train), _CHUNK_IMAGES):
        chunk = images[train[start : start + _CHUNK_IMAGES]]
        counts += [np.bincount(chunk[..., channel].ravel(), minlength=256) for channel in range(images.shape[3])]
    values = np.arange(256) / 255
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    std = np.sqrt(np.sum(shares * (values - mean[:, None]) ** 2, axis=1))
    std[counts.max(axis=1) == counts.sum(axis=1)] = 1.0
    return tuple(mean.tolist()), tuple(std.tolist())


def _fingerprint(
    images: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...], splits: Mapping[str, np.ndarray]
) -> str:
    digest = hashlib.sha256(repr((images.shape, class_names)).encode())
    for start in range(0, len(images), _CHUNK_IMAGES):
        digest.update(images[start : start + _CHUNK_IMAGES].tobytes())
    for array in (labels, *splits.values()):
        digest.update(f"{array.size} ".encode())
        digest.update(array.astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def _write(folder: Path, data: ImageData) -> None:
    """Everything beside the images, which ``_build`` decoded into ``folder`` already."""
    for file, array in (("labels", data.labels), *data.splits.items()):
        np.save(folder / f"{file}.npy", array)
    data_cache.seal(folder, {field: getattr(data, field) for field in _META_FIELDS})


def _open_entry(entry: Path) -> ImageData:
    meta = data_cache.read_meta(entry)
    missing = set(_META_FIELDS) - meta.keys()
    if missing:
        raise CacheError(f"{entry}/meta.json lacks {', '.join(sorted(missing))}")
    return ImageData(
        name=meta["name"],
        images=data_cache.read_array(entry, "images"),
        labels=data_cache.read_array(entry, "labels"),
        class_names=tuple(meta["class_names"]),
        splits={split: data_cache.read_array(entry, split) for split in SPLITS},
        fingerprint=meta["fingerprint"],
        mean=tuple(meta["mean"]),
        std=tuple(meta["std"]),
        cache_path=entry,
    )
