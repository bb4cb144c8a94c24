"""ExShortcut (ExMobileViT): the head also reads tokens of earlier encoders, through taps.

A tap norms a branch's tokens, pools them over the whole grid and, if asked for, projects them after or before pooling;
its own matrix then adds to the logits of the plain head, so that taps whose matrix is zero change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossvit_core import cost
from crossvit_core.blocks import norm_layer
from crossvit_core.config import ArchConfig
from crossvit_core.exshortcut_config import TapShape, tap_cost, tap_name, tap_shape, taps_of


class Tap(nn.Module):
    """From a branch's tokens to one feature: ``pool(LN(x))``, or with SiLU(LN(linear)) after or before the pooling.

    The projection has no bias, as in the paper; its norm has one. Stochastic depth leaves taps alone.
    """

    cost = staticmethod(tap_cost)

    def __init__(self, shape: TapShape) -> None:
        super().__init__()
        self.pool, self.first = shape.pool, shape.project == "before"
        self.norm = norm_layer(shape.width)
        if shape.hidden:
            self.project = nn.Linear(shape.inputs, shape.hidden, bias=False)
            self.project_norm = norm_layer(shape.hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, C), class token first -> (B, outputs)."""
        normed = self.norm(tokens[:, :1] if self.pool == "cls" else tokens)
        if self.first:
            return self._pooled(self._projected(normed[:, 1:] if self.pool == "mean" else normed))
        return self._projected(self._pooled(normed[:, 1:] if self.pool == "mean" else normed))

    def _projected(self, x: Tensor) -> Tensor:
        return F.silu(self.project_norm(self.project(x))) if hasattr(self, "project") else x

    def _pooled(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, C), or (B, 2C) for both; ``x`` holds the rows that are pooled."""
        if self.pool == "mean":
            return x.mean(dim=1)
        return x[:, 0] if self.pool == "cls" else torch.cat((x[:, 0], x[:, 1:].mean(dim=1)), dim=-1)


class ExShortcutHead(nn.Module):
    """The plain head (its tensors have the same names) and one matrix per tap, without bias, ``taps.k_b``."""

    cost = staticmethod(cost.exshortcut_head_cost)

    def __init__(self, arch: ArchConfig, num_classes: int) -> None:
        super().__init__()
        self.votes = len(arch.branches)
        self.starts_at_zero = arch.head.init == "zero"
        for index, branch in enumerate(arch.branches):
            self.add_module(str(index), nn.Linear(branch.embed_dim, num_classes))
        shapes = {tap_name(tap): tap_shape(arch, tap[1]) for tap in taps_of(arch)}
        self.taps = nn.ModuleDict({n: nn.Linear(s.outputs, num_classes, bias=False) for n, s in shapes.items()})

    def reset_taps(self) -> None:
        """After the linear layers have been initialised: taps that start at zero do."""
        for linear in self.taps.children():
            if self.starts_at_zero:
                nn.init.zeros_(linear.weight)  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """One (B, C_i) per branch, then one (B, E) per tap -> (B, num_classes)."""
        votes = [self.get_submodule(str(index))(x) for index, x in enumerate(features[: self.votes])]
        logits = torch.stack(votes).mean(dim=0)
        for linear, feature in zip(self.taps.values(), features[self.votes :]):
            logits = logits + linear(feature) * (1 / self.votes)
        return logits


def build_taps(arch: ArchConfig) -> nn.ModuleDict:
    """The taps of a network by name, in the order in which their features follow those of the branches."""
    return nn.ModuleDict({tap_name(tap): Tap(tap_shape(arch, tap[1])) for tap in taps_of(arch)})
