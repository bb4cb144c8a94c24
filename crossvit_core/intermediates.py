"""Patch tokens of every branch after every encoder: which of them are asked for, and in what shape.

The order is timm's: with K encoders, feature ``b * K + k`` is branch b after encoder k. Those of one branch, and so of
one resolution, stand together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from crossvit_core.config import ArchConfig, Size

FORMATS = ("NCHW", "NLC")


def feature_info(arch: ArchConfig) -> list[dict[str, Any]]:
    """Of every feature: channels, how many pixels of the input's height one patch spans, the module it comes from."""
    return [
        {
            "num_chs": branch.embed_dim,
            "reduction": round(branch.patch_size * arch.size[0] / branch.size[0]),
            "module": f"blocks.{index}",
        }
        for branch in arch.branches
        for index in range(len(arch.encoders))
    ]


def chosen_features(indices: int | Sequence[int] | None, count: int) -> list[int]:
    """Of ``count`` features all (None), the last n (an int), or those named (negative ones from the end), ascending.

    Raises ValueError for an index out of range.
    """
    if indices is None:
        return list(range(count))
    if isinstance(indices, int):
        if not 1 <= indices <= count:
            raise ValueError(f"indices {indices} asks for the last {indices} of {count} features; use 1 to {count}")
        return list(range(count - indices, count))
    for index in indices:
        if not -count <= index < count:
            raise ValueError(f"indices: there is no feature {index}; use {-count} to {count - 1}")
    return sorted({index % count for index in indices})


def encoders_of(indices: Sequence[int], count: int) -> int:
    """How many of ``count`` encoders, from the first on, features of these indices need."""
    return max((index % count for index in indices), default=-1) + 1


def feature_map(tokens: Tensor, grid: Size, output_fmt: str) -> Tensor:
    """(B, 1 + rows * columns, C) -> the patches as (B, C, rows, columns), or as (B, rows * columns, C) for 'NLC'."""
    patches = tokens[:, 1:]
    return patches if output_fmt == "NLC" else patches.mT.unflatten(-1, grid).contiguous()
