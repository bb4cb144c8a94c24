"""One network at another image size: position embeddings are interpolated, everything else stays.

Nothing here happens on its own. A network reads the size it was built for; ``resize_model`` makes one for another.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from crossvit_core.config import ArchConfig, ArchError, BranchConfig, Size, as_size

if TYPE_CHECKING:
    from crossvit_core.model import CrossViT


def resize_positions(pos: Tensor, old_grid: Size, new_grid: Size) -> Tensor:
    """Position embeddings (1, 1 + rows * columns, C) on another grid of (rows, columns).

    The class token's row is kept; the patches' are interpolated as timm does it (bicubic with antialiasing, in float32
    at least). Raises ValueError if ``pos`` does not have the tokens of ``old_grid``.
    """
    if pos.shape[1] != 1 + old_grid[0] * old_grid[1]:
        raise ValueError(
            f"{pos.shape[1]} position embeddings are not those of a class token and a grid of {old_grid}; "
            f"that has {1 + old_grid[0] * old_grid[1]}"
        )
    if old_grid == new_grid:
        return pos
    exact = pos[:, 1:].to(torch.promote_types(pos.dtype, torch.float32))
    image = exact.mT.unflatten(-1, old_grid)
    resized = F.interpolate(image, size=new_grid, mode="bicubic", antialias=True).flatten(2).mT
    return torch.cat((pos[:, :1], resized.to(pos.dtype)), dim=1)


def with_image_size(arch: ArchConfig, image_size: int | Iterable[int]) -> ArchConfig:
    """The architecture for images of another side, or (height, width), in pixels, with the patches it has.

    The image side of every branch grows or shrinks in proportion, to whole patches: up when growing, down when
    shrinking. The released sizes lie so, each from each: 240/224, 408/384, 504/480 px. Raises ArchError for what is no
    size, and for one that leaves a branch without a patch.
    """
    size = as_size(image_size)
    if min(size) < 1:
        raise ArchError(f"image_size {size} is not positive; use at least {_smallest_size(arch)}")
    branches = tuple(_resized_branch(branch, arch, size) for branch in arch.branches)
    return arch.replace(image_size=size, branches=branches)


def resize_model(model: CrossViT, image_size: int | Iterable[int]) -> CrossViT:
    """A copy of ``model`` that reads another image size; only its position embeddings differ.

    Raises as ``with_image_size``.
    """
    resized = copy.deepcopy(model)
    resized.set_input_size(image_size)
    return resized


def grid_of_positions(num_tokens: int, like: Size) -> Size | None:
    """The grid, square or shaped as ``like``, that has this many tokens with the class token; None if there is none."""
    patches = num_tokens - 1
    for rows in range(1, patches + 1):
        columns, rest = divmod(patches, rows)
        if rest == 0 and rows * like[1] == columns * like[0]:
            return (rows, columns)
    side = round(max(patches, 0) ** 0.5)
    return (side, side) if side > 0 and side * side == patches else None


def _resized_branch(branch: BranchConfig, arch: ArchConfig, size: Size) -> BranchConfig:
    height, width = (
        _resized_side(side, branch.patch_size, old, new) for side, old, new in zip(branch.size, arch.size, size)
    )
    if min(height, width) < branch.patch_size:
        raise ArchError(
            f"image_size {size} leaves a branch that reads {branch.size} of {arch.size} px no whole patch of "
            f"{branch.patch_size} px; use at least {_smallest_size(arch)}"
        )
    return replace(branch, image_size=(height, width))


def _resized_side(side: int, patch: int, old: int, new: int) -> int:
    """``side * new / old`` to whole patches, in integers, away from ``side``."""
    patches, rest = divmod(side * new, old * patch)
    return patch * (patches + (rest > 0 and new > old))


def _smallest_size(arch: ArchConfig) -> Size:
    """The least (height, width) that leaves every branch one patch."""
    height, width = (
        max(-(-branch.patch_size * arch.size[axis] // branch.size[axis]) for branch in arch.branches) for axis in (0, 1)
    )
    return (height, width)
