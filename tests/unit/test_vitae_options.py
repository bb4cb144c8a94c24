"""ViTAEv2's parts as options of a branch: what each computes, what it leaves alone, what it refuses."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossvit_core.blocks import Attention, Block, merge_heads, split_heads
from crossvit_core.config import FUSION_NAMES, ArchConfig, BranchConfig, EncoderConfig, HeadConfig
from crossvit_core.conv_stem import conv_stem_layers
from crossvit_core.cost import count_cost
from crossvit_core.fusion import reference_form
from crossvit_core.model import CrossViT, build_model
from crossvit_core.parallel_conv import ParallelConv
from crossvit_core.reduction_stem import PyramidReduction, ReductionStem
from crossvit_core.stems import ConvStem
from crossvit_core.vitae_cost import padded_side, pyramid_layers, window_on
from crossvit_core.window_attention import WindowAttention, join_windows, split_windows


def branch_of(**changes: Any) -> BranchConfig:
    fields = {"image_size": 12, "patch_size": 2, "embed_dim": 16, "num_heads": 2, "mlp_ratio": 2, "conv_ratio": 2}
    return BranchConfig(**{**fields, **changes})


def arch_of(fusion: str = "cross_attention", windows: tuple[int, ...] = (), **changes: Any) -> ArchConfig:
    """Two branches, 6 x 6 and 3 x 3 patches, two encoders."""
    branches = (branch_of(**changes), branch_of(patch_size=4, embed_dim=32, **changes))
    encoders = (
        EncoderConfig(depths=(2, 1), fusion=fusion, windows=windows),
        EncoderConfig(depths=(1, 2), fusion=fusion),
    )
    return ArchConfig(image_size=12, in_channels=1, num_classes=5, branches=branches, encoders=encoders)


def lively(module: nn.Module, seed: int = 0) -> Any:
    """In double precision and evaluation mode, parameters and statistics far from their start."""
    generator = torch.Generator().manual_seed(seed)
    module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for name, buffer in module.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand(buffer.shape, generator=generator, dtype=torch.float64) + name.endswith("var"))
    return module


def images_of(arch: ArchConfig, batch: int = 3) -> Tensor:
    shape = (batch, arch.in_channels, *arch.size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def tokens_of(branch: BranchConfig, batch: int = 2) -> Tensor:
    shape = (batch, branch.num_tokens, branch.embed_dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


# Reduction stem (PRM) -------------------------------------------------------------------------------------------------


def test_a_pyramid_of_one_plain_dilation_is_a_convolution_with_gelu() -> None:
    (layer,) = pyramid_layers(3, 8, 7, 4, (1,))
    assert (layer.kernel, layer.stride, layer.padding, layer.dilation) == (7, 4, 2, 1)
    pyramid = PyramidReduction([layer])
    conv = nn.Conv2d(3, 8, 7, stride=4, padding=2)
    conv.load_state_dict(pyramid.convs[0].state_dict())
    image = torch.randn(2, 3, 24, 32)
    assert torch.equal(pyramid(image), F.gelu(conv(image)))


def test_a_pyramid_keeps_its_dilations_in_order() -> None:
    pyramid = PyramidReduction(pyramid_layers(1, 2, 3, 2, (1, 3)))
    image = torch.randn(1, 1, 8, 8)
    for number, part in enumerate(pyramid(image).chunk(2, dim=1)):
        assert torch.equal(part, F.gelu(pyramid.convs[number](image)))
    assert [conv.dilation for conv in pyramid.convs] == [(1, 1), (3, 3)]


def test_the_reduction_stem_is_the_conv_stem_with_another_first_layer() -> None:
    branch = branch_of(image_size=48, patch_size=12, embed_dim=32, stem="reduction", stem_dilations=(1, 2))
    ours, theirs = ReductionStem(branch, 3), ConvStem(branch, 3)
    first, second, third = conv_stem_layers(12, 3, 32)
    assert [conv.out_channels for conv in ours.pyramid.convs] == [first.outputs // 2] * 2
    for own, published, layer in ((ours.proj[0], theirs.proj[2], second), (ours.proj[2], theirs.proj[4], third)):
        assert own.weight.shape == published.weight.shape == (layer.outputs, layer.inputs, layer.kernel, layer.kernel)
        assert (own.stride, own.padding) == (published.stride, published.padding)


# Parallel convolutions (PCM) ------------------------------------------------------------------------------------------


def test_the_class_token_goes_past_the_convolutions() -> None:
    branch = branch_of(conv_path=True)
    path, x = lively(ParallelConv(branch)), tokens_of(branch)
    out = path(x)
    assert (out[:, 0] == 0).all() and (out[:, 1:] != 0).any()
    moved = x.clone()
    moved[:, 0] += 1
    assert torch.equal(path(moved), out)


@pytest.mark.parametrize("fusion", ["none", "cross_attention", "pairwise"])
def test_convolutions_that_start_at_zero_change_no_logit(fusion: str) -> None:
    arch = arch_of(fusion, conv_path=True, conv_init="zero")
    plain = build_model(arch_of(fusion)).eval()
    model = build_model(arch).eval()
    state = plain.state_dict()
    assert not model.load_state_dict(state, strict=False).unexpected_keys
    images = images_of(arch).float()
    assert torch.equal(model(images), plain(images))
    with torch.inference_mode():
        assert torch.equal(model(images), plain(images))


@pytest.mark.parametrize("depth", [2, 3])
def test_convolutions_reach_as_far_as_they_are_deep(depth: int) -> None:
    branch = branch_of(image_size=(22, 26), conv_path=True, conv_depth=depth)
    path, x = lively(ParallelConv(branch)), tokens_of(branch).requires_grad_()
    rows, columns = branch.grid
    out = path(x)[:, 1:].unflatten(1, branch.grid)[:, rows // 2, columns // 2]
    (gradient,) = torch.autograd.grad(out.sum(), x)
    reached = gradient[:, 1:].abs().sum(dim=(0, 2)).unflatten(0, branch.grid) > 0
    expected = torch.zeros(rows, columns, dtype=torch.bool)
    expected[rows // 2 - depth : rows // 2 + depth + 1, columns // 2 - depth : columns // 2 + depth + 1] = True
    assert torch.equal(reached, expected)


def test_tokens_are_rows_of_the_grid_one_after_another() -> None:
    branch = branch_of(image_size=(6, 8), embed_dim=4, conv_path=True)
    path, x = lively(ParallelConv(branch)), tokens_of(branch)
    image = torch.stack([x[:, 1 + r * 4 : 5 + r * 4].mT for r in range(3)], dim=2)  # (B, C, rows, columns)
    torch.testing.assert_close(path(x)[:, 1:], path.convs(image).flatten(2).mT, atol=1e-12, rtol=1e-12)


def test_a_block_adds_attention_and_convolutions_of_the_same_tokens() -> None:
    branch = branch_of(conv_path=True)
    block = Block(16, 2, 32)
    block.conv_path = ParallelConv(branch)
    lively(block)
    x = tokens_of(branch)
    mixed = x + block.attn(block.norm1(x)) + block.conv_path(x)
    torch.testing.assert_close(block(x), mixed + block.mlp(block.norm2(mixed)), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(block(x, class_only=True), block(x)[:, :1], atol=1e-12, rtol=1e-12)


# Windows --------------------------------------------------------------------------------------------------------------


def _under_a_mask(attn: Attention, x: Tensor, allowed: Tensor) -> Tensor:
    q, k, v = (split_heads(part, attn.heads) for part in attn.qkv(x).chunk(3, dim=-1))
    return attn.proj(merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)))


def _window_of_each(places: tuple[int, int], window: tuple[int, int]) -> Tensor:
    rows, columns = torch.arange(places[0]) // window[0], torch.arange(places[1]) // window[1]
    return (rows[:, None] * places[1] + columns).flatten()


def _allowed(places: tuple[int, int], window: tuple[int, int]) -> Tensor:
    """Block-diagonal, with the class token's row and column."""
    of = _window_of_each(places, window)
    allowed = torch.ones(1 + len(of), 1 + len(of), dtype=torch.bool)
    allowed[1:, 1:] = of[:, None] == of
    return allowed


