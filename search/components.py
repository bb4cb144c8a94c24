"""Improvements of later ViTs that an ablation adds to a base one at a time, each as changes by path.

What each does is said where the architecture has its field (``crossvit_core.config``, ``residual_config``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from crossvit_core.config import ArchConfig, suggest
from results.ablation_record import PLAIN
from search.variants import AblationError, Variant, check_distinct, make_variant


class Component(NamedTuple):
    """``changes``: what adds it to a base, by path. ``needs``: the base without which it would change nothing."""

    changes: Callable[[ArchConfig], Mapping[str, Any]]
    needs: str = "a base that has not got it already"


def add_components(base: ArchConfig, names: Sequence[str]) -> list[Variant]:
    """The base, and one variant for each component, added alone.

    Raises AblationError for a component that is unknown, has nothing to work on in the base, or cannot be built there.
    """
    for name in names:
        if name not in COMPONENTS:
            raise AblationError(f"unknown component {name!r}; {suggest(name, COMPONENTS)}")
    plain = Variant(PLAIN, {}, base.check())
    variants = [plain, *(make_variant(name, base, COMPONENTS[name].changes(base)) for name in names)]
    for variant in variants[1:]:
        if variant.arch.key() == plain.arch.key():
            needs = COMPONENTS[variant.name].needs
            raise AblationError(f"{variant.name!r} changes nothing: it needs {needs}; 'all' takes those that do")
    check_distinct("component", variants)
    return variants


def fitting_components(base: ArchConfig) -> tuple[str, ...]:
    """Those that can be added to the base and change it. Raises AblationError if none can."""
    fitting = tuple(name for name in COMPONENTS if _fits(base, name))
    if not fitting:
        raise AblationError(f"none of the components changes this base; known: {', '.join(COMPONENTS)}")
    return fitting


def note_unfitting(names: Sequence[str]) -> str:
    """Which components are not among ``names``, and what they would need; empty if all are."""
    left_out = [f"{name} (it needs {each.needs})" for name, each in COMPONENTS.items() if name not in names]
    return f"left out, as they change nothing here: {'; '.join(left_out)}" if left_out else ""


def _fits(base: ArchConfig, name: str) -> bool:
    try:
        add_components(base, [name])
    except AblationError:
        return False
    return True


def _chain_all_blocks(base: ArchConfig) -> Mapping[str, Any]:
    return {"residual_attention.where": list(range(len(base.branches))), "residual_attention.scope": "network"}


def _tap_all_encoders(base: ArchConfig) -> Mapping[str, Any]:
    taps = [[k, b] for k in range(len(base.encoders) - 1) for b in range(len(base.branches))]
    return {"head.kind": "exshortcut", "head.taps": taps}


def _window_first_encoder(base: ArchConfig) -> Mapping[str, Any]:
    return {"encoders.0.windows": [_window_side(branch.grid) for branch in base.branches]}


def _window_side(grid: tuple[int, int]) -> int:
    """The largest side that divides the grid without being all of it; 0 if there is none above 1."""
    both = math.gcd(*grid)
    return max((side for side in range(2, both + 1) if both % side == 0 and side < max(grid)), default=0)


ALL = "all"

# By the name that COMPONENTS= takes.
COMPONENTS = {
    "residual_attention": Component(_chain_all_blocks, "a branch with at least two blocks"),
    "residual_fusion": Component(
        lambda base: {"residual_attention.fusion": True}, "at least two encoders with cross-attention"
    ),
    "exshortcut": Component(_tap_all_encoders, "at least two encoders"),
    "reduction_stem": Component(lambda base: {"branches.*.stem": "reduction"}),
    "conv_path": Component(lambda base: {"branches.*.conv_path": True}),
    "windows": Component(_window_first_encoder, "a branch whose grid of patches has a divisor"),
}
