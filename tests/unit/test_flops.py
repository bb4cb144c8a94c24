"""The independent count: complete, or an error."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from crossvit_core.cost import count_cost
from crossvit_core.flops import UncountedError, count_flops_fvcore
from crossvit_core.model import build_model
from crossvit_core.presets import PRESETS

NANO = PRESETS["crossvit_nano_16"]


def test_one_attention_by_hand() -> None:
    """17 tokens of width 16 and 5 of width 32, one block each."""
    counted = count_flops_fvcore(build_model(NANO))
    assert counted["sdpa"] == 2 * 17**2 * 16 + 2 * 5**2 * 32
    assert counted["conv"] == 16 * 3 * 4**2 * 16 + 4 * 3 * 8**2 * 32
    assert counted["macs"] == sum(counted[name] for name in ("conv", "linear", "matmul", "sdpa"))


class _Strange(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(x, dim=1)


def test_an_operator_that_nobody_counts_is_an_error() -> None:
    model = build_model(NANO)
    model.norm[0] = _Strange()
    with pytest.raises(UncountedError, match="operators not counted: aten::cumsum"):
        count_flops_fvcore(model)


def test_the_forward_saves_what_one_query_saves() -> None:
    """Table of the exact reductions: 64,554,624 of CrossViT-Ti. fvcore passes over the product with the own row."""
    arch = PRESETS["crossvit_tiny_240"]
    with torch.device("meta"):
        model = build_model(arch)
    executed = count_flops_fvcore(model.to_empty(device="cpu"), reference=False)["macs"]
    own_rows = len(arch.encoders) * sum(branch.num_heads * branch.embed_dim for branch in arch.branches)
    assert count_cost(arch).macs - executed - own_rows == 64_554_624


def test_a_count_leaves_the_model_as_it_was() -> None:
    model = build_model(NANO).train()
    count_flops_fvcore(model)
    assert model.training and not any(encoder.reference for encoder in model.blocks)


def test_a_model_without_memory_is_refused() -> None:
    with torch.device("meta"):
        model = build_model(NANO)
    with pytest.raises(ValueError, match=r"give it memory: model.to_empty"):
        count_flops_fvcore(model)
