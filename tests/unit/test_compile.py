"""Every network is one graph: torch.compile without a break, torch.export with any batch, and the same outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from crossvit_core.config import FUSION_NAMES, ArchConfig, EncoderConfig
from crossvit_core.model import CrossViT, build_model
from crossvit_core.presets import PRESETS

NANO = PRESETS["crossvit_nano_16"]

ENCODERS = {
    **{name: (EncoderConfig(depths=(1, 1), fusion=name),) for name in FUSION_NAMES},
    "two of cross_attention": (EncoderConfig(depths=(1, 0)), EncoderConfig(depths=(0, 1))),
    "stack, published": (EncoderConfig(depths=(0, 1), fusion_depth=2),),
    "stack, patches": (EncoderConfig(depths=(1, 0), fusion_depth=2, fusion_reading="patches"),),
}


def _arch(encoders: tuple[EncoderConfig, ...]) -> ArchConfig:
    """Both stems, and a branch that is resized to its own side."""
    small, large = NANO.branches
    branches = (replace(small, image_size=12, embed_dim=8, stem="conv"), replace(large, embed_dim=16))
    return NANO.replace(branches=branches, encoders=encoders)


def _model(encoders: tuple[EncoderConfig, ...], **rates: float) -> CrossViT:
    torch.manual_seed(0)
    return build_model(_arch(encoders), **rates)


def _images(batch: int) -> Tensor:
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(batch))


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    """Graphs compiled by one test are no other's."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_one_graph(name: str) -> None:
    """``fullgraph`` raises at the first break; in training as well as in evaluation."""
    model = _model(ENCODERS[name])
    for train in (True, False):
        compiled = torch.compile(model.train(train), fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(_images(2)), model(_images(2)))


@pytest.mark.slow
def test_one_graph_with_stochastic_depth_and_dropout() -> None:
    model = _model(ENCODERS["two of cross_attention"], drop_path_rate=0.5, drop_rate=0.5).train()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.manual_seed(3)
    expected = model(_images(8))
    torch.manual_seed(3)
    torch.testing.assert_close(compiled(_images(8)), expected)


def _quick(*names: str) -> list[object]:
    """All networks; those not named are slow."""
    return [name if name in names else pytest.param(name, marks=pytest.mark.slow) for name in ENCODERS]


def _exported(model: CrossViT, strict: bool) -> torch.nn.Module:
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(model, (_images(2),), dynamic_shapes=({0: batch},), strict=strict)
    return program.module()


def _check_export(name: str, strict: bool) -> None:
    model = _model(ENCODERS[name]).eval()
    exported = _exported(model, strict)
    for batch in (1, 3, 5):
        with torch.inference_mode():
            torch.testing.assert_close(exported(_images(batch)), model(_images(batch)), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", _quick("cross_attention", "all_attention", "pairwise"))
def test_export_with_any_batch(name: str) -> None:
    _check_export(name, strict=False)


@pytest.mark.parametrize("name", _quick("cross_attention"))
def test_strict_export_with_any_batch(name: str) -> None:
    """Through torch.compile's reading of the code, which meets every break of the graph."""
    _check_export(name, strict=True)


@pytest.mark.slow
def test_compiled_code_gives_the_same_outputs_and_gradients() -> None:
    """Through the default compiler, which takes a minute for the smallest network."""
    model = _model(ENCODERS["cross_attention"])
    gradients = []
    for forward in (model, torch.compile(model, fullgraph=True)):
        model.zero_grad()
        logits = forward(_images(4))
        logits.square().sum().backward()
        gradients.append([logits, *(p.grad for p in model.parameters() if p.grad is not None)])
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-4)
