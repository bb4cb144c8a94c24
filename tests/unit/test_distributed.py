"""Networks in DistributedDataParallel, which waits for a gradient of every parameter that asks for one."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from crossvit_core.config import ArchConfig, EncoderConfig
from crossvit_core.model import build_model
from crossvit_core.presets import PRESETS
from crossvit_core.recipe import TrainRecipe
from crossvit_core.residual_config import ResidualAttentionConfig
from crossvit_core.train import _make_optimizer

NANO = PRESETS["crossvit_nano_16"]


def _arch(**changes: object) -> ArchConfig:
    return NANO.replace(encoders=(EncoderConfig(depths=(1, 1), **changes),) * 2)  # type: ignore[arg-type]


ARCHS = {
    "one block": _arch(),
    "published stack": _arch(fusion_depth=2),
    "stack that keeps patches": _arch(fusion_depth=2, fusion_reading="patches"),
    "class tokens": _arch(fusion="class_token"),
    "residual attention": _arch(fusion_depth=2).replace(
        residual_attention=ResidualAttentionConfig(where=(0, 1), scope="network", fusion=True)
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def _images(step: int) -> Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(step))


def _three_steps(model: nn.Module, forward: nn.Module) -> None:
    optimizer = _make_optimizer(model, TrainRecipe(weight_decay=1.0))
    for step in range(3):
        optimizer.zero_grad()
        forward(_images(step)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointed"])
@pytest.mark.parametrize("name", ARCHS)
def test_three_steps_are_those_of_the_network_alone(name: str, checkpointing: bool) -> None:
    """Of one whose parameters all ask for gradients, too: those that never have one were not moved before either."""
    torch.manual_seed(0)
    model = build_model(ARCHS[name])
    model.set_grad_checkpointing(checkpointing)
    alone, all_asking = copy.deepcopy(model), copy.deepcopy(model).requires_grad_(True)
    _three_steps(model, DistributedDataParallel(model))
    for other in (alone, all_asking):
        _three_steps(other, other)
        for (parameter, ours), theirs in zip(model.named_parameters(), other.parameters()):
            assert torch.equal(ours, theirs), parameter