@pytest.mark.parametrize(("grid", "side"), [((6, 6), 2), ((6, 6), 3), ((4, 8), 4), ((2, 6), 3), ((3, 3), 1)])
def test_windows_are_full_attention_under_a_block_diagonal_mask(grid: tuple[int, int], side: int) -> None:
    attn = lively(WindowAttention(16, 2, grid, side))
    x = torch.randn(2, 1 + grid[0] * grid[1], 16, dtype=torch.float64)
    window = window_on(grid, side)
    assert window == (min(side, grid[0]), min(side, grid[1]))
    torch.testing.assert_close(attn(x), _under_a_mask(attn, x, _allowed(grid, window)), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("side", [0, 6, 7])
def test_a_window_that_holds_the_grid_is_full_attention(side: int) -> None:
    attn, x = lively(WindowAttention(16, 2, (6, 5), side)), torch.randn(2, 31, 16, dtype=torch.float64)
    assert torch.equal(attn(x), Attention.forward(attn, x))


@pytest.mark.parametrize(("grid", "side"), [((5, 7), 3), ((4, 5), 4), ((3, 7), 2)])
def test_a_grid_is_padded_with_zeros_on_both_sides(grid: tuple[int, int], side: int) -> None:
    """As the released code pads: zeros that are attended to, of which the patches' rows alone are kept."""
    attn = lively(WindowAttention(16, 2, grid, side))
    x = torch.randn(2, 1 + grid[0] * grid[1], 16, dtype=torch.float64)
    window = window_on(grid, side)
    assert window is not None
    places = (padded_side(grid[0], window[0]), padded_side(grid[1], window[1]))
    top, left = (places[0] - grid[0]) // 2, (places[1] - grid[1]) // 2
    inner = torch.zeros(*places, dtype=torch.bool)
    inner[top : top + grid[0], left : left + grid[1]] = True
    kept = torch.cat((torch.ones(1, dtype=torch.bool), inner.flatten()))
    padded = torch.zeros(2, len(kept), 16, dtype=torch.float64)
    padded[:, kept] = x
    allowed = _allowed(places, window)
    allowed[0] = kept  # the class token sees no padding
    expected = _under_a_mask(attn, padded, allowed)[:, kept]
    torch.testing.assert_close(attn(x), expected, atol=1e-12, rtol=1e-12)


def test_windows_come_apart_and_together() -> None:
    x = torch.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    windows = split_windows(x, (2, 3))
    assert windows.shape == (2 * 4, 6, 3)
    assert torch.equal(windows[1], x[0, :2, 3:].reshape(6, 3))
    assert torch.equal(join_windows(windows, (2, 3), (4, 6)), x)


def test_the_class_token_attends_to_every_window_and_every_window_to_it() -> None:
    attn, x = lively(WindowAttention(16, 2, (4, 4), 2)), torch.randn(1, 17, 16, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda t: attn(t).sum(dim=-1)[0], x)[:, 0].abs().sum(dim=-1)
    assert torch.equal(jacobian > 0, _allowed((4, 4), (2, 2)))
    row = attn(x, x[:, :1])
    torch.testing.assert_close(row, attn(x)[:, :1], atol=1e-12, rtol=1e-12)


# The network ----------------------------------------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {
    "reduction": {"stem": "reduction", "stem_dilations": (1, 2)},
    "convolutions": {"conv_path": True},
    "windows": {"windows": (4, 2)},
    "all": {"stem": "reduction", "conv_path": True, "conv_depth": 2, "windows": (4, 2)},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("fusion", ["none", "all_attention", "class_token", "pairwise", "cross_attention"])
def test_the_lean_and_the_short_forms_are_the_written_one(name: str, fusion: str) -> None:
    arch = arch_of(fusion, **OPTIONS[name])
    model, images = lively(build_model(arch)), images_of(arch)
    with reference_form(model):
        written = model(images)
    torch.testing.assert_close(model(images), written, atol=1e-9, rtol=1e-9)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), written, atol=1e-9, rtol=1e-9)


