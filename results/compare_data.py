"""Whether studies were run on the same images, and at which sizes they read them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from results.described import mapping
from results.units import listed

# What resizing changes: the fingerprint is taken over the resized pixels, and so are the mean and the deviation.
_OF_THE_SIZE = frozenset({"image_size", "fingerprint", "mean", "std"})


def use_same_images(studies: Sequence[Mapping[str, Any]]) -> bool:
    """Whether accuracies of these studies can be compared: one data set, be it read at several sizes."""
    found = [mapping(study.get("data")) for study in studies]
    prints = {str(data.get("fingerprint")) for data in found}
    if len(prints) < 2:
        return True
    sizes = {_size_of(data) for data in found}
    pairs = {(_size_of(data), str(data.get("fingerprint"))) for data in found}
    # Images of one size have one fingerprint: with two of them these are other images, or other splits.
    one_each = "" not in sizes and len(sizes) == len(prints) == len(pairs)
    return one_each and len({_beside_the_size(data) for data in found}) == 1


def sizes_sentence(studies: Mapping[str, Mapping[str, Any]]) -> str:
    """At which sizes studies that ``use_same_images``, by their names, read these; empty if at one."""
    names: dict[str, list[str]] = {}
    for name, study in studies.items():
        names.setdefault(_size_of(mapping(study.get("data"))), []).append(name)
    if len(names) < 2:
        return ""
    parts = [f"{listed(of_size)} at {size}" for size, of_size in names.items()]
    return f"They read the same images at other sizes: {'; '.join(parts)} pixels."


def _size_of(data: Mapping[str, Any]) -> str:
    size = data.get("image_size")
    return " x ".join(map(str, size)) if isinstance(size, (list, tuple)) else str(size or "")


def _beside_the_size(data: Mapping[str, Any]) -> str:
    return json.dumps({name: value for name, value in data.items() if name not in _OF_THE_SIZE}, sort_keys=True)
