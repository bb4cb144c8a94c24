"""From class features to logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crossvit_core import cost
from crossvit_core.config import ArchConfig
from crossvit_core.exshortcut import ExShortcutHead


class ClassTokenHead(nn.ModuleList):
    """One linear map per branch on its class feature; the logits are averaged (paper section 3.3)."""

    cost = staticmethod(cost.class_token_head_cost)

    def __init__(self, arch: ArchConfig, num_classes: int) -> None:
        super().__init__(nn.Linear(branch.embed_dim, num_classes) for branch in arch.branches)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """One (B, C_i) per branch -> (B, num_classes)."""
        return torch.stack([linear(x) for linear, x in zip(self, features)]).mean(dim=0)


HEADS: dict[str, type[ClassTokenHead] | type[ExShortcutHead]] = {
    "class_token": ClassTokenHead,
    "exshortcut": ExShortcutHead,
}
