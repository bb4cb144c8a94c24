"""The canonical form of an architecture: what its key names. Whatever cannot change the function is folded away."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from crossvit_core.config import ATTENTION_FUSIONS, ArchConfig, BranchConfig, EncoderConfig, HeadConfig
from crossvit_core.exshortcut_config import folded_head, taps_of
from crossvit_core.reading import read_patches
from crossvit_core.residual_config import OFF, folded
from crossvit_core.vitae_cost import window_on

_PLAIN_HEAD = HeadConfig()
_CONV_PATH = ("conv_path", "conv_channels_per_group", "conv_ratio", "conv_depth", "conv_init")


def canonical(arch: ArchConfig) -> dict[str, Any]:
    """``to_dict`` with everything folded that cannot change the function computed.

    Fusions stay apart even in a last encoder, where pairwise sums patches that no one reads and so does what
    class-token fusion does: in the paper's form, which limits and plots count, they cost differently. Of what cannot be
    built nothing is known, and nothing is folded.
    """
    if arch.violations():
        return arch.to_dict()
    arch = _with_folded_options(arch)
    arch = _merge_unfused(arch.replace(encoders=tuple(_fold_encoder(encoder, arch) for encoder in arch.encoders)))
    arch = arch.replace(encoders=tuple(_without_void_windows(arch, number) for number in range(len(arch.encoders))))
    read = read_patches(arch)
    branches = [_fold_branch(branch, index, arch.encoders, read) for index, branch in enumerate(arch.branches)]
    return _with_folded_options(arch.replace(branches=tuple(branches))).to_dict()


def _with_folded_options(arch: ArchConfig) -> ArchConfig:
    if arch.residual_attention != OFF:
        arch = arch.replace(residual_attention=folded(arch))
    return arch if arch.head == _PLAIN_HEAD else arch.replace(head=folded_head(arch))


def _fold_encoder(encoder: EncoderConfig, arch: ArchConfig) -> EncoderConfig:
    widths = [branch.embed_dim for branch in arch.branches]
    equal_widths = any(a == b for a, b in zip(widths, [*widths[1:], widths[0]]))  # of branches that meet
    changes: dict[str, Any] = {}
    if encoder.fusion not in ATTENTION_FUSIONS:
        changes["fusion_depth"] = 1
    if encoder.fusion != "cross_attention" or encoder.fusion_depth == 1:
        changes["fusion_reading"] = "published"
    if encoder.fusion != "cross_attention" or not equal_widths:
        changes["identity_maps"] = False
    if encoder.windows:
        changes["windows"] = tuple(_fold_window(encoder, b, branch) for b, branch in enumerate(arch.branches))
    return dataclasses.replace(encoder, **changes)


def _fold_window(encoder: EncoderConfig, index: int, branch: BranchConfig) -> int:
    """A window that holds the whole grid is none, nor is one of a branch without blocks."""
    side = encoder.window_side(index)
    return side if encoder.depths[index] and window_on(branch.grid, side) else 0


def _without_void_windows(arch: ArchConfig, number: int) -> EncoderConfig:
    encoder = arch.encoders[number]
    if not encoder.windows:
        return encoder
    sides = [0 if _is_void(arch, number, b) else encoder.window_side(b) for b in range(len(arch.branches))]
    return dataclasses.replace(encoder, windows=tuple(sides))


def _is_void(arch: ArchConfig, number: int, branch: int) -> bool:
    """Do windows change nothing there? So it is with one block whose patches nobody reads: class tokens see all."""
    return arch.encoders[number].depths[branch] == 1 and branch not in read_patches(arch)[number]


def _merge_unfused(arch: ArchConfig) -> ArchConfig:
    """Blocks that nothing separates are one run of blocks: an encoder without fusion joins the next one."""
    tapped = {encoder for encoder, _ in taps_of(arch)}
    merged: list[EncoderConfig] = []
    ends: list[int] = []  # the last of the encoders that each is made of
    for index, encoder in enumerate(arch.encoders):
        if merged and ends[-1] not in tapped and _are_one_run(merged[-1], index, arch):
            ends.pop()
            encoder = _joined(merged.pop(), encoder)
        merged.append(encoder)
        ends.append(index)
    if len(merged) > 1 and ends[-2] not in tapped and merged[-1].fusion == "none" and not any(merged[-1].depths):
        merged.pop()
        ends.pop()
    taps = tuple((ends.index(encoder), branch) for encoder, branch in taps_of(arch))
    head = dataclasses.replace(arch.head, taps=taps) if taps else arch.head
    return arch.replace(encoders=tuple(merged), head=head)


def _are_one_run(before: EncoderConfig, number: int, arch: ArchConfig) -> bool:
    """Does nothing happen before encoder ``number``: no fusion, no new residual attention, no other windows?"""
    encoder, residual = arch.encoders[number], arch.residual_attention
    anew = residual.where if residual.scope == "encoder" else ()
    both = [b for b in range(len(arch.branches)) if before.depths[b] and encoder.depths[b]]
    same_windows = all(before.window_side(b) == encoder.window_side(b) or _is_void(arch, number, b) for b in both)
    return before.fusion == "none" and same_windows and not any(b in anew for b in both)


def _joined(before: EncoderConfig, encoder: EncoderConfig) -> EncoderConfig:
    """One run of blocks of two; where both have blocks, their windows are the same."""
    depths = tuple(a + b for a, b in zip(before.depths, encoder.depths))
    sides = tuple((before if depth else encoder).window_side(b) for b, depth in enumerate(before.depths))
    return dataclasses.replace(encoder, depths=depths, windows=sides)


def _fold_branch(
    branch: BranchConfig, index: int, encoders: Sequence[EncoderConfig], read: Sequence[frozenset[int]]
) -> BranchConfig:
    """A branch without blocks has no FFN; one that no attention runs in has no heads.

    Without a block whose patches are read it has no convolutions beside attention.
    """
    without_blocks = all(encoder.depths[index] == 0 for encoder in encoders)
    without_attention = without_blocks and not any(encoder.fusion in ATTENTION_FUSIONS for encoder in encoders)
    changes: dict[str, Any] = {}
    changes["mlp_ratio"] = 4.0 if without_blocks else branch.mlp_dim / branch.embed_dim  # the width is a whole number
    if without_attention:
        changes["num_heads"] = 1
    if branch.stem != "reduction":
        changes["stem_dilations"] = BranchConfig.stem_dilations
    depths = [(encoder.depths[index], index in after) for encoder, after in zip(encoders, read)]
    has_convs = branch.conv_path and any(depth > 1 or (depth == 1 and is_read) for depth, is_read in depths)
    if has_convs:
        changes["conv_ratio"] = branch.conv_dim / branch.embed_dim
    else:
        changes |= {name: getattr(BranchConfig, name) for name in _CONV_PATH}
    return dataclasses.replace(branch, **changes)
