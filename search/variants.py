"""The variants of an ablation: one base, each with a few fields changed, and if asked for brought to equal FLOPs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crossvit_core.config import FUSION_NAMES, ArchConfig, ArchError, BranchConfig, suggest
from crossvit_core.cost import count_cost
from results.ablation_record import FUSION
from results.units import human_count
from search.study_config import StudyConfigError
from space.paths import PathError, check_path, from_tree, get_path, set_path, to_tree

MATCH_TOLERANCE = 0.10
_WIDEST = 4


class AblationError(StudyConfigError):
    """An ablation that was asked for in a way that cannot be."""


@dataclass(frozen=True)
class Variant:
    """``changes`` are values by path (``space.paths``), applied to the base in their order; ``arch`` is the result."""

    name: str
    changes: Mapping[str, Any]
    arch: ArchConfig


def make_variant(name: str, base: ArchConfig, changes: Mapping[str, Any]) -> Variant:
    """The base with these changes. Raises AblationError if that cannot be built."""
    tree = to_tree(base)
    for path, value in changes.items():
        set_path(tree, path, value)
    try:
        return Variant(name, dict(changes), from_tree(tree).check())
    except (ArchError, TypeError) as error:
        raise AblationError(f"the variant {name!r} of the base cannot be built: {error}") from error


def vary(base: ArchConfig, path: str, values: Sequence[Any]) -> list[Variant]:
    """One variant for each value of the field at ``path``, named as the value.

    Raises AblationError for a path that leads nowhere in the base, for values that cannot be or are the same network,
    and for fewer than two.
    """
    _check_place(base, path)
    if path == FUSION:
        _check_schemes(values)
    if len(values) < 2:
        raise AblationError(f"an ablation compares at least 2 values of {path}, got {len(values)}: {_listed(values)}")
    variants = [make_variant(_name(value), base, {path: value}) for value in values]
    check_distinct(path, variants)
    return variants


def match_flops(variant: Variant, target: int) -> Variant:
    """The variant with widths scaled so that its multiply-adds come nearest to ``target``.

    The widest branch takes every multiple of its heads; the others follow in proportion, up or down to the next
    multiple of theirs. Raises AblationError, naming the nearest, if that is more than ``MATCH_TOLERANCE`` away.
    """
    scaled = [make_variant(variant.name, variant.arch, widths) for widths in _widths(variant.arch)]
    nearest = min(scaled, key=lambda one: abs(math.log(count_cost(one.arch).macs / target)), default=variant)
    nearest = Variant(variant.name, {**variant.changes, **nearest.changes}, nearest.arch)
    if abs(mismatch(nearest.arch, target)) > MATCH_TOLERANCE:
        raise AblationError(
            f"{variant.name!r} cannot be matched to {human_count(target)} FLOPs by its widths: the nearest, "
            f"{widths_of(nearest.arch)}, has {human_count(count_cost(nearest.arch).macs)} "
            f"({mismatch(nearest.arch, target):+.1%}; at most {MATCH_TOLERANCE:.0%} is taken for equal); leave it out, "
            "use --match none, or a wider base"
        )
    return nearest


def mismatch(arch: ArchConfig, target: int) -> float:
    """How many multiply-adds the architecture has too many, as a fraction of the target."""
    return count_cost(arch).macs / target - 1


def widths_of(arch: ArchConfig) -> str:
    """'16/32'."""
    return "/".join(str(branch.embed_dim) for branch in arch.branches)


def _widths(arch: ArchConfig) -> list[dict[str, int]]:
    """Changes that scale all branches by one factor, from the narrowest to ``_WIDEST`` times as wide."""
    lead = max(arch.branches, key=lambda branch: branch.embed_dim)
    steps = range(1, _WIDEST * lead.embed_dim // lead.num_heads + 1)
    scaled = [
        widths
        for step in steps
        for widths in itertools.product(*(_scaled(branch, step * lead.num_heads, lead) for branch in arch.branches))
    ]
    changes = [{f"branches.{index}.embed_dim": width for index, width in enumerate(widths)} for widths in scaled]
    return [change for change in changes if _is_buildable(arch, change)]


def _scaled(branch: BranchConfig, lead_width: int, lead: BranchConfig) -> list[int]:
    """The branch's widths nearest to its share of ``lead_width``, below and above: one where it is a multiple."""
    heads = branch.num_heads
    below = max(1, lead_width * branch.embed_dim // (lead.embed_dim * heads))
    exact = below * heads * lead.embed_dim == lead_width * branch.embed_dim
    return [below * heads] if exact else [below * heads, (below + 1) * heads]


def _is_buildable(arch: ArchConfig, changes: Mapping[str, Any]) -> bool:
    tree = to_tree(arch)
    for path, value in changes.items():
        set_path(tree, path, value)
    return not from_tree(tree).violations()


def _check_place(base: ArchConfig, path: str) -> None:
    try:
        check_path(path, len(base.branches))
    except PathError as error:
        raise AblationError(f"cannot ablate that dimension: {error}") from error
    if not get_path(to_tree(base), path):
        raise AblationError(f"the base has nothing at {path!r}: it has {len(base.encoders)} encoders, counted from 0")


def _check_schemes(values: Sequence[Any]) -> None:
    for value in values:
        if value not in FUSION_NAMES:
            raise AblationError(f"unknown fusion scheme {value!r}; {suggest(str(value), FUSION_NAMES)}")


def check_distinct(path: str, variants: Sequence[Variant]) -> None:
    """Raise AblationError if two variants are one network, or have one name."""
    seen: dict[str, str] = {}
    for variant in variants:
        same = seen.setdefault(variant.arch.key(), variant.name)
        if same != variant.name or [v.name for v in variants].count(variant.name) > 1:
            raise AblationError(
                f"{path} = {same} and {variant.name} give one and the same network; leave one of them out"
            )


def _name(value: Any) -> str:
    return "+".join(str(item) for item in value) if isinstance(value, (list, tuple)) else str(value)


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(_name(value) for value in values) or "none"
