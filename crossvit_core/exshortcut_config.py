"""Taps of the ExShortcut head as plain data: where they are, what they hold and what they cost (ExMobileViT).

Nothing here imports torch.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from crossvit_core.fields import check_name, is_number
from crossvit_core.layer_cost import CACHED, Cost, linear_cost, norm_cost

if TYPE_CHECKING:
    from crossvit_core.config import ArchConfig, HeadConfig

POOLS = ("mean", "cls", "both")
PROJECTIONS = ("none", "after", "before")
TAP_INITS = ("zero", "normal")


class TapShape(NamedTuple):
    """One tap: the tokens (class token included) and width that it reads, and the widths it makes of them.

    ``hidden`` is the width it projects to, 0 if it does not; ``rows`` are the tokens it projects.
    """

    tokens: int
    width: int
    pool: str
    project: str
    hidden: int

    @property
    def pooled(self) -> int:
        """Width of the pooled tokens."""
        return self.width * (2 if self.pool == "both" else 1)

    @property
    def outputs(self) -> int:
        """Width of the feature."""
        if not self.hidden:
            return self.pooled
        return self.hidden * (2 if self.project == "before" and self.pool == "both" else 1)

    @property
    def inputs(self) -> int:
        """Width of what is projected."""
        return self.width if self.project == "before" else self.pooled

    @property
    def rows(self) -> int:
        if self.project != "before":
            return 1
        return {"mean": self.tokens - 1, "cls": 1, "both": self.tokens}[self.pool]


def taps_of(arch: ArchConfig) -> list[tuple[int, int]]:
    """(encoder, branch) of every tap there is, ascending: those of encoders that are followed by another."""
    head = arch.head
    if head.kind != "exshortcut":
        return []
    return sorted({(encoder, branch) for encoder, branch in head.taps if encoder < len(arch.encoders) - 1})


def tap_name(tap: tuple[int, int]) -> str:
    """'0_1' for a tap of encoder 0 in branch 1: part of the names of its tensors."""
    return f"{tap[0]}_{tap[1]}"


def tap_shape(arch: ArchConfig, branch: int) -> TapShape:
    """The shape of a tap of this branch."""
    head, stream = arch.head, arch.branches[branch]
    hidden = 0 if head.project == "none" else round(head.mu * stream.embed_dim)
    return TapShape(stream.num_tokens, stream.embed_dim, head.pool, head.project, hidden)


def feature_widths(arch: ArchConfig) -> list[int]:
    """Widths of what the head reads: the class feature of every branch, then every tap."""
    branches = [branch.embed_dim for branch in arch.branches]
    return branches + [tap_shape(arch, branch).outputs for _, branch in taps_of(arch)]


# Cost ----------------------------------------------------------------------------------------------------------------


@lru_cache(CACHED)
def tap_cost(shape: TapShape) -> Cost:
    """A tap without its classifier: norm of the tokens, then projection and norm if it projects."""
    cost = norm_cost(shape.width)
    if shape.hidden:
        cost += _unbiased_cost(shape.rows, shape.inputs, shape.hidden) + norm_cost(shape.hidden)
    return cost


@lru_cache(CACHED)
def _unbiased_cost(rows: int, inputs: int, outputs: int) -> Cost:
    biased = linear_cost(rows, inputs, outputs)
    return Cost(biased.params - outputs, biased.macs, biased.activations, biased.executed_macs)


def tap_classifier_cost(shape: TapShape, num_classes: int) -> Cost:
    """The map from a tap's feature to logits, without bias."""
    return _unbiased_cost(1, shape.outputs, num_classes)


def taps_cost(arch: ArchConfig) -> dict[str, Cost]:
    """All taps and their classifiers, by name."""
    parts = {}
    for tap in taps_of(arch):
        shape = tap_shape(arch, tap[1])
        parts[f"taps.{tap_name(tap)}"] = tap_cost(shape)
        parts[f"head.taps.{tap_name(tap)}"] = tap_classifier_cost(shape, arch.num_classes)
    return parts


# What may be asked for, and what cannot matter -----------------------------------------------------------------------


def exshortcut_violations(arch: ArchConfig) -> list[str]:
    """Every reason why the taps of ``arch.head`` cannot be."""
    head = arch.head
    problems = [p for tap in head.taps for p in _tap_violations(tap, arch)]
    for name, known in (("pool", POOLS), ("project", PROJECTIONS), ("init", TAP_INITS)):
        problems += check_name(f"head.{name}", getattr(head, name), known)
    if not is_number(head.mu):
        return [*problems, f"head.mu must be a finite number, got {head.mu!r}; use one such as 1"]
    narrowest = min((branch.embed_dim for branch in arch.branches), default=1)
    if head.project != "none" and round(head.mu * narrowest) < 1:
        problems.append(f"head.mu {head.mu:g} of {narrowest} channels leaves none; use at least {1 / narrowest:.4f}")
    return problems


def _tap_violations(tap: Any, arch: ArchConfig) -> list[str]:
    numbers = isinstance(tap, tuple) and all(isinstance(x, int) and not isinstance(x, bool) for x in tap)
    if not numbers or len(tap) != 2 or tap[0] < 0:
        return [f"head.taps: {tap!r} is no tap; use [encoder, branch], both counted from 0, such as [0, 1]"]
    last = len(arch.branches) - 1
    if 0 <= tap[1] <= last:
        return []
    return [f"head.taps: {list(tap)} names branch {tap[1]}; use [{tap[0]}, 0] to [{tap[0]}, {last}]"]


def folded_head(arch: ArchConfig) -> HeadConfig:
    """The same head in one description: without taps it is the plain one."""
    head, taps = arch.head, tuple(taps_of(arch))
    if not taps:
        return type(head)()
    project = "after" if (head.project, head.pool) == ("before", "cls") else head.project
    widths = {arch.branches[branch].embed_dim for _, branch in taps}
    mu = 1.0 if project == "none" else head.mu
    if project != "none" and len(widths) == 1:
        width = widths.pop()
        mu = round(mu * width) / width
    return type(head)(kind=head.kind, taps=taps, pool=head.pool, project=project, mu=mu, init=head.init)
