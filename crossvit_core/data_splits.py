"""Which image is a training, a validation or a test image, decided from labels alone.

As no pixel takes part, an image stays in its split whatever size or channels it is decoded to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from crossvit_core.data_source import POOL, Contents, DataError, FewClassesError

SPLITS = ("train", "val", "test")
POOL_SHARE = 0.15  # of each class, for validation and again for test, when nothing is given apart
TRAIN_SHARE = 0.10  # of each training class, when only one of the two is missing


def encode_labels(contents: Contents) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Labels as indices into the class names, by part; training first, in whatever order files were found.

    Raises DataError for one class, or labels of mixed kinds.
    """
    parts = [name for name in (POOL, *SPLITS) if name in contents.parts]
    if contents.class_names is not None:
        labels = {name: _check_range(contents, name) for name in parts}
        names = contents.class_names
    else:
        values = {label for part in contents.parts.values() for label in part.labels}
        if len({isinstance(value, str) for value in values}) > 1:
            raise DataError("labels are integers in some files and strings in others; write them as one kind")
        classes = sorted(values)
        position = {value: index for index, value in enumerate(classes)}
        labels = {
            name: np.array([position[label] for label in contents.parts[name].labels], dtype=np.int64) for name in parts
        }
        names = tuple(str(value) for value in classes)
    if len(names) < 2:
        raise FewClassesError(names)
    return labels, names


def _check_range(contents: Contents, name: str) -> np.ndarray:
    labels = np.asarray(contents.parts[name].labels, dtype=np.int64)
    num_classes = len(contents.class_names or ())
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if outside.size:
        where = contents.parts[name].where(int(outside[0]))
        raise DataError(
            f"{where}: label {labels[outside[0]]} is not one of 0..{num_classes - 1}; leave out files without labels"
        )
    return labels


def choose(labels: Mapping[str, np.ndarray], limit: int | None, seed: int) -> dict[str, np.ndarray]:
    """Indices of the images to use, by part: all, or about ``limit`` in all with the classes in proportion."""
    total = sum(part.size for part in labels.values())
    if limit is None or limit >= total:
        return {name: np.arange(part.size) for name, part in labels.items()}
    rng = _generator(labels, seed)
    # At least one image of every class that is there: a given split that came out empty would be drawn elsewhere.
    sizes = {name: max(limit * part.size // total, len(np.unique(part))) for name, part in labels.items()}
    return {name: _stratified(part, sizes[name], rng) for name, part in labels.items()}


def _stratified(labels: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """``size`` indices: three of each class first, so that a rare class reaches every split, then in proportion."""
    order = np.empty(labels.size)
    for members in _members(labels, np.arange(labels.size)).values():
        ranks = rng.permutation(members.size)
        order[members] = np.where(ranks < len(SPLITS), ranks - len(SPLITS), (ranks + 0.5) / members.size)
    return np.sort(np.argsort(order, kind="stable")[:size])


def draw_splits(labels: Mapping[str, np.ndarray], names: tuple[str, ...], seed: int) -> dict[str, np.ndarray]:
    """Disjoint, sorted indices of ``train``, ``val`` and ``test`` into the parts laid end to end.

    A given split is kept as it is; a missing one is drawn, class by class, from the training images: 70/15/15 from one
    pool, 10 % of the training images for one that is missing. Raises DataError where a class would be left out.
    """
    given = _offset(labels)
    if "train" not in given:
        raise DataError(f"there are {' and '.join(given)} images but no training images; add a train split")
    flat = np.concatenate(list(labels.values()))
    _check_classes(flat[given["train"]], names, "training")
    missing = [split for split in SPLITS if split not in given]
    share = POOL_SHARE if len(missing) > 1 else TRAIN_SHARE
    drawn = _draw(flat, given.pop("train"), missing, share, names, _generator(labels, seed))
    splits = {**given, **drawn}
    _check_classes(flat[splits["val"]], names, "validation")
    return {split: splits[split] for split in SPLITS}


def _offset(labels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    indices: dict[str, np.ndarray] = {}
    start = 0
    for name, part in labels.items():
        if part.size:
            indices["train" if name == POOL else name] = np.arange(start, start + part.size)
        start += part.size
    return indices


def _draw(
    flat: np.ndarray,
    pool: np.ndarray,
    missing: list[str],
    share: float,
    names: tuple[str, ...],
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    taken: dict[str, list[np.ndarray]] = {split: [] for split in ("train", *missing)}
    for label, members in _members(flat, pool).items():
        if members.size <= len(missing):
            raise DataError(
                f"class {names[label]!r} has {members.size} images to divide among {', '.join(taken)}; "
                f"each class needs at least {len(missing) + 1}"
            )
        rest = rng.permutation(members)
        for split in missing:
            size = max(1, round(share * members.size))
            taken[split].append(rest[:size])
            rest = rest[size:]
        taken["train"].append(rest)
    return {split: np.sort(np.concatenate(parts)) for split, parts in taken.items()}


def _members(flat: np.ndarray, pool: np.ndarray) -> dict[int, np.ndarray]:
    labels = flat[pool]
    return {int(label): pool[labels == label] for label in np.unique(labels)}


def _check_classes(labels: np.ndarray, names: tuple[str, ...], split: str) -> None:
    counts = np.bincount(labels, minlength=len(names))
    absent = [name for name, count in zip(names, counts) if count == 0]
    if absent:
        raise DataError(
            f"no {split} image of class {', '.join(map(repr, absent[:5]))} ({len(absent)} of {len(names)} classes); "
            "every class needs training and validation images"
        )


def _generator(labels: Mapping[str, np.ndarray], seed: int) -> np.random.Generator:
    digest = hashlib.sha256()
    for name, part in labels.items():
        digest.update(f"{name} {part.size} ".encode())
        digest.update(part.astype("<i8").tobytes())
    return np.random.default_rng([seed, int.from_bytes(digest.digest()[:8], "little")])
