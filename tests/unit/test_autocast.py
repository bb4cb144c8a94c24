"""Half precision, by autocast and throughout: finite, and as close to single precision as the format's digits allow."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossvit_core.config import FUSION_NAMES, ArchConfig, EncoderConfig
from crossvit_core.model import CrossViT, build_model
from crossvit_core.presets import PRESETS

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
    ),
]
FORMATS = [torch.bfloat16, torch.float16]

# In units of the format's eps. One rounding is off by at most half a unit, 0.29 in the mean square; the dozen to two
# dozen that follow each other in these networks add up like a random walk, and backwards as many again. Measured over
# all cases: 0.8 to 4.9 for logits, 1.2 to 7.6 for gradients, alike in both formats though their eps differ by eight.
LOGITS_OFF, GRADIENT_OFF = 10, 20

every_fusion = pytest.mark.parametrize("fusion", FUSION_NAMES)
every_format = pytest.mark.parametrize("dtype", FORMATS, ids=str)
every_device = pytest.mark.parametrize("device", DEVICES)


def _arch(fusion: str) -> ArchConfig:
    """Two encoders, so that the inner and the last form both run; both stems, and a branch that is resized."""
    base = PRESETS["crossvit_nano_16"]
    small, large = base.branches
    encoders = (EncoderConfig(depths=(1, 1), fusion=fusion, fusion_depth=2, fusion_reading="patches"),) * 2
    return base.replace(branches=(replace(small, image_size=12, stem="conv"), large), encoders=encoders)


def _model(fusion: str, device: str) -> CrossViT:
    """Weights that keep the scale of what they map, so that every part matters in the logits."""
    torch.manual_seed(0)
    model = build_model(_arch(fusion))
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.normal_(module.bias, std=0.1)
    return model.to(device)


def _images(device: str) -> Tensor:
    return torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(device)


def _error(got: Tensor, expected: Tensor) -> float:
    """Distance over length; not finite, and below no bound, if anything in ``got`` is not."""
    got, expected = got.detach().double(), expected.detach().double()
    return float((got - expected).norm() / expected.norm())


def _gradient(model: CrossViT, logits: Tensor) -> Tensor:
    """Of the cross-entropy with labels 0 to 9 in turn, all parameters in one vector."""
    model.zero_grad()
    labels = torch.arange(len(logits), device=logits.device) % 10
    F.cross_entropy(logits.float(), labels).backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


@every_device
@every_format
@every_fusion
def test_autocast_in_training(fusion: str, dtype: torch.dtype, device: str) -> None:
    model, images = _model(fusion, device), _images(device)
    expected = model(images)
    expected_gradient = _gradient(model, expected)
    with torch.autocast(device, dtype=dtype):
        logits = model(images)
    assert _error(logits, expected) < LOGITS_OFF * torch.finfo(dtype).eps
    assert _error(_gradient(model, logits), expected_gradient) < GRADIENT_OFF * torch.finfo(dtype).eps


@every_device
@every_format
@every_fusion
def test_autocast_in_evaluation(fusion: str, dtype: torch.dtype, device: str) -> None:
    model, images = _model(fusion, device).eval(), _images(device)
    with torch.inference_mode():
        expected = model(images)
        with torch.autocast(device, dtype=dtype):
            logits = model(images)
    assert _error(logits, expected) < LOGITS_OFF * torch.finfo(dtype).eps


@every_device
@every_format
@every_fusion
def test_half_precision_throughout(fusion: str, dtype: torch.dtype, device: str) -> None:
    model, images = _model(fusion, device).eval(), _images(device)
    with torch.inference_mode():
        expected = model(images)
        logits = model.to(dtype)(images.to(dtype))
    assert logits.dtype == dtype
    assert _error(logits, expected) < LOGITS_OFF * torch.finfo(dtype).eps


@every_device
@every_fusion
def test_what_runs_through_the_encoders_keeps_single_precision(fusion: str, device: str) -> None:
    """Under every fusion alike: where one rounded it, schemes that are compared on a GPU would differ in that, too."""
    model = _model(fusion, device)
    with torch.autocast(device, dtype=torch.bfloat16):
        tokens = model._tokens(_images(device))
        for encoder in model.blocks:
            assert [x.dtype for x in tokens] == [torch.float32] * 2
            tokens = encoder(tokens)
    assert [x.dtype for x in tokens] == [torch.float32] * 2
