"""Quantisers, what is quantised, and smoothing, on networks that need no training."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossvit_core.config import FUSION_NAMES, ArchConfig
from crossvit_core.cost import count_cost
from crossvit_core.model import CrossViT, build_model
from crossvit_core.presets import PRESETS
from crossvit_core.quantize import codes
from crossvit_core.quantize.calibrate import observe
from crossvit_core.quantize.codes import GeluRegions, Quantizer, SoftmaxSplit, Uniform
from crossvit_core.quantize.network import QuantizedNetwork, prepare
from crossvit_core.quantize.products import Product, watching
from crossvit_core.quantize.settings import METHODS, QuantizeError
from crossvit_core.quantize.smooth import smooth

ARCH = PRESETS["crossvit_nano_16"].replace(in_channels=1)
BITS = (2, 3, 4, 5, 6, 8)


def with_fusion(fusion: str) -> ArchConfig:
    return ARCH.replace(encoders=tuple(dataclasses.replace(each, fusion=fusion) for each in ARCH.encoders))


def with_conv_stems(arch: ArchConfig) -> ArchConfig:
    return arch.replace(branches=tuple(dataclasses.replace(each, stem="conv") for each in arch.branches))


def scattered(arch: ArchConfig) -> CrossViT:
    """A network whose norms and biases are as far from their start as training takes them."""
    torch.manual_seed(0)
    model = build_model(arch).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def images_for(arch: ArchConfig, count: int = 12) -> Tensor:
    return torch.randn(count, arch.in_channels, *arch.size, generator=torch.Generator().manual_seed(1))


def pass_through(product: Product, left: Tensor, right: Tensor) -> Tensor:
    return product.apply(left, right)


# Quantisers ----------------------------------------------------------------------------------------------------------


def quantizers(bits: int) -> list[tuple[Quantizer, Tensor]]:
    """Each with values of the kind that it is for."""
    noise = torch.randn(4000, generator=torch.Generator().manual_seed(bits)) * 3
    gelu, shares = F.gelu(noise), (noise / 2).view(-1, 8).softmax(dim=-1).flatten()
    whole = noise.abs().max() / (2 ** (bits - 1) - 0.5)
    return [
        (Uniform(bits, whole), noise),
        (Uniform(bits, whole / 3), noise),
        *((GeluRegions(bits, exponent), gelu) for exponent in (0, 3, 6)),
        *((SoftmaxSplit(bits, exponent), shares) for exponent in (0, 1, 3, 19)),
    ]


@pytest.mark.parametrize("bits", BITS)
def test_codes_are_few_and_rounding_twice_changes_nothing(bits: int) -> None:
    for quantizer, values in quantizers(bits):
        once = quantizer(values)
        assert once.unique().numel() <= 2**bits, quantizer
        assert torch.equal(quantizer(once), once), quantizer
        assert quantizer(torch.zeros(3)).abs().max() == 0, quantizer


def test_sixteen_bits_are_as_good_as_all() -> None:
    for quantizer, values in quantizers(16):
        reach = {Uniform: float("inf"), GeluRegions: 0.0, SoftmaxSplit: 1.0}[type(quantizer)]
        if isinstance(quantizer, GeluRegions):
            reach = codes.negative_gelu_step(16) * 2**quantizer.exponent * (2**15 - 1)
        if isinstance(quantizer, Uniform):
            reach = float(quantizer.step) * (2**15 - 1)
        inside = values[values.abs() <= reach]
        assert inside.numel() > 100
        assert (quantizer(inside) - inside).abs().max() < 1e-3, quantizer


def test_the_uniform_quantiser_is_ptq4vits() -> None:
    x = torch.tensor([-9.0, -1.6, -0.5, 0.0, 0.49, 0.51, 1.0, 9.0])
    assert Uniform(3, torch.tensor(1.0))(x).tolist() == [-4.0, -2.0, -0.0, 0.0, 0.0, 1.0, 1.0, 3.0]
    candidates = codes.uniform_candidates(torch.tensor(7.5), 4)
    assert len(candidates) == 101
    assert [round(float(candidates[index].step), 6) for index in (0, 100)] == [0.01, 1.2]


@pytest.mark.parametrize("bits", BITS)
def test_the_regions_of_gelu_have_a_ratio_of_a_power_of_two(bits: int) -> None:
    largest = 5.0
    for quantizer in codes.gelu_candidates(largest, bits):
        got = quantizer(F.gelu(torch.linspace(-10, largest, 20_001))).unique()
        negative, positive = got[got < 0], got[got > 0]
        assert math.log2(float(positive[0]) / -float(negative[-1])) == pytest.approx(quantizer.exponent, abs=1e-4)
        assert float(got[0]) == pytest.approx(-codes.GELU_MIN_MAGNITUDE, rel=1e-5)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("largest", [0.01, 0.5, 3.0, 40.0])
def test_the_hand_rule_clips_nothing_and_is_the_least_that_does_not(bits: int, largest: float) -> None:
    candidates = codes.gelu_candidates(largest, bits)
    reach = codes.negative_gelu_step(bits) * (2 ** (bits - 1) - 1) * 2 ** candidates[0].exponent
    assert reach >= largest
    assert candidates[0].exponent == 0 or reach / 2 < largest
    exponents = [candidate.exponent for candidate in candidates]
    assert exponents == list(range(exponents[0], max(0, exponents[0] - 6) - 1, -1))


def test_the_negative_step_reaches_the_minimum_of_gelu() -> None:
    x = torch.linspace(-1.5, 0, 200_001, dtype=torch.float64)
    lowest = -F.gelu(x).min().item()
    assert lowest <= codes.GELU_MIN_MAGNITUDE < lowest + 1e-7


# What is quantised ---------------------------------------------------------------------------------------------------

ARCHS = {fusion: with_fusion(fusion) for fusion in FUSION_NAMES} | {"conv stems": with_conv_stems(ARCH)}


@pytest.mark.parametrize("name", ARCHS)
def test_every_counted_multiply_add_is_found_and_watching_changes_nothing(name: str) -> None:
    arch = ARCHS[name]
    model, images = scattered(arch), images_for(arch)
    sites = observe(model, images)
    assert sum(seen.macs for seen in sites.values()) == count_cost(arch).macs
    layers = {name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
    assert {site for site, seen in sites.items() if seen.product.right_is_weight} == layers
    with torch.no_grad():
        expected = model(images)
        with watching(model, pass_through):
            watched = model(images)
    assert (watched - expected).abs().max() < 1e-4 * expected.abs().max()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_operands_are_told_apart_by_what_computed_them() -> None:
    sites = observe(scattered(ARCH), images_for(ARCH))
    origins = {site: seen.product.left_origin for site, seen in sites.items()}
    block, fusion = "blocks.0.blocks.0.0", "blocks.0.fusion.0"
    assert origins["patch_embed.0.proj"] == "image"
    assert origins[f"{block}.attn.qkv"] == f"norm:{block}.norm1"
    assert origins[f"{block}.attn.q"] == ""
    assert origins[f"{block}.attn.softmax"] == "softmax"
    assert origins[f"{block}.mlp.fc2"] == "gelu"
    # The linear of a map between branches follows a GELU, not the norm before it.
    assert origins["blocks.0.projs.0.2"] == origins["blocks.0.revert_projs.0.2"] == "gelu"
    assert {origins[f"{fusion}.attn.{name}"] for name in ("wq", "wk", "wv")} == {f"norm:{fusion}.norm1"}
    assert origins[f"{fusion}.softmax"] == "softmax"
    assert origins["head.0"] == "norm:norm.0"


@pytest.mark.parametrize("width", [4, 8, 12])
def test_only_what_reads_pixels_reads_the_image(width: int) -> None:
    """Inside a stem there may be as many channels as an image has."""
    branches = tuple(dataclasses.replace(branch, stem="conv", embed_dim=width, num_heads=1) for branch in ARCH.branches)
    arch = ARCH.replace(branches=branches)
    origins = {site: seen.product.left_origin for site, seen in observe(scattered(arch), images_for(arch)).items()}
    reading = {site for site, origin in origins.items() if origin == "image"}
    assert reading == {"patch_embed.0.proj.0", "patch_embed.1.proj.0"}


def test_cross_attention_is_quantised_as_the_paper_writes_it() -> None:
    """The form that runs has no keys and values; ``macs``, not ``executed_macs``, are what is found."""
    sites = observe(scattered(ARCH), images_for(ARCH))
    assert sites["blocks.0.fusion.0.attn.wk"].left_numel == 5 * 32
    assert sites["blocks.0.fusion.0.attn.wq"].left_numel == 32
    assert count_cost(ARCH).macs != count_cost(ARCH).executed_macs


def test_what_cannot_be_seen_is_refused() -> None:
    class Sliced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.layer.weight[:2])

    model = Sliced()
    with pytest.raises(QuantizeError, match="part of a weight"), watching(model, pass_through):
        model(torch.randn(1, 4))
    network = scattered(ARCH)
    network.unused = nn.Linear(2, 2)
    with pytest.raises(QuantizeError, match=r"unused .*does not see"):
        observe(network, images_for(ARCH))


@pytest.mark.parametrize("bits", [8, 4])
def test_the_footprint_adds_up(bits: int) -> None:
    model = scattered(ARCH)
    network = QuantizedNetwork(prepare(model, images_for(ARCH)), METHODS["base"])
    found = network.footprint(network.single(bits))
    quantised = [m.weight.numel() for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    edges = [
        m.weight.numel()
        for name, m in model.named_modules()
        if isinstance(m, (nn.Linear, nn.Conv2d)) and name.startswith(("head.", "patch_embed."))
    ]
    weight_bits = bits * (sum(quantised) - sum(edges)) + 8 * sum(edges)
    assert found.weight_bits == pytest.approx(weight_bits / sum(quantised))
    edge_macs = sum(
        cost.macs for name, cost in count_cost(ARCH).by_module.items() if name.startswith(("head.", "patch_embed."))
    )
    assert found.bit_operations == 64 * edge_macs + bits**2 * (count_cost(ARCH).macs - edge_macs)
    others = sum(p.numel() for p in model.parameters()) - sum(quantised)
    steps = len(network.slots) + 2 * sum(name.endswith("qkv.weight") for name in network.slots)  # q, k and v apart
    assert found.model_bytes == -(-weight_bits // 8) + 4 * (others + steps)
    assert network.full_footprint().model_bytes == 4 * sum(p.numel() for p in model.parameters())


# Smoothing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", FUSION_NAMES)
@pytest.mark.parametrize("with_bias", [True, False])
def test_smoothing_leaves_the_function_alone(fusion: str, with_bias: bool) -> None:
    arch = with_fusion(fusion)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        model, images = scattered(arch).to(dtype), images_for(arch).to(dtype)
        with torch.no_grad():
            before = model(images)
            smoothed = smooth(model, images, with_bias=with_bias)
            change = (model(images) - before).abs().max()
        assert change < tolerance, (dtype, change)
        maps = [name for name, _ in model.named_modules() if name.endswith((".projs.0.0", ".revert_projs.0.0"))]
        norms = [name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)]
        assert not set(smoothed) & set(maps)
        assert set(smoothed) == {name for name in norms if "projs" not in name}


def test_sqb_makes_every_channel_symmetric() -> None:
    model, images = scattered(ARCH).double(), images_for(ARCH).double()
    smoothed = smooth(model, images)
    readers = {}
    for seen in observe(model, images).values():
        kind, _, norm = seen.product.left_origin.partition(":")
        if kind == "norm" and seen.lows is not None and seen.highs is not None:
            low, high = readers.get(norm, (seen.lows, seen.highs))
            readers[norm] = torch.minimum(low, seen.lows), torch.maximum(high, seen.highs)
    assert set(readers) == set(smoothed)
    for low, high in readers.values():
        assert (low + high).abs().max() < 1e-10
        assert high.min() > 0


def test_a_norm_that_something_else_reads_is_left_alone() -> None:
    class HeadAndMore(nn.Module):
        def __init__(self, head: nn.Module) -> None:
            super().__init__()
            self.inner = head

        def forward(self, features: list[Tensor]) -> Tensor:
            return self.inner(features) + features[0].mean(dim=1, keepdim=True)

    model, images = scattered(ARCH), images_for(ARCH)
    model.head = HeadAndMore(model.head)
    with torch.no_grad():
        before, gain = model(images), model.norm[0].weight.clone()
        smoothed = smooth(model, images)
        assert (model(images) - before).abs().max() < 1e-4
    assert "norm.0" not in smoothed
    assert "norm.1" in smoothed
    assert torch.equal(model.norm[0].weight, gain)


def test_a_linear_without_bias_gains_one() -> None:
    model, images = scattered(ARCH), images_for(ARCH)
    first = model.blocks[0].blocks[0][0]
    first.mlp.fc1.bias = None
    with torch.no_grad():
        before = model(images)
        assert "blocks.0.blocks.0.0.norm2" in smooth(model, images)
        assert (model(images) - before).abs().max() < 1e-4
    assert first.mlp.fc1.bias is not None
