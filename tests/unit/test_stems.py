"""The three-convolution stem: the paper's at its two patch sizes, a grid of whole patches at all others."""

from __future__ import annotations

import pytest
import torch

from crossvit_core.config import BranchConfig
from crossvit_core.conv_stem import conv_stem_layers
from crossvit_core.stems import STEMS


def _geometry(patch_size: int) -> list[tuple[int, int, int]]:
    return [(layer.kernel, layer.stride, layer.padding) for layer in conv_stem_layers(patch_size, 3, 64)]


def test_the_papers_two_stems() -> None:
    assert _geometry(12) == [(7, 4, 3), (3, 3, 0), (3, 1, 1)]
    assert _geometry(16) == [(7, 4, 3), (3, 2, 1), (3, 2, 1)]
    assert [(layer.inputs, layer.outputs) for layer in conv_stem_layers(16, 3, 64)] == [(3, 16), (16, 32), (32, 64)]


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("patch", [1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24, 27, 32, 48, 64])
def test_one_token_per_patch(stem: str, patch: int) -> None:
    branch = BranchConfig(image_size=(2 * patch, 3 * patch), patch_size=patch, embed_dim=8, num_heads=1, stem=stem)
    tokens = STEMS[stem](branch, 2)(torch.zeros(1, 2, *branch.size))
    assert tokens.shape == (1, branch.num_patches, 8)


@pytest.mark.parametrize("patch", [4, 6, 12, 16, 18, 24])
def test_every_pixel_can_reach_its_token(patch: int) -> None:
    """Strides never outgrow kernels: a change of any pixel moves some token."""
    branch = BranchConfig(image_size=2 * patch, patch_size=patch, embed_dim=8, num_heads=1, stem="conv")
    stem = STEMS["conv"](branch, 1)
    for parameter in stem.parameters():
        parameter.data.uniform_(0.1, 1.0)  # positive, so that no ReLU hides a pixel
    image = torch.rand(1, 1, *branch.size, requires_grad=True)
    stem(image).sum().backward()
    assert image.grad is not None and (image.grad > 0).all()
