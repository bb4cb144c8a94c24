"""What timm's CrossViT says of itself and gives between its blocks, ours says and gives too."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.models import group_parameters
from torch import nn

from crossvit_core.model import CrossViT, build_model
from crossvit_core.presets import PRESETS

RELEASED = tuple(name for name in PRESETS if timm.is_model(name))
DESCRIBED = (
    "num_classes",
    "input_size",
    "fixed_input_size",
    "interpolation",
    "crop_pct",
    "crop_mode",
    "mean",
    "std",
    "pool_size",
    "first_conv",
    "classifier",
)


@pytest.fixture(scope="module")
def pair() -> tuple[nn.Module, CrossViT]:
    torch.manual_seed(0)
    theirs = timm.create_model("crossvit_tiny_240", pretrained=False).eval()
    ours = build_model(PRESETS["crossvit_tiny_240"]).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize("name", RELEASED)
def test_the_description_is_timms(name: str) -> None:
    theirs = timm.get_pretrained_cfg(name).to_dict()
    with torch.device("meta"):
        ours = build_model(PRESETS[name]).pretrained_cfg
    assert {key: ours[key] for key in DESCRIBED} == {key: theirs[key] for key in DESCRIBED}


def test_attributes_are_timms(pair: tuple[Any, CrossViT]) -> None:
    theirs, ours = pair
    for name in ("num_classes", "in_chans", "num_features", "head_hidden_size", "feature_info"):
        assert getattr(ours, name) == getattr(theirs, name), name


@pytest.mark.parametrize("coarse", [True, False])
def test_groups_of_parameters_are_timms(pair: tuple[Any, CrossViT], coarse: bool) -> None:
    expected, got = (group_parameters(model, model.group_matcher(coarse), reverse=True) for model in pair)
    assert got == expected and len(set(got.values())) == 5  # stem, three encoders, the rest


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"indices": 2, "norm": True},
        {"indices": [0, 3], "stop_early": True, "output_fmt": "NLC"},
        {"indices": [-1, 2], "intermediates_only": True},
    ],
)
def test_intermediates_are_timms(pair: tuple[Any, CrossViT], options: dict[str, Any]) -> None:
    images = torch.randn(2, 3, 240, 240, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, got = (model.forward_intermediates(images, **options) for model in pair)
    if not options.get("intermediates_only"):
        (final, expected), (ours, got) = expected, got
        torch.testing.assert_close(ours, [x[:, 0] for x in final], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_without_classifier_the_output_is_timms(pair: tuple[Any, CrossViT]) -> None:
    images = torch.randn(1, 3, 240, 240)
    for model in pair:
        model.reset_classifier(0)
    with torch.inference_mode():
        expected, got = (model(images) for model in pair)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
