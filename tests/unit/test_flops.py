"""The independent count: complete, or an error."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from crossvit_core.cost import count_cost
from crossvit_core.flops import UncountedError, count_activations_fvcore, count_flops_by_module, count_flops_fvcore
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


@pytest.mark.parametrize("name", ["crossvit_nano_16", "crossvit_micro_32", "crossvit_tiny_32"])
def test_what_runs_is_counted_to_the_last_digit(name: str) -> None:
    """fvcore's own count passes over products by broadcasting, and takes those of einsum from a text of four digits."""
    counted = count_flops_fvcore(build_model(PRESETS[name]), reference=False)
    assert counted["macs"] == count_cost(PRESETS[name]).executed_macs < count_cost(PRESETS[name]).macs


def test_modules_add_up_to_the_whole() -> None:
    by_module = count_flops_by_module(build_model(NANO))
    children = [counts["macs"] for name, counts in by_module.items() if name and "." not in name]
    assert sum(children) == by_module[""]["macs"] == count_flops_fvcore(build_model(NANO))["macs"]


def test_a_count_leaves_the_model_as_it_was() -> None:
    model = build_model(NANO).train()
    count_flops_fvcore(model)
    assert model.training and not any(encoder.reference for encoder in model.blocks)


def test_a_count_wakes_no_part_that_was_put_into_evaluation_mode() -> None:
    """As BatchNorms are whose averages a finetuning keeps."""
    model = build_model(NANO).train()
    model.blocks[0].blocks[1].eval()
    before = [module.training for module in model.modules()]
    count_flops_fvcore(model)
    count_activations_fvcore(model)
    assert [module.training for module in model.modules()] == before


def test_a_model_without_memory_is_refused() -> None:
    with torch.device("meta"):
        model = build_model(NANO)
    with pytest.raises(ValueError, match=r"give it memory: model.to_empty"):
        count_flops_fvcore(model)