def test_timm_is_told_of_every_convolution_that_reads_the_image() -> None:
    model = build_model(arch_of(**OPTIONS["reduction"]))
    convs = [model.get_submodule(name) for name in model.pretrained_cfg["first_conv"]]
    reading = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.in_channels == model.arch.in_channels]
    assert convs == reading and len(convs) == 4


def test_features_and_a_new_image_size_come_with_the_options() -> None:
    arch = arch_of("pairwise", **OPTIONS["all"])
    model: CrossViT = lively(build_model(arch))
    model.set_input_size((24, 12))
    again = lively(build_model(model.arch))
    again.load_state_dict(model.state_dict())
    images = images_of(model.arch)
    torch.testing.assert_close(model(images), again(images), atol=1e-12, rtol=1e-12)
    features, maps = model.forward_intermediates(images)
    assert [tuple(part.shape[1:]) for part in maps] == [(16, 12, 6)] * 2 + [(32, 6, 3)] * 2
    torch.testing.assert_close(model.forward_head(features), model(images), atol=1e-9, rtol=1e-9)


# What a description may say -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stem_dilations": (2, 1)}, "use [1, 2]"),
        ({"stem_dilations": ()}, "use [1, 2, 3, 4]"),
        ({"stem_dilations": (0, 2)}, "use [1, 2]"),
        ({"stem": "reduction", "patch_size": 5, "image_size": 10}, "the reduction stem needs a patch_size of 2^a*3^b"),
        ({"conv_path": "on"}, "conv_path must be true or false, got 'on'"),
        ({"conv_path": True, "conv_channels_per_group": 5}, "does not divide embed_dim 16; use 4"),
        ({"conv_path": True, "conv_channels_per_group": 4, "conv_ratio": 0.3125}, "use 0.25"),
        ({"conv_ratio": 0}, "conv_ratio must be a number above 0, got 0.0"),
        ({"conv_depth": 4}, "conv_depth must be 2 or 3, got 4; use 3"),
        ({"conv_init": "zeros"}, "did you mean 'zero'?"),
    ],
)
def test_what_a_branch_cannot_be(changes: dict[str, Any], message: str) -> None:
    arch = ArchConfig(
        image_size=12, branches=(branch_of(**changes),), encoders=(EncoderConfig(depths=(1,), fusion="none"),)
    )
    assert [problem for problem in arch.violations() if message in problem], arch.violations()


