"""ViTAEv2 (arXiv 2202.10108) rebuilt from our parts: its published sizes, and its closed forms.

Ours are the pyramid of dilations, the parallel convolutions, attention, windows and the FFN. The reduction cell that
joins them is written here alone: a CrossViT keeps its tokens from the stem to the head and has no use for it. Neither
are the released weights loaded nor its schedule of stochastic depth repeated; sizes are what is compared.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from crossvit_core.blocks import Attention, Block, Mlp, merge_heads, split_heads
from crossvit_core.config import BranchConfig
from crossvit_core.conv_stem import ConvLayer
from crossvit_core.cost import count_cost
from crossvit_core.parallel_conv import ParallelConv, conv_sequence
from crossvit_core.presets import PRESETS
from crossvit_core.reduction_stem import PyramidReduction
from crossvit_core.vitae_cost import parallel_conv_cost, parallel_conv_layers, pyramid_layers
from crossvit_core.window_attention import attend_in_windows

WINDOW = (7, 7)


@dataclass(frozen=True)
class Stage:
    """``channels``: of one dilation (e); ``width``: of the tokens (t). Heads and groups: of reduction, normal cells."""

    channels: int
    width: int
    depth: int
    heads: tuple[int, int]
    groups: tuple[int, int]
    stride: int = 2
    kernel: int = 3
    dilations: tuple[int, ...] = (1, 2)
    windowed: bool = False


def _stages(channels: list[int], widths: list[int], deep: int, heads: list[tuple[int, int]]) -> list[Stage]:
    """What the three sizes share (table 4.2 of the released code)."""
    groups = [(1, 1), (16, 32), (32, 64), (64, 128)]
    first, second, third, fourth = zip(channels, widths, (2, 2, deep, 2), heads, groups)
    return [
        Stage(*first, stride=4, kernel=7, dilations=(1, 2, 3, 4), windowed=True),
        Stage(*second, dilations=(1, 2, 3), windowed=True),
        Stage(*third),
        Stage(*fourth),
    ]


HEADS = [(1, 1), (1, 2), (2, 4), (4, 8)]
SIZES = {
    "S": _stages([64, 64, 128, 256], [64, 128, 256, 512], 8, HEADS),
    "48M": _stages([64, 64, 192, 384], [96, 192, 384, 768], 11, HEADS),
    "B": _stages([96, 96, 256, 512], [128, 256, 512, 1024], 12, [(1, 1), (1, 4), (4, 8), (8, 16)]),
}
# Parameters; of every stage in millions; multiply-adds of convolutions, linear layers and products, in G.
PUBLISHED = {
    "S": (19_355_688, (0.94, 0.73, 7.72, 9.45), 5.753),
    "48M": (48_674_632, (1.95, 1.48, 23.23, 21.23), 13.341),
    "B": (89_693_352, (3.51, 2.70, 44.74, 37.72), 24.373),
}


class CellAttention(Attention):
    """Self-attention over a grid without class token, within windows or not; from ``inputs`` to ``width`` channels."""

    def __init__(self, inputs: int, width: int, heads: int, windowed: bool, bias: bool, values_skip: bool) -> None:
        super().__init__(width, heads)
        self.qkv = nn.Linear(inputs, 3 * width, bias=bias)
        self.windowed, self.values_skip = windowed, values_skip

    def forward_grid(self, x: Tensor, side: int) -> Tensor:
        """(B, side * side, inputs) -> (B, side * side, width)."""
        qkv = self.qkv(x)
        if self.windowed:
            return self.proj(attend_in_windows(qkv.unflatten(1, (side, side)), WINDOW, self.heads).flatten(1, 2))
        q, k, v = (split_heads(part, self.heads) for part in qkv.chunk(3, dim=-1))
        out = self.proj(merge_heads(F.scaled_dot_product_attention(q, k, v)))
        return out + merge_heads(v) if self.values_skip else out


class ReductionCell(nn.Module):
    """Pyramid, attention and FFN in a row, parallel convolutions from its raw input."""

    def __init__(self, stage: Stage, inputs: int) -> None:
        super().__init__()
        e, t, many = stage.channels, stage.width, stage.channels * len(stage.dilations)
        self.pyramid = PyramidReduction(pyramid_layers(inputs, e, stage.kernel, stage.stride, stage.dilations))
        self.norm1, self.norm2 = nn.LayerNorm(many), nn.LayerNorm(t)
        full = not stage.windowed
        self.attn = CellAttention(many, t, stage.heads[0], stage.windowed, bias=stage.windowed, values_skip=full)
        self.mlp = Mlp(t, t)
        strides = (2, 2, 1) if stage.stride == 4 else (2, 1, 1)
        widths = ((inputs, e), (e, e), (e, t))
        self.convs = conv_sequence([ConvLayer(a, b, 3, s, 1, 1, stage.groups[0]) for (a, b), s in zip(widths, strides)])

    def forward(self, image: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, width, H / stride, W / stride)."""
        reduced = self.pyramid(image)
        side = reduced.shape[-1]
        x = self.attn.forward_grid(self.norm1(reduced.flatten(2).mT), side) + self.convs(image).flatten(2).mT
        return (x + self.mlp(self.norm2(x))).mT.unflatten(-1, (side, side))


