"""From class features to logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crossvit_core import cost


class ClassTokenHead(nn.ModuleList):
    """One linear map per branch on its class feature; the logits are averaged (paper section 3.3)."""

    cost = staticmethod(cost.class_token_head_cost)

    def __init__(self, widths: Sequence[int], num_classes: int) -> None:
        super().__init__(nn.Linear(width, num_classes) for width in widths)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """One (B, C_i) per branch -> (B, num_classes)."""
        return torch.stack([linear(x) for linear, x in zip(self, features)]).mean(dim=0)


HEADS: dict[str, type[ClassTokenHead]] = {"class_token": ClassTokenHead}