@pytest.mark.parametrize(
    ("windows", "message"),
    [((4,), "has 1 entries for 2 branches"), ((4, -1), "windows.1 must be an integer of at least 0, got -1; use 0")],
)
def test_what_windows_cannot_be(windows: tuple[int, ...], message: str) -> None:
    assert [problem for problem in arch_of(windows=windows).violations() if message in problem]


def test_windows_break_residual_attention() -> None:
    chained = arch_of(windows=(4, 0)).to_dict() | {"residual_attention": {"where": [0]}}
    (problem,) = ArchConfig.from_dict(chained).violations()
    assert "branch 0, which has windows in encoder 0" in problem
    chained["residual_attention"] = {"where": [1]}
    assert not ArchConfig.from_dict(chained).violations()


def test_keys_fold_what_cannot_matter() -> None:
    plain = arch_of()
    assert arch_of(stem_dilations=(1, 2)).key() == arch_of(conv_depth=2, conv_init="zero").key() == plain.key()
    assert (
        arch_of(windows=(6, 3)).key() == arch_of(windows=(0, 0)).key() == arch_of(windows=(9, 9)).key() == plain.key()
    )
    assert arch_of(windows=(0, 0)) == plain
    different = [arch_of(**OPTIONS[name]).key() for name in OPTIONS] + [
        arch_of(conv_path=True, conv_depth=2).key(),
        arch_of(conv_path=True, conv_channels_per_group=2).key(),
        arch_of(conv_path=True, conv_init="zero").key(),  # another start is another training
        arch_of(windows=(2, 2)).key(),
    ]
    assert len({plain.key(), *different}) == 1 + len(different)


