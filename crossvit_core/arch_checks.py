"""Every reason why an architecture cannot be built: the field, its value, what is allowed and the nearest of it."""

from __future__ import annotations

import math

from crossvit_core.config import (
    FUSION_NAMES,
    FUSION_READINGS,
    HEAD_NAMES,
    STEM_NAMES,
    ArchConfig,
    BranchConfig,
    EncoderConfig,
    HeadConfig,
)
from crossvit_core.exshortcut_config import exshortcut_violations
from crossvit_core.fields import Size, check_count, check_name, is_count, is_number
from crossvit_core.residual_config import ResidualAttentionConfig, residual_violations
from crossvit_core.vitae_checks import conv_path_violations, dilation_violations, window_violations


def violations(arch: ArchConfig) -> list[str]:
    """See ``ArchConfig.violations``."""
    problems: list[str] = []
    for name, value in (("in_channels", arch.in_channels), ("num_classes", arch.num_classes)):
        problems += check_count(name, value, minimum=1)
    problems += _size_violations("image_size", arch.size)
    strangers = _part_violations(arch)
    if strangers:
        return problems + strangers
    if not arch.branches:
        problems.append("branches is empty; a network needs at least one")
    if not arch.encoders:
        problems.append("encoders is empty; a network needs at least one")
    for index, branch in enumerate(arch.branches):
        problems += _branch_violations(f"branch {index}", branch)
    for index, encoder in enumerate(arch.encoders):
        problems += _encoder_violations(f"encoder {index}", encoder, arch)
    problems += check_name("head.kind", arch.head.kind, HEAD_NAMES)
    if arch.head.kind == "exshortcut":
        problems += exshortcut_violations(arch)
    if arch.residual_attention.is_on:
        problems += residual_violations(arch)
    return problems


def _part_violations(arch: ArchConfig) -> list[str]:
    """Parts that are not what the fields say; nothing more can be said of those."""
    problems = []
    for name, parts, cls in (
        ("branch", arch.branches, BranchConfig),
        ("encoder", arch.encoders, EncoderConfig),
        ("head", (arch.head,), HeadConfig),
        ("residual_attention", (arch.residual_attention,), ResidualAttentionConfig),
    ):
        for index, part in enumerate(parts):
            if not isinstance(part, cls):
                where = f"{name} {index}" if cls in (BranchConfig, EncoderConfig) else name
                problems.append(
                    f"{where} must be {cls.__name__}, got {part!r}; ArchConfig.from_dict makes it of plain data"
                )
    return problems


def _size_violations(where: str, size: Size) -> list[str]:
    if min(size) >= 1:
        return []
    return [f"{where} {size} is not positive; use at least {(max(size[0], 1), max(size[1], 1))}"]


def _branch_violations(where: str, branch: BranchConfig) -> list[str]:
    problems = check_name(f"{where}: stem", branch.stem, STEM_NAMES)
    bad: list[str] = []
    for name in ("patch_size", "embed_dim", "num_heads"):
        if not is_count(getattr(branch, name), 1):
            bad += check_count(f"{where}: {name}", getattr(branch, name), minimum=1)
    bad += _size_violations(f"{where}: image_size", branch.size)
    if not is_number(branch.mlp_ratio):
        bad.append(f"{where}: mlp_ratio must be a finite number, got {branch.mlp_ratio!r}; use one such as 4")
    if bad:
        return problems + bad
    problems += _tiling_violations(where, branch)
    width, heads = branch.embed_dim, branch.num_heads
    if width % heads:
        lower, upper = width // heads * heads, (width // heads + 1) * heads
        nearest = f"{lower} or {upper}" if lower else str(upper)
        problems.append(
            f"{where}: embed_dim {width} is not divisible by num_heads {heads}; use {nearest}, or num_heads "
            f"{_divisors_beside(width, heads)}"
        )
    if not branch.mlp_ratio > 0 or branch.mlp_dim < 1:
        problems.append(
            f"{where}: mlp_ratio {branch.mlp_ratio} gives no hidden width; use at least {_least_ratio(width)}"
        )
    if branch.stem in ("conv", "reduction"):
        problems += _conv_stem_violations(where, branch)
    problems += dilation_violations(where, branch.stem_dilations)
    return problems + conv_path_violations(where, branch)


def _least_ratio(width: int) -> float:
    """The smallest ratio of four decimals that leaves one hidden unit."""
    return math.ceil(10_000 / width) / 10_000


def _divisors_beside(number: int, wanted: int) -> str:
    """The divisors of a number next to another one, below and above."""
    divisors = [candidate for candidate in range(1, number + 1) if number % candidate == 0]
    below = [str(candidate) for candidate in divisors if candidate < wanted][-1:]
    return " or ".join([*below, *(str(candidate) for candidate in divisors if candidate > wanted)][:2])


def _tiling_violations(where: str, branch: BranchConfig) -> list[str]:
    problems = []
    for side in dict.fromkeys(branch.size):
        patch = branch.patch_size
        if side % patch:
            lower, upper = side // patch * patch, (side // patch + 1) * patch
            nearest = f"{lower} or {upper}" if lower else str(upper)
            problems.append(
                f"{where}: patch_size {patch} does not tile image_size {side}; use a side of {nearest}, or patch_size "
                f"{_divisors_beside(side, patch)}"
            )
    return problems


def _conv_stem_violations(where: str, branch: BranchConfig) -> list[str]:
    problems = []
    if not _is_smooth(branch.patch_size):
        lower = next(p for p in range(branch.patch_size, 0, -1) if _is_smooth(p))
        upper = next(p for p in range(branch.patch_size, 2 * branch.patch_size + 1) if _is_smooth(p))
        problems.append(
            f"{where}: the {branch.stem} stem needs a patch_size of 2^a*3^b, got {branch.patch_size}; "
            f"use {lower} or {upper}"
        )
    if branch.embed_dim < 4:
        problems.append(f"{where}: the {branch.stem} stem needs embed_dim of at least 4, got {branch.embed_dim}; use 4")
    return problems


def _is_smooth(number: int) -> bool:
    for factor in (2, 3):
        while number % factor == 0:
            number //= factor
    return number == 1


def _encoder_violations(where: str, encoder: EncoderConfig, arch: ArchConfig) -> list[str]:
    problems = check_name(f"{where}: fusion", encoder.fusion, FUSION_NAMES)
    problems += check_name(f"{where}: fusion_reading", encoder.fusion_reading, FUSION_READINGS)
    problems += check_count(f"{where}: fusion_depth", encoder.fusion_depth, minimum=1)
    if not isinstance(encoder.identity_maps, bool):
        problems.append(f"{where}: identity_maps must be true or false, got {encoder.identity_maps!r}; use false")
    if len(encoder.depths) != len(arch.branches):
        problems.append(
            f"{where}: depths {list(encoder.depths)} has {len(encoder.depths)} entries for "
            f"{len(arch.branches)} branches; give one per branch"
        )
    for index, depth in enumerate(encoder.depths):
        if not is_count(depth, 0):
            problems += check_count(f"{where}: depths.{index}", depth, minimum=0)
    if len(arch.branches) == 1 and encoder.fusion != "none":
        problems.append(f"{where}: fusion {encoder.fusion!r} needs two branches, there is one; use 'none'")
    return problems + window_violations(where, encoder, len(arch.branches))