class NormalCell(nn.Module):
    """Attention and parallel convolutions of the same tokens, then the FFN."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        width = stage.width
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = CellAttention(width, width, stage.heads[1], stage.windowed, bias=True, values_skip=False)
        self.mlp = Mlp(width, 4 * width)
        self.convs = conv_sequence(parallel_conv_layers(_branch(width, 4, stage.groups[1])))

    def forward(self, image: Tensor) -> Tensor:
        """(B, width, H, W) -> the same."""
        side, x = image.shape[-1], image.flatten(2).mT
        x = x + self.attn.forward_grid(self.norm1(x), side) + self.convs(image).flatten(2).mT
        return (x + self.mlp(self.norm2(x))).mT.unflatten(-1, (side, side))


def _branch(width: int, ratio: float, groups: int, **changes: object) -> BranchConfig:
    fields = {"image_size": 14, "patch_size": 1, "num_heads": 1, "mlp_ratio": ratio, "conv_path": True}
    fields |= {"embed_dim": width, "conv_ratio": ratio, "conv_channels_per_group": width // groups}
    return BranchConfig(**{**fields, **changes})  # type: ignore[arg-type]


def _vitaev2(size: str) -> tuple[nn.ModuleList, nn.Linear]:
    inputs, stages = 3, nn.ModuleList()
    for stage in SIZES[size]:
        cells = [NormalCell(stage) for _ in range(stage.depth)]
        stages.append(nn.Sequential(ReductionCell(stage, inputs), *cells))
        inputs = stage.width
    return stages, nn.Linear(inputs, 1000)


def _held(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes_stage_by_stage(size: str) -> None:
    params, by_stage, giga_macs = PUBLISHED[size]
    with torch.device("meta"):
        stages, head = _vitaev2(size)
        image = torch.empty(1, 3, 224, 224)
    assert [round(_held(stage) / 1e6, 2) for stage in stages] == list(by_stage)
    assert _held(stages) + _held(head) == params
    sides = []
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        for stage in stages.eval():
            image = stage(image)
            sides.append(image.shape[-1])
        head(image.flatten(2).mean(dim=-1))
    assert sides == [56, 28, 14, 7]
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga_macs, rel=1e-3)


@pytest.mark.parametrize("image_side", [192, 224, 256, 320])
def test_reductions_divide_the_side_exactly(image_side: int) -> None:
    side, inputs = image_side, 3
    for stage in SIZES["S"]:
        layers = pyramid_layers(inputs, 2, stage.kernel, stage.stride, stage.dilations)
        with torch.device("meta"):
            out = PyramidReduction(layers)(torch.empty(1, inputs, side, side))
        side, inputs = side // stage.stride, out.shape[1]
        assert out.shape[-2:] == (side, side)


@pytest.mark.parametrize("seed", range(24))
def test_closed_forms_are_what_modules_hold(seed: int) -> None:
    rng = random.Random(seed)
    group, g, r = rng.choice([1, 2, 4, 6]), rng.choice([1, 2, 8, 16]), rng.choice([1, 2, 4])
    c, n, e, t = group * g, rng.randint(1, 4), g * rng.randint(1, 3), g * rng.randint(1, 3)
    k, stride, windowed = rng.choice([(7, 4, True), (3, 2, True), (3, 2, False)])
    branch = _branch(c, r, g)
    convs = 9 * c * c * (2 * r + 1) // g + (3 * r + 4) * c
    with torch.device("meta"):
        path = ParallelConv(branch)
        cell = Block(c, 1, branch.mlp_dim)
        cell.conv_path = ParallelConv(branch)
        stage = Stage(e, t, 1, (1, 1), (g, g), stride, k, tuple(range(1, n + 1)), windowed)
        reduction = ReductionCell(stage, c)
    counted = parallel_conv_cost(parallel_conv_layers(branch), branch.num_patches)
    assert convs == _held(path) == counted.params
    assert counted.macs == branch.num_patches * 9 * c * c * (2 * r + 1) // g
    assert convs + 4 * c * c + 4 * c + 2 * r * c * c + (r + 1) * c + 4 * c == _held(cell)
    pcm = (9 * c * e // g + 3 * e) + (9 * e * e // g + 3 * e) + (9 * e * t // g + t)
    attention = 2 * n * e + 3 * t * n * e + (3 * t if windowed else 0) + t * t + t
    assert n * (k * k * c * e + e) + pcm + attention + 2 * t + 2 * (t * t + t) == _held(reduction)


def _macs_of_cell(stage: Stage) -> int:
    with torch.device("meta"):
        cell, image = NormalCell(stage).eval(), torch.empty(1, stage.width, 14, 14)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        cell(image)
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize(("windowed", "keys"), [(True, 49), (False, 196)])
def test_multiply_adds_of_a_normal_cell(windowed: bool, keys: int) -> None:
    c, n, g, r = 32, 196, 8, 4
    stage = Stage(8, c, 1, (1, 2), (8, g), windowed=windowed)
    expected = n * (4 + 2 * r) * c * c + 2 * n * keys * c + n * 9 * c * c * (2 * r + 1) // g
    assert _macs_of_cell(stage) == expected


# Convolutions in every block of a published network, by groups of channels: parameters, and multiply-adds in G, added.
IN_EVERY_BLOCK = {
    ("crossvit_tiny_240", 16): (2_420_928, 0.495),
    ("crossvit_tiny_240", 32): (1_231_200, 0.247),
    ("crossvit_9_240", 64): (663_936, 0.133),
    ("crossvit_15_240", 32): (4_654_656, 0.941),
    ("crossvit_18_240", 16): (14_931_168, 3.025),
    ("crossvit_small_240", 64): (2_462_400, 0.495),
}


@pytest.mark.parametrize(("preset", "groups"), IN_EVERY_BLOCK)
def test_what_convolutions_add_to_the_published_networks(preset: str, groups: int) -> None:
    plain = PRESETS[preset]
    branches = tuple(
        replace(b, conv_path=True, conv_ratio=b.mlp_ratio, conv_channels_per_group=b.embed_dim // groups)
        for b in plain.branches
    )
    before, after = count_cost(plain), count_cost(plain.replace(branches=branches))
    params, giga_macs = IN_EVERY_BLOCK[preset, groups]
    assert after.params - before.params == params
    assert round((after.macs - before.macs) / 1e9, 3) == giga_macs