@pytest.mark.parametrize("fusion", FUSION_NAMES)
@pytest.mark.parametrize("depths", [((1, 1), (1, 1)), ((2, 1), (0, 3)), ((1, 2), (1, 0)), ((0, 2), (2, 0))])
@pytest.mark.parametrize("head", [HeadConfig(), HeadConfig(kind="exshortcut", taps=((0, 0),), init="normal")])
def test_no_convolution_is_built_that_nothing_reads(
    fusion: str, depths: tuple[tuple[int, int], ...], head: HeadConfig
) -> None:
    """Behind the last block of a branch nobody may read its patches; what is built learns."""
    arch = arch_of(fusion, conv_path=True)
    encoders = tuple(EncoderConfig(depths=each, fusion=fusion) for each in depths)
    arch = arch.replace(encoders=encoders, head=head)
    model = lively(build_model(arch)).train()
    model(torch.randn(3, 1, 12, 12, dtype=torch.float64)).square().sum().backward()
    convolutions = {name: p for name, p in model.named_parameters() if ".conv_path." in name}
    unmoved = [name for name, p in convolutions.items() if p.grad is None or not p.grad.any()]
    # What comes before a BatchNorm of the batch's own statistics needs no bias; its gradient is rounding.
    assert not [name for name in unmoved if not name.endswith("bias")]
    assert sum(p.numel() for p in model.parameters()) == count_cost(arch).params


@pytest.mark.parametrize("fusion", ["none", "class_token", "pairwise"])
def test_keys_fold_what_only_unread_patches_would_have(fusion: str) -> None:
    """Convolutions and windows serve patches; those behind a branch's only block are read by fusions, if at all."""
    single = (EncoderConfig(depths=(1, 1), fusion=fusion),)
    plain = arch_of(fusion).replace(encoders=single)
    windowed = plain.replace(encoders=(dataclasses.replace(single[0], windows=(2, 2)),))
    convolved = arch_of(fusion, conv_path=True).replace(encoders=single)
    assert plain.key() == windowed.key() == convolved.key()
    assert count_cost(plain) == count_cost(windowed) == count_cost(convolved)
    images = torch.randn(2, 1, 12, 12, dtype=torch.float64)
    logits = [lively(build_model(arch))(images) for arch in (plain, windowed, convolved)]
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])
    read = [
        arch.replace(encoders=(dataclasses.replace(arch.encoders[0], fusion="cross_attention"),))
        for arch in (plain, windowed, convolved)
    ]
    assert len({arch.key() for arch in read}) == 3


def test_a_window_behind_which_nobody_reads_does_not_keep_runs_apart() -> None:
    def key(*encoders: tuple[int, int]) -> str:
        parts = [EncoderConfig(depths=(d, 1), fusion="none", windows=(side, 0)) for d, side in encoders[:-1]]
        (depth, side) = encoders[-1]
        last = EncoderConfig(depths=(depth, 1), fusion="class_token", windows=(side, 0))
        return arch_of().replace(encoders=(*parts, last)).key()

    assert key((1, 2), (1, 0)) == key((1, 2), (1, 2)) == key((1, 2), (1, 4))
    assert key((1, 2), (1, 0)) != key((1, 0), (1, 2)) == key((1, 0), (1, 0))


def test_encoders_of_one_branch_join_over_equal_windows_alone() -> None:
    def key(*encoders: tuple[int, int]) -> str:
        parts = tuple(EncoderConfig(depths=(depth,), fusion="none", windows=(side,)) for depth, side in encoders)
        return dataclasses.replace(arch_of(), branches=(branch_of(),), encoders=parts).key()

    assert key((1, 2), (2, 2)) == key((3, 2)) == key((0, 3), (3, 2))
    assert len({key((1, 2), (2, 0)), key((1, 0), (2, 2)), key((3, 0)), key((3, 2))}) == 4


def test_dictionaries_hold_the_options_and_leave_out_defaults() -> None:
    arch = arch_of(**OPTIONS["all"])
    assert ArchConfig.from_dict(arch.to_dict()) == arch
    assert arch.to_dict()["encoders"][0]["windows"] == [4, 2]
    assert arch_of(windows=(0, 0)).to_dict()["branches"][0].keys().isdisjoint({"conv_path", "stem_dilations"})
    assert "windows" not in arch_of(windows=(0, 0)).to_dict()["encoders"][0]
