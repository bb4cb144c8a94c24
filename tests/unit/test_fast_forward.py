"""The forward pass without gradients: faster, and otherwise what it is with them."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from crossvit_core import lean
from crossvit_core.blocks import Block
from crossvit_core.config import FUSION_NAMES, ArchConfig, BranchConfig, EncoderConfig
from crossvit_core.model import CrossViT, build_model
from crossvit_core.presets import PRESETS
from crossvit_core.rescale import rescale

NANO = PRESETS["crossvit_nano_16"]


def _arch(fusion: str, **changes: object) -> ArchConfig:
    """Two encoders for images of 20 px, which both branches read at 16 px."""
    encoder = EncoderConfig(depths=(1, 2), fusion=fusion, **changes)  # type: ignore[arg-type]
    return NANO.replace(image_size=20, encoders=(encoder,) * 2)


def _model(arch: ArchConfig) -> CrossViT:
    """In evaluation mode, every parameter far from zero, so that no term can hide."""
    torch.manual_seed(0)
    model = build_model(arch).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


ARCHS = [
    *(_arch(fusion, fusion_depth=2) for fusion in FUSION_NAMES),
    _arch("cross_attention", fusion_depth=2, fusion_reading="patches"),
    _arch("cross_attention", identity_maps=True).replace(
        branches=tuple(replace(branch, embed_dim=32) for branch in NANO.branches)
    ),
    NANO.replace(image_size=20, branches=NANO.branches[:1], encoders=(EncoderConfig(depths=(2,), fusion="none"),)),
]


@pytest.mark.parametrize("without_grad", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("arch", ARCHS)
def test_without_gradients_the_logits_are_the_same(arch: ArchConfig, without_grad: type[torch.no_grad]) -> None:
    model, images = _model(arch), torch.randn(5, 3, 20, 20)
    expected = model(images).detach()
    with without_grad():
        assert lean.allowed(model, images)
        got = model(images)
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("arch", ARCHS)
def test_neither_images_nor_weights_are_overwritten(arch: ArchConfig) -> None:
    model, images = _model(arch), torch.randn(5, 3, 20, 20)
    weights, kept = copy.deepcopy(model.state_dict()), images.clone()
    with torch.inference_mode():
        first = model.forward_features(images)
        seen = [feature.clone() for feature in first]
        model(images)
    assert torch.equal(images, kept)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(first, seen))


@pytest.mark.parametrize("batch", [0, 1, 7, 9, 33])
def test_pieces_are_the_whole(batch: int) -> None:
    """Of 64 px in patches of 2, 33 images are more than one piece."""
    branches = tuple(BranchConfig(image_size=64, patch_size=p, embed_dim=32, num_heads=2) for p in (2, 8))
    model = _model(NANO.replace(image_size=64, branches=branches, encoders=(EncoderConfig(depths=(1, 0)),)))
    images = torch.randn(batch, 3, 64, 64)
    pieces = lean.pieces_of(images, model._largest_bytes())
    assert len(pieces) == (2 if batch == 33 else 1)
    assert torch.equal(torch.cat(pieces), images)
    with torch.inference_mode():
        got = model(images)
        alone = torch.cat([model(image) for image in images.split(1)]) if batch else got
    assert got.shape == (batch, 10)
    torch.testing.assert_close(got, alone, atol=1e-5, rtol=1e-5)


def test_pieces_are_equal_and_hold_an_image() -> None:
    assert [len(piece) for piece in lean.pieces_of(torch.zeros(10, 1), 2**22)] == [4, 3, 3]
    assert [len(piece) for piece in lean.pieces_of(torch.zeros(3, 1), 2**30)] == [1, 1, 1]


@pytest.mark.parametrize("stem", ["conv", "reduction"])
def test_stems_in_shares_are_the_whole(stem: str) -> None:
    branches = tuple(BranchConfig(image_size=96, patch_size=p, embed_dim=128, num_heads=2, stem=stem) for p in (6, 12))
    model = _model(NANO.replace(image_size=96, branches=branches, encoders=(EncoderConfig(depths=(0, 1)),)))
    images = torch.randn(30, 3, 96, 96)
    inside = [module.inside_bytes(images) for module in model.patch_embed]
    assert len(lean.shares_of(images, max(inside))) > 1
    expected = model(images).detach()
    with torch.inference_mode():
        torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=1e-5)


def test_shares_of_rows_are_views_and_equal() -> None:
    x = torch.zeros(8, 128, 2)
    shares = lean.rows_of(x, 3 * 2**10)
    assert [len(share) for share in shares] == [256] * 4
    for share in shares:
        share.add_(1)
    assert torch.equal(x, torch.ones_like(x))
    assert len(lean.rows_of(x[:, ::2], 3 * 2**10)) == 1


def test_stochastic_depth_without_gradients_still_drops_whole_images() -> None:
    """In training mode, with an FFN that is large enough to be computed in shares of rows."""
    block = Block(8, 2, mlp_dim=4096, drop_path=0.5)
    images = torch.randn(32, 30, 8)
    with torch.no_grad():
        block.mlp.fc2.bias.fill_(3.0)
        block.attn.proj.weight.zero_()
        change = block(images.clone(), lean=True) - images
    assert len(lean.rows_of(images, 4096)) > 1
    dropped = (change == 0).all(dim=2)
    assert torch.equal(dropped.any(dim=1), dropped.all(dim=1))
    assert 0 < dropped.all(dim=1).sum() < 32


SIZES = [((240, 240), (224, 224)), ((20, 10), (8, 12)), ((7, 5), (14, 11)), ((33, 100), (100, 33)), ((9, 9), (1, 1))]


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_rescaling_is_bicubic_interpolation(source: tuple[int, int], target: tuple[int, int]) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, *source, requires_grad=True)
    expected = F.interpolate(images, size=target, mode="bicubic", align_corners=False)
    got = rescale(images, target)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    weight = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad((got * weight).sum(), images)
    (wanted,) = torch.autograd.grad((expected * weight).sum(), images)
    torch.testing.assert_close(gradient, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rescaling_has_the_precision_of_interpolation(dtype: torch.dtype) -> None:
    """Under autocast a matrix product would be rounded to bfloat16; interpolation is not."""
    images = torch.randn(2, 3, 20, 20).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        expected = F.interpolate(images, size=(16, 16), mode="bicubic", align_corners=False)
        got = rescale(images, (16, 16))
    assert got.dtype == expected.dtype
    torch.testing.assert_close(got, expected, atol=0, rtol=0)


def test_taps_made_without_gradients_serve_with_them() -> None:
    images = torch.randn(1, 3, 19, 19)
    with torch.inference_mode():
        expected = rescale(images, (17, 17))
    images.requires_grad_()
    got = rescale(images, (17, 17))
    got.sum().backward()
    assert images.grad is not None
    torch.testing.assert_close(got.detach(), expected.clone(), atol=1e-6, rtol=0)


class _Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("tokens", "width"), [(600, 256), (5, 16)])
def test_a_lean_linear_layer_is_the_layer(tokens: int, width: int, dtype: torch.dtype, gelu: bool) -> None:
    """Both large enough for oneDNN's product and not; a layer of another class is called."""
    torch.manual_seed(0)
    x = torch.randn(2, tokens, width, dtype=dtype)
    for layer in (nn.Linear(width, 4 * width, dtype=dtype), _Doubled(width, 4 * width, dtype=dtype)):
        with torch.no_grad():
            expected = F.gelu(layer(x)) if gelu else layer(x)
            torch.testing.assert_close(lean.linear(layer, x, gelu=gelu), expected, atol=1e-5, rtol=1e-5)


