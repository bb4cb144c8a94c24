"""Residual attention as plain data: which blocks hand on their attention logits, and what weighs them (ReViT).

A *chain* is a run of attentions over the same tokens; every one but the first is a *link*: it mixes its logits with
those of the one before. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crossvit_core.fields import as_tuple, check_name, is_number

if TYPE_CHECKING:
    from crossvit_core.config import ArchConfig

SCOPES = ("encoder", "network")
ALPHA_PARAMS = ("fixed", "shared", "branch", "block", "head")
ALPHA_RANGES = ("raw", "clamp", "sigmoid")


@dataclass(frozen=True, kw_only=True)
class ResidualAttentionConfig:
    """Logits ``A_l = alpha S_l + (1 - alpha) A_{l-1}`` before the softmax, ``A_0 = S_0`` (ReViT). Off by default.

    ``where`` are the branches whose blocks are chained, none to all of them; branches never mix. Chains of ``scope``
    "encoder" start anew in every encoder, those of "network" run through all, over the fusions, which change the class
    row alone. ``fusion`` chains the cross-attentions into one branch, over all encoders that have them, whatever the
    scope. ``alpha_param`` says which links share an alpha: all ("shared", the paper's, and then learned), those of a
    "branch" (or of the visits to one), none ("block"), not even the heads of one ("head"); "fixed" learns nothing.
    ``alpha_range``: the parameter is alpha as it is ("raw", the paper's), held to [0, 1] ("clamp"), or through a
    sigmoid, which never reaches 0 or 1. An alpha of 1 is the plain network.
    """

    where: tuple[int, ...] = ()
    scope: str = "encoder"
    fusion: bool = False
    alpha_init: float = 0.5
    alpha_param: str = "shared"
    alpha_range: str = "raw"

    def __post_init__(self) -> None:
        object.__setattr__(self, "where", as_tuple("where", self.where, "[0, 1]: the branches, by index; [] for none"))
        if is_number(self.alpha_init):  # anything else is told by ``violations``
            object.__setattr__(self, "alpha_init", float(self.alpha_init))

    @property
    def is_on(self) -> bool:
        """Is any chain asked for? The architecture may still have none that is longer than one."""
        return bool(self.where) or self.fusion


OFF = ResidualAttentionConfig()


# Chains of an architecture -------------------------------------------------------------------------------------------


def block_links(arch: ArchConfig, branch: int) -> int:
    """How many blocks of a branch mix in the logits of the block before."""
    depths = [encoder.depths[branch] for encoder in arch.encoders]
    runs = [sum(depths)] if arch.residual_attention.scope == "network" else depths
    return sum(max(run - 1, 0) for run in runs)


def fusion_links(arch: ArchConfig) -> int:
    """The same of the cross-attentions of every class token; later ones that see it alone have one logit, and none."""
    count = 0
    for encoder in arch.encoders:
        if encoder.fusion == "cross_attention":
            count += encoder.fusion_depth if encoder.fusion_reading == "patches" else 1
    return max(count - 1, 0)


def chains(arch: ArchConfig) -> dict[str, tuple[int, int]]:
    """(links, heads) of every chain that has a link, by name: 'branch_0' for blocks, 'visit_0' for cross-attention.

    Visit i is that of branch i's class token to the next branch, whose heads it has. Chains of one branch that start
    anew are named together.
    """
    config = arch.residual_attention
    heads = [branch.num_heads for branch in arch.branches]
    found = {f"branch_{b}": (block_links(arch, b), heads[b]) for b in sorted(set(config.where))}
    if config.fusion:
        links = fusion_links(arch)
        found |= {f"visit_{i}": (links, heads[(i + 1) % len(heads)]) for i in range(len(heads))}
    return {name: (links, width) for name, (links, width) in found.items() if links}


def alpha_sizes(arch: ArchConfig) -> dict[str, int]:
    """Elements of every learned alpha by its name, such as 'shared', 'branch_0', 'branch_0_2' or 'visit_1_0'."""
    config = arch.residual_attention
    found = chains(arch) if config.is_on and config.alpha_param != "fixed" else {}
    if config.alpha_param == "shared":
        return {"shared": 1} if found else {}
    if config.alpha_param == "branch":
        return dict.fromkeys(found, 1)
    per_head = config.alpha_param == "head"
    return {
        f"{name}_{link}": heads if per_head else 1 for name, (links, heads) in found.items() for link in range(links)
    }


def mixing_multiplications(arch: ArchConfig) -> int:
    """Multiplications, for one image, of all elements of the maps that links mix: two each, no part of ``macs``."""
    config, total = arch.residual_attention, 0
    for b in sorted(set(config.where)):
        branch = arch.branches[b]
        total += block_links(arch, b) * 2 * branch.num_heads * branch.num_tokens**2
    if config.fusion:
        maps = sum(branch.num_heads * branch.num_tokens for branch in arch.branches)
        total += fusion_links(arch) * 2 * maps
    return total


# What may be asked for, and what cannot matter -----------------------------------------------------------------------


def residual_violations(arch: ArchConfig) -> list[str]:
    """Every reason why ``arch.residual_attention`` cannot be."""
    config = arch.residual_attention
    problems = [p for index in config.where for p in _branch_violations(index, len(arch.branches))]
    for name, known in (("scope", SCOPES), ("alpha_param", ALPHA_PARAMS), ("alpha_range", ALPHA_RANGES)):
        problems += check_name(f"residual_attention.{name}", getattr(config, name), known)
    if not isinstance(config.fusion, bool):
        problems.append(f"residual_attention.fusion must be true or false, got {config.fusion!r}; use false")
    if not problems:  # then every branch is there
        problems += _window_violations(arch)
    return problems + _alpha_violations(config)


def _window_violations(arch: ArchConfig) -> list[str]:
    """Maps of windows are not those of the whole grid."""
    return [
        f"residual_attention.where names branch {b}, which has windows in encoder {index}; leave it out of where, or "
        f"set encoders.{index}.windows.{b} to 0"
        for b in sorted(set(arch.residual_attention.where))
        for index, encoder in enumerate(arch.encoders)
        if b < len(encoder.windows) and encoder.windows[b]
    ]


def _branch_violations(index: Any, branches: int) -> list[str]:
    if isinstance(index, int) and not isinstance(index, bool) and 0 <= index < branches:
        return []
    last = branches - 1
    return [f"residual_attention.where: there is no branch {index!r}; use 0 to {last}, or [] for none"]


def _alpha_violations(config: ResidualAttentionConfig) -> list[str]:
    value, where = config.alpha_init, "residual_attention.alpha_init"
    if not is_number(value) or not 0 <= value <= 1:
        nearest = min(max(value, 0.0), 1.0) if is_number(value) else 0.5
        return [f"{where} must be a number from 0 to 1, got {value!r}; use {nearest:g}"]
    if config.alpha_range == "sigmoid" and config.alpha_param != "fixed" and value in (0, 1):
        return [f"{where} {value:g} is never reached by a sigmoid; use {0.01 if value == 0 else 0.99} or another range"]
    return []


def folded(arch: ArchConfig) -> ResidualAttentionConfig:
    """The same chains in one description: what has no link, or an alpha that stays at 1, is off."""
    config = arch.residual_attention
    if not config.is_on or (config.alpha_param == "fixed" and config.alpha_init == 1):
        return OFF
    found = chains(arch)
    if not found:
        return OFF
    where = tuple(b for b in sorted(set(config.where)) if f"branch_{b}" in found)
    fusion = any(name.startswith("visit_") for name in found)
    changes: dict[str, Any] = {"where": where, "fusion": fusion, "alpha_param": _coarsest(config.alpha_param, found)}
    if config.alpha_param == "fixed":
        changes["alpha_range"] = "raw"
    if _is_in_one_encoder(arch, where):
        changes["scope"] = "encoder"
    return dataclasses.replace(config, **changes)


def _coarsest(alpha_param: str, found: dict[str, tuple[int, int]]) -> str:
    """The first of the ways to share alphas that is the same here."""
    if alpha_param == "head" and all(heads == 1 for _, heads in found.values()):
        alpha_param = "block"
    if alpha_param == "block" and all(links == 1 for links, _ in found.values()):
        alpha_param = "branch"
    return "shared" if alpha_param == "branch" and len(found) == 1 else alpha_param


def _is_in_one_encoder(arch: ArchConfig, where: tuple[int, ...]) -> bool:
    return all(sum(encoder.depths[b] > 0 for encoder in arch.encoders) <= 1 for b in where)
