"""Another image size: which sides the branches get, how positions are interpolated, and what stays as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from crossvit_core.config import FUSION_NAMES, ArchConfig, ArchError, EncoderConfig
from crossvit_core.model import CrossViT, build_model
from crossvit_core.positions import grid_of_positions, resize_model, resize_positions, with_image_size
from crossvit_core.presets import PRESETS

NANO = PRESETS["crossvit_nano_16"]
DAGGER = [PRESETS[f"crossvit_18_dagger_{side}"] for side in (240, 408, 504)]


def _sides(arch: ArchConfig) -> list[tuple[int, int]]:
    return [branch.size for branch in arch.branches]


@pytest.mark.parametrize("source", DAGGER, ids=lambda arch: str(arch.size[0]))
@pytest.mark.parametrize("target", DAGGER, ids=lambda arch: str(arch.size[0]))
def test_released_sizes_come_from_each_other(source: ArchConfig, target: ArchConfig) -> None:
    assert with_image_size(source, target.size) == target


def test_sides_are_whole_patches_that_grow_or_shrink_with_the_image() -> None:
    paper = PRESETS["crossvit_9_240"]
    assert _sides(with_image_size(paper, (256, 128))) == [(264, 120), (240, 112)]
    assert _sides(with_image_size(paper, 241)) == [(252, 252), (240, 240)]
    assert _sides(with_image_size(NANO, (24, 16))) == [(24, 16), (24, 16)]
    assert not with_image_size(paper, (256, 128)).violations()


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (7, r"image_size \(7, 7\) leaves a branch .* no whole patch of 8 px; use at least \(8, 8\)"),
        ((16, 0), r"image_size \(16, 0\) is not positive; use at least \(8, 8\)"),
        (16.5, "image_size 16.5 is not a size"),
        (True, "image_size True is not a number of pixels"),
    ],
)
def test_a_size_that_cannot_be_is_refused(size: object, message: str) -> None:
    with pytest.raises(ArchError, match=message):
        with_image_size(NANO, size)  # type: ignore[arg-type]


def test_the_size_that_is_offered_can_be_had() -> None:
    wide = with_image_size(PRESETS["crossvit_9_240"], (240, 480))
    with pytest.raises(ArchError, match=r"use at least \(18, 18\)"):
        with_image_size(wide, 3)
    assert not with_image_size(wide, 18).violations()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("old", "new"), [((20, 20), (34, 34)), ((14, 14), (8, 16)), ((3, 5), (2, 9)), ((4, 4), (4, 4))]
)
def test_positions_are_interpolated_as_by_timm(old: tuple[int, int], new: tuple[int, int], dtype: torch.dtype) -> None:
    pos = torch.randn(1, 1 + old[0] * old[1], 6).to(dtype)
    expected = resample_abs_pos_embed(pos, list(new), list(old))
    got = resize_positions(pos, old, new)
    assert got.dtype == dtype and torch.equal(got, expected)
    assert torch.equal(got[:, 0], pos[:, 0])


def test_positions_of_another_grid_are_refused() -> None:
    with pytest.raises(ValueError, match=r"17 position embeddings are not those .* \(4, 5\); that has 21"):
        resize_positions(torch.zeros(1, 17, 2), (4, 5), (2, 2))


@pytest.mark.parametrize(
    ("tokens", "like", "grid"),
    [
        (17, (8, 8), (4, 4)),
        (9, (2, 4), (2, 4)),
        (33, (2, 4), (4, 8)),
        (17, (2, 4), (4, 4)),
        (4, (2, 2), None),
        (1, (2, 2), None),
    ],
)
def test_the_grid_of_as_many_tokens(tokens: int, like: tuple[int, int], grid: tuple[int, int] | None) -> None:
    assert grid_of_positions(tokens, like) == grid


def _lively(arch: ArchConfig) -> CrossViT:
    torch.manual_seed(0)
    model = build_model(arch, drop_path_rate=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def _differing(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("fusion", FUSION_NAMES)
def test_a_resized_network_is_the_one_built_for_that_size_with_the_same_weights(fusion: str) -> None:
    model = _lively(NANO.replace(encoders=(EncoderConfig(depths=(1, 1), fusion=fusion),) * 2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    resized = resize_model(model, (24, 32))
    assert _differing(before, model.state_dict()) == set() and model.arch.size == (16, 16)
    assert _differing(before, resized.state_dict()) == {"pos_embed_0", "pos_embed_1"}
    assert resized.arch == with_image_size(model.arch, (24, 32)) and resized.training
    fresh = build_model(resized.arch).eval()
    fresh.load_state_dict(resized.state_dict())
    images = torch.randn(2, 3, 24, 32)
    with torch.inference_mode():
        torch.testing.assert_close(resized.eval()(images), fresh(images))


def test_resizing_back_and_forth_between_double_sizes_keeps_smooth_positions() -> None:
    model = build_model(NANO)
    ramp = torch.linspace(-1, 1, 4).repeat(4).reshape(1, 16, 1).expand(1, 16, 16)
    with torch.no_grad():
        model.pos_embed_0[:, 1:] = ramp
    back = resize_model(resize_model(model, 32), 16)
    torch.testing.assert_close(back.pos_embed_0, model.pos_embed_0, atol=0.1, rtol=0)


def test_frozen_positions_stay_frozen() -> None:
    model = build_model(NANO)
    model.pos_embed_0.requires_grad_(False)
    model.set_input_size(24)
    assert [model.pos_embed_0.requires_grad, model.pos_embed_1.requires_grad] == [False, True]
    model(torch.randn(1, 3, 24, 24)).sum().backward()
    assert model.pos_embed_1.grad is not None


def test_what_an_optimizer_holds_stays_where_the_grid_does() -> None:
    model = build_model(NANO)
    before = model.pos_embed_0
    model.set_input_size(16)
    assert model.pos_embed_0 is before
    model.set_input_size((16, 24))
    assert model.pos_embed_0 is not before and model.pretrained_cfg["input_size"] == (3, 16, 24)


def test_a_forward_resizes_nothing_and_says_what_does() -> None:
    with pytest.raises(ValueError, match=r"make a network for this size by crossvit_core\.positions\.resize_model"):
        build_model(NANO)(torch.zeros(1, 3, 24, 24))


def test_branches_that_read_less_than_the_image_keep_their_share() -> None:
    arch = NANO.replace(branches=(NANO.branches[0], replace(NANO.branches[1], image_size=8)))
    assert _sides(with_image_size(arch, 32)) == [(32, 32), (16, 16)]
