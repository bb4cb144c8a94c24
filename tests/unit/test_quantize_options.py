"""Networks with options of later papers are quantised as well: every product of them is found."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from crossvit_core.config import ArchConfig, HeadConfig
from crossvit_core.cost import count_cost
from crossvit_core.model import build_model
from crossvit_core.presets import PRESETS
from crossvit_core.quantize.network import QuantizedNetwork, divergence, prepare
from crossvit_core.quantize.settings import METHODS
from crossvit_core.quantize.smooth import smooth
from crossvit_core.residual_config import ResidualAttentionConfig

NANO = PRESETS["crossvit_nano_16"]
BASE = NANO.replace(in_channels=1, encoders=NANO.encoders * 2)


def branches(**changes: object) -> ArchConfig:
    return BASE.replace(branches=tuple(dataclasses.replace(each, **changes) for each in BASE.branches))


def windows(side: int) -> ArchConfig:
    return BASE.replace(encoders=tuple(dataclasses.replace(each, windows=(side, 0)) for each in BASE.encoders))


ARCHS = {
    "residual attention": BASE.replace(
        residual_attention=ResidualAttentionConfig(where=(0, 1), scope="network", fusion=True)
    ),
    "exshortcut": BASE.replace(
        head=HeadConfig(kind="exshortcut", taps=((0, 0), (0, 1)), pool="both", project="before", init="normal")
    ),
    "reduction stem": branches(stem="reduction"),
    "parallel convolutions": branches(conv_path=True),
    "windows": windows(2),
    "padded windows": windows(3),
}


QUICK = ("residual attention", "parallel convolutions", "padded windows")


@pytest.mark.parametrize("side", [2, 3])
def test_smoothing_leaves_windows_alone_whether_they_pad_or_not(side: int) -> None:
    """What pads a grid are zeros of the normed tokens: a shift of them would be attended to."""
    arch = windows(side)
    torch.manual_seed(0)
    model = build_model(arch).double().eval().requires_grad_(False)
    images = torch.randn(16, 1, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim == 1 else 0.05))
        before = model(images)
        smoothed = smooth(model, images)
        assert (model(images) - before).abs().max() < 1e-10
    assert "blocks.0.blocks.0.0.norm1" in smoothed


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in ARCHS])
def test_every_product_of_an_option_is_found_and_quantised(name: str) -> None:
    arch = ARCHS[name]
    torch.manual_seed(0)
    model = build_model(arch)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        images = torch.randn(24, 1, 16, 16)
        model.train()(images)  # so that batch statistics are not as they start
        full = model.eval()(images)
        prepared = prepare(model, images, "scale_and_bias")
        smoothed = prepared.model(images)
    assert (smoothed - full).abs().max() < 1e-4 * full.abs().max()
    assert sum(seen.macs for seen in prepared.calibration.sites.values()) == count_cost(arch).macs
    network = QuantizedNetwork(prepared, METHODS["sqb_optm"])
    assert 0 < divergence(full, network.logits(images, network.single(6))) < 0.05


def test_norms_over_processes_are_folded_into_the_convolutions_as_those_over_one() -> None:
    torch.manual_seed(0)
    model, images = build_model(ARCHS["parallel convolutions"]), torch.randn(24, 1, 16, 16)
    with torch.no_grad():
        model.train()(images)
        expected = prepare(model, images).model
        got = prepare(nn.SyncBatchNorm.convert_sync_batchnorm(model), images).model
    assert got.state_dict().keys() == expected.state_dict().keys()
    torch.testing.assert_close(got.state_dict(), expected.state_dict())
