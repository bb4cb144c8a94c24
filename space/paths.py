"""Paths into an architecture, such as ``branches.0.embed_dim``, ``encoders.*.fusion`` or ``num_encoders``.

A path works on the architecture's *tree*: nested dicts and lists with every field present. ``*`` stands for every
branch or encoder, which then share one value.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from crossvit_core.config import (
    ArchConfig,
    BranchConfig,
    EncoderConfig,
    HeadConfig,
    ResidualAttentionConfig,
    suggest,
)

NUM_ENCODERS = "num_encoders"
IMAGE_SIZE = "image_size"

_FIELDS = {
    "branches": [field.name for field in dataclasses.fields(BranchConfig)],
    "encoders": [field.name for field in dataclasses.fields(EncoderConfig)],
    "head": [field.name for field in dataclasses.fields(HeadConfig)],
    "residual_attention": [field.name for field in dataclasses.fields(ResidualAttentionConfig)],
}
_PER_BRANCH = ("depths", "windows")  # fields of an encoder that hold one value for every branch
_EXAMPLES = "num_encoders, image_size, branches.0.patch_size, branches.*.embed_dim, encoders.*.fusion"

Tree = dict[str, Any]


class PathError(ValueError):
    """A path that leads to no field of an architecture."""


def to_tree(arch: ArchConfig) -> Tree:
    """The architecture as nested dicts and lists, every field present."""
    return {
        **vars(arch),
        "branches": [{**vars(branch), "stem_dilations": list(branch.stem_dilations)} for branch in arch.branches],
        "encoders": [_encoder_tree(encoder, len(arch.branches)) for encoder in arch.encoders],
        "head": {**vars(arch.head), "taps": [list(tap) for tap in arch.head.taps]},
        "residual_attention": {**vars(arch.residual_attention), "where": list(arch.residual_attention.where)},
    }


def _encoder_tree(encoder: EncoderConfig, num_branches: int) -> Tree:
    """Every branch has its place in the fields that hold one value for each."""
    windows = list(encoder.windows) or [0] * num_branches
    return {**vars(encoder), "depths": list(encoder.depths), "windows": windows}


def copy_tree(tree: Tree) -> Tree:
    """A tree of its own: nothing in it that can change is shared."""
    return {
        **tree,
        "branches": [dict(branch) for branch in tree["branches"]],
        "encoders": [
            {**encoder, **{name: list(encoder[name]) for name in _PER_BRANCH}} for encoder in tree["encoders"]
        ],
        "head": {**tree["head"], "taps": [list(tap) for tap in tree["head"]["taps"]]},
        "residual_attention": {**tree["residual_attention"], "where": list(tree["residual_attention"]["where"])},
    }


def differences(tree: Tree, other: Tree) -> list[str]:
    """Each field in which two architectures differ, with both values: 'num_classes (10 instead of 5)'."""
    return [f"{path} ({ours} instead of {theirs})" for path, ours, theirs in _differing(tree, other, "")]


def _differing(ours: Any, theirs: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in ours:
            yield from _differing(ours[key], theirs.get(key), f"{path}.{key}" if path else key)
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (mine, other) in enumerate(zip(ours, theirs)):
            yield from _differing(mine, other, f"{path}.{index}")
    elif isinstance(ours, list) and isinstance(theirs, list):
        yield path, f"{len(ours)} of them", len(theirs)
    elif ours != theirs:
        yield path, ours, theirs


def from_tree(tree: Tree) -> ArchConfig:
    """The architecture of a tree."""
    return ArchConfig(
        **{
            **tree,
            "branches": tuple(BranchConfig(**branch) for branch in tree["branches"]),
            "encoders": tuple(EncoderConfig(**encoder) for encoder in tree["encoders"]),
            "head": HeadConfig(**tree["head"]),
            "residual_attention": ResidualAttentionConfig(**tree["residual_attention"]),
        }
    )


def check_path(path: str, num_branches: int) -> None:
    """Raise PathError, with the nearest right path, if no architecture with that many branches has this field."""
    parts = path.split(".")
    if path in (NUM_ENCODERS, IMAGE_SIZE):
        return
    fields = _FIELDS.get(parts[0])
    if fields is None or len(parts) < 2:
        raise PathError(f"unknown path {path!r}; {suggest(parts[0], [*_FIELDS, NUM_ENCODERS, IMAGE_SIZE])}")
    if parts[0] in ("head", "residual_attention"):
        parts.insert(1, "*")
    if len(parts) < 3:
        raise PathError(f"path {path!r} needs an index or '*' and a field, for example {parts[0]}.*.{fields[-1]}")
    if parts[1] != "*" and not parts[1].isdecimal():
        raise PathError(f"path {path!r}: {parts[1]!r} is no index; use a number or '*'")
    if parts[0] == "branches" and parts[1] != "*" and int(parts[1]) >= num_branches:
        raise PathError(f"path {path!r}: the base has {num_branches} branches, 0 to {num_branches - 1}")
    _check_field(path, parts[2:], fields, num_branches)


def _check_field(path: str, parts: list[str], fields: list[str], num_branches: int) -> None:
    if parts[0] not in fields:
        raise PathError(f"path {path!r}: unknown field {parts[0]!r}; {suggest(parts[0], fields)}")
    if parts[0] in _PER_BRANCH:
        valid = len(parts) == 1 or (
            len(parts) == 2 and (parts[1] == "*" or (parts[1].isdecimal() and int(parts[1]) < num_branches))
        )
        if not valid:
            raise PathError(f"path {path!r}: {parts[0]} takes a branch, 0 to {num_branches - 1}, or '*'")
    elif len(parts) > 1:
        raise PathError(f"path {path!r} goes on after the field {parts[0]!r}; known paths look like {_EXAMPLES}")


def set_path(tree: Tree, path: str, value: Any) -> None:
    """Write ``value`` at every place the path stands for. Places beyond the encoders that exist are passed over."""
    if path == NUM_ENCODERS:
        _resize_encoders(tree, value)
    elif path == IMAGE_SIZE:
        tree[IMAGE_SIZE] = value
        for branch in tree["branches"]:
            branch[IMAGE_SIZE] = value
    else:
        for container, key in _places(tree, path):
            container[key] = copy.copy(value)


def get_path(tree: Tree, path: str, but: Iterable[str] = ()) -> list[Any]:
    """The values at every place the path stands for, save those of the paths in ``but``; empty if there is none."""
    if path == NUM_ENCODERS:
        return [len(tree["encoders"])]
    if path == IMAGE_SIZE:
        return [tree[IMAGE_SIZE]]
    left_out = {(id(container), key) for other in but for container, key in _places(tree, other)}
    return [container[key] for container, key in _places(tree, path) if (id(container), key) not in left_out]


def held_at(arch: ArchConfig, path: str, value: Any) -> list[Any]:
    """What an architecture holds at ``path`` once ``value`` is written there: alike for values that mean the same."""
    tree, parts = to_tree(arch), path.split(".")
    if parts[0] == "encoders" and parts[1] != "*":
        _resize_encoders(tree, max(len(tree["encoders"]), int(parts[1]) + 1))
    set_path(tree, path, value)
    return get_path(to_tree(from_tree(tree)), path)


def count_stars(path: str) -> int:
    """How general a path is: of two of the same field, the one with fewer stars stands for a part of the other."""
    return path.split(".").count("*")


def shared_place(path: str, other: str) -> str:
    """A place that both paths lead to, or that lies around where one of them leads; empty if there is none.

    'encoders.0.depths.1' for ``encoders.*.depths.1`` and ``encoders.0.depths.*``.
    """
    steps = list(zip(path.split("."), other.split(".")))
    if not all(_meet(ours, theirs) for ours, theirs in steps):
        return ""
    return ".".join(theirs if ours == "*" else ours for ours, theirs in steps)


def _meet(ours: str, theirs: str) -> bool:
    same_index = ours.isdecimal() and theirs.isdecimal() and int(ours) == int(theirs)
    return ours == theirs or "*" in (ours, theirs) or same_index


def _resize_encoders(tree: Tree, count: int) -> None:
    encoders = tree["encoders"]
    encoders[count:] = []
    while len(encoders) < count:
        encoders.append(copy.deepcopy(encoders[-1]))


def _places(tree: Tree, path: str) -> Iterator[tuple[Any, Any]]:
    *parents, last = path.split(".")
    nodes: list[Any] = [tree]
    for part in parents:
        nodes = [child for node in nodes for child in _children(node, part)]
    for node in nodes:
        yield from ((node, key) for key in _keys(node, last))


def _children(node: Any, part: str) -> list[Any]:
    return [node[key] for key in _keys(node, part)]


def _keys(node: Any, part: str) -> list[Any]:
    if isinstance(node, dict):
        return [part]
    if part == "*":
        return list(range(len(node)))
    return [int(part)] if int(part) < len(node) else []
