"""What a network reads of its patches: which branches reach the head, and after which blocks patches still matter.

A branch without blocks of its own, whose patches no fusion brings to a class token, is built, counted and computed, and
says nothing of the image. Such a network is legal (the paper's N = 0) and a waste; ``space`` leaves it out.

The last block of a branch makes a class token of all its patches; what it makes of the patches is read only if a fusion
does so afterwards. Where nothing does, convolutions beside attention and windows, which serve patches alone, are
left out of that block.
"""

from __future__ import annotations

from crossvit_core.config import ATTENTION_FUSIONS, ArchConfig
from crossvit_core.exshortcut_config import taps_of

Branches = frozenset[int]


def unread_branches(arch: ArchConfig) -> list[int]:
    """The branches whose patches cannot change the logits, for an architecture that can be built.

    Follows what class tokens and patches of every branch know of the branches' patches, encoder by encoder.
    """
    every = range(len(arch.branches))
    rows: list[Branches] = [frozenset() for _ in every]  # what each class token knows
    patches: list[Branches] = [frozenset({index}) for index in every]
    read: Branches = frozenset()
    for number, encoder in enumerate(arch.encoders):
        for index in every:
            if encoder.depths[index]:
                rows[index] = patches[index] = rows[index] | patches[index]
        rows, patches = _exchanged(encoder.fusion, rows, patches)
        for index in (branch for tapped, branch in taps_of(arch) if tapped == number):
            known = {"cls": rows[index], "mean": patches[index], "both": rows[index] | patches[index]}
            read |= known[arch.head.pool]
    read = read.union(*rows)
    return [index for index in every if index not in read]


def read_patches(arch: ArchConfig) -> tuple[Branches, ...]:
    """For each encoder the branches whose patches are read after its blocks: by its fusion, a tap or a later block."""
    every = frozenset(range(len(arch.branches)))
    read: Branches = frozenset()  # after the last encoder the head reads class tokens
    found: list[Branches] = []
    for number, encoder in reversed(list(enumerate(arch.encoders))):
        if arch.head.pool != "cls":
            read |= {branch for tapped, branch in taps_of(arch) if tapped == number}
        if encoder.fusion in ATTENTION_FUSIONS or (encoder.fusion == "pairwise" and read):
            read = every
        found.append(read)
        read |= {index for index in every if encoder.depths[index]}
    return tuple(reversed(found))


def _exchanged(fusion: str, rows: list[Branches], patches: list[Branches]) -> tuple[list[Branches], list[Branches]]:
    """After the fusion of one encoder."""
    if fusion == "cross_attention":  # the class token visits the patches of the next branch
        return [row | host for row, host in zip(rows, [*patches[1:], patches[0]])], patches
    if fusion == "class_token":
        return [frozenset().union(*rows)] * len(rows), patches
    if fusion == "pairwise":
        return [frozenset().union(*rows)] * len(rows), [frozenset().union(*patches)] * len(rows)
    if fusion == "all_attention":
        everything = [frozenset().union(*rows, *patches)] * len(rows)
        return everything, everything
    return rows, patches
