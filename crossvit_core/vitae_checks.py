"""What the fields of ViTAEv2's options accept: the value, what is allowed and the nearest of it."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from crossvit_core.config import CONV_INITS, BranchConfig, EncoderConfig
from crossvit_core.fields import check_count, check_name, is_number, nearest_count

_DEPTHS = (2, 3)

conv_fields = attrgetter("conv_path", "conv_channels_per_group", "conv_ratio", "conv_depth", "conv_init")
_OFF = conv_fields(BranchConfig)  # the usual case, in one comparison: every candidate of a search is checked


def dilation_violations(where: str, dilations: tuple[Any, ...]) -> list[str]:
    """Of the ``reduction`` stem: rising, so that one set of them has one description."""
    if dilations == BranchConfig.stem_dilations:
        return []
    counts = [nearest_count(dilation, 1) for dilation in dilations]
    nearest = sorted(set(counts)) or [1, 2, 3, 4]
    whole = all(isinstance(dilation, int) and not isinstance(dilation, bool) for dilation in dilations)
    if whole and list(dilations) == nearest:
        return []
    return [f"{where}: stem_dilations must be rising integers of at least 1, got {list(dilations)}; use {nearest}"]


def conv_path_violations(where: str, branch: BranchConfig) -> list[str]:
    """Of the convolutions beside attention; what they divide matters only where there are any."""
    if conv_fields(branch) == _OFF:
        return []
    problems = check_name(f"{where}: conv_init", branch.conv_init, CONV_INITS)
    if not isinstance(branch.conv_path, bool):
        problems.append(f"{where}: conv_path must be true or false, got {branch.conv_path!r}; use false")
    if branch.conv_depth not in _DEPTHS or isinstance(branch.conv_depth, bool):
        nearest = min(max(nearest_count(branch.conv_depth, 2), 2), 3)
        problems.append(f"{where}: conv_depth must be 2 or 3, got {branch.conv_depth!r}; use {nearest}")
    sizes = check_count(f"{where}: conv_channels_per_group", branch.conv_channels_per_group, minimum=1)
    if not is_number(branch.conv_ratio) or branch.conv_ratio <= 0:
        sizes.append(f"{where}: conv_ratio must be a number above 0, got {branch.conv_ratio!r}; use one such as 4")
    if sizes or branch.conv_path is not True:
        return problems + sizes
    return problems + _group_violations(where, branch)


def _group_violations(where: str, branch: BranchConfig) -> list[str]:
    width, size = branch.embed_dim, branch.conv_channels_per_group
    if width % size:
        nearest = min((d for d in range(1, width + 1) if width % d == 0), key=lambda d: abs(d - size))
        return [f"{where}: conv_channels_per_group {size} does not divide embed_dim {width}; use {nearest}"]
    groups = width // size
    if branch.conv_dim % groups or not branch.conv_dim:
        nearest_dim = max(round(branch.conv_dim / groups), 1) * groups
        return [
            f"{where}: conv_ratio {branch.conv_ratio:g} makes {branch.conv_dim} channels, no multiple of the {groups} "
            f"groups; use {nearest_dim / width:.6g}"
        ]
    return []


def window_violations(where: str, encoder: EncoderConfig, num_branches: int) -> list[str]:
    """One side per branch, 0 for attention to all; any side will do, as grids are padded to whole windows."""
    if not encoder.windows:
        return []
    problems = [
        problem
        for index, side in enumerate(encoder.windows)
        for problem in check_count(f"{where}: windows.{index}", side, minimum=0)
    ]
    if len(encoder.windows) != num_branches:
        problems.append(
            f"{where}: windows {list(encoder.windows)} has {len(encoder.windows)} entries for "
            f"{num_branches} branches; give one per branch"
        )
    return problems