def test_what_a_hook_keeps_is_not_overwritten() -> None:
    model, images = _model(NANO), torch.randn(2, 3, 16, 16)
    kept: list[Tensor] = []
    hook = model.blocks[0].register_forward_hook(lambda module, args, output: kept.extend(output))
    expected = [tokens.detach() for tokens in (model(images), kept.copy())[1]]
    kept.clear()
    with torch.inference_mode():
        model(images)
    torch.testing.assert_close(kept, expected, atol=1e-5, rtol=1e-5)
    hook.remove()
    with torch.inference_mode():
        assert lean.allowed(model, images)


def test_torchs_counter_sees_every_product() -> None:
    model, images = _model(PRESETS["crossvit_tiny_32"]), torch.randn(2, 3, 32, 32)
    with FlopCounterMode(display=False) as with_gradients:
        model(images)
    with torch.inference_mode(), FlopCounterMode(display=False) as without:
        model(images)
    assert without.get_total_flops() == with_gradients.get_total_flops() > 0


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch maps its attention one by one, and says so
def test_maps_over_weights_without_gradients() -> None:
    """torch.func stacks networks; what it maps over cannot be written into."""
    model, images = _model(NANO), torch.randn(2, 3, 16, 16)
    stacked = {name: torch.stack((p, 0.5 * p)) for name, p in model.state_dict().items()}
    with torch.no_grad():
        both = torch.func.vmap(lambda weights: torch.func.functional_call(model, weights, (images,)))(stacked)
        torch.testing.assert_close(both[0], model(images), atol=1e-5, rtol=1e-5)


def test_with_gradients_nothing_is_overwritten() -> None:
    """Frozen weights, so that only the images ask for gradients: the tensors that they make must stay."""
    model = _model(_arch("cross_attention")).requires_grad_(False).double()
    images = torch.randn(1, 3, 20, 20, dtype=torch.float64, requires_grad=True)
    direction = torch.randn_like(images)
    (gradient,) = torch.autograd.grad(model(images).sum(), images)
    with torch.no_grad():
        step = 1e-5 * direction
        slope = (model(images + step).sum() - model(images - step).sum()) / 2e-5
    torch.testing.assert_close((gradient * direction).sum(), slope, atol=1e-6, rtol=1e-6)
