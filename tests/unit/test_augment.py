"""Augmentation of batches: what each policy does to pixels, and that the generator decides all of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from crossvit_core.augment import AUGMENTATIONS, augment, mixup, normalization, normalize


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(size: int = 64, channels: int = 3, height: int = 8, width: int = 10) -> torch.Tensor:
    return torch.rand(size, channels, height, width, generator=generator(99))


@pytest.mark.parametrize("policy", AUGMENTATIONS)
def test_generator_decides_bit_for_bit(policy: str) -> None:
    images = batch()
    first, again = (augment(images, policy, generator(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == images.shape
    assert first.dtype == images.dtype
    if policy != "none":
        assert not torch.equal(first, augment(images, policy, generator(2)))
        assert not torch.equal(first, images)


@pytest.mark.parametrize("policy", AUGMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32])
def test_pixels_are_moved_not_changed(policy: str, dtype: torch.dtype) -> None:
    images = (batch() * 255).to(dtype)
    out = augment(images, policy, generator())
    for image, changed in zip(images, out):
        known = {tuple(pixel) for pixel in image.flatten(1).T.tolist()}
        assert {tuple(pixel) for pixel in changed.flatten(1).T.tolist()} <= known


def test_none_returns_the_batch_itself() -> None:
    images = batch()
    assert augment(images, "none", generator()) is images


@pytest.mark.parametrize(("policy", "reach"), [("shift1", 1), ("shift", 4)])
def test_shift_moves_by_up_to_its_reach_and_mirrors_the_border(policy: str, reach: int) -> None:
    images = batch(400, 1, 32, 32)
    padded = torch.nn.functional.pad(images, [reach] * 4, mode="reflect")
    seen = set()
    for padded_image, out in zip(padded, augment(images, policy, generator())):
        places = [
            (top, left)
            for top in range(2 * reach + 1)
            for left in range(2 * reach + 1)
            if torch.equal(padded_image[:, top : top + 32, left : left + 32], out)
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == (2 * reach + 1) ** 2


def test_flip_mirrors_about_half_the_images() -> None:
    images = batch(400)
    out = augment(images, "flip", generator())
    mirrored = [torch.equal(image.flip(2), changed) for image, changed in zip(images, out)]
    kept = [torch.equal(image, changed) for image, changed in zip(images, out)]
    assert [one != other for one, other in zip(mirrored, kept)] == [True] * 400
    assert 150 < sum(mirrored) < 250


@pytest.mark.parametrize("size", [(1, 1), (1, 8), (2, 2)])
def test_tiny_images_survive(size: tuple[int, int]) -> None:
    assert augment(batch(8, 1, *size), "shift_flip", generator()).shape == (8, 1, *size)


def test_unknown_policy_suggests() -> None:
    with pytest.raises(ValueError, match="'shift2' is unknown; did you mean 'shift"):
        augment(batch(), "shift2", generator())


def test_mixup_mixes_images_and_targets_in_one_share() -> None:
    images = torch.eye(16).view(16, 1, 4, 4)
    labels = torch.arange(16)
    mixed, targets = mixup(images, labels, 16, 0.8, generator(5))
    # Image i is the unit vector i, so a mixture spells out its own shares.
    torch.testing.assert_close(mixed.flatten(1), targets)
    torch.testing.assert_close(targets.sum(1), torch.ones(16))
    assert 0 < targets.max() <= 1
    again = mixup(images, labels, 16, 0.8, generator(5))
    assert torch.equal(mixed, again[0])
    assert torch.equal(targets, again[1])


def test_mixup_share_follows_the_beta_distribution() -> None:
    images, labels = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), torch.tensor([0, 1])
    source = generator(0)
    shares = torch.tensor([float(mixup(images, labels, 2, 2.0, source)[0][0]) for _ in range(2000)])
    # Half the draws pair each image with itself; the others show 1 - share, of variance 1 / 20 for Beta(2, 2).
    swapped = shares[shares > 0]
    assert 850 < len(swapped) < 1150
    assert float(swapped.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(swapped.var()) == pytest.approx(0.05, rel=0.15)


def test_mixup_with_alpha_0_changes_nothing() -> None:
    images, labels = batch(4), torch.tensor([2, 0, 1, 2])
    mixed, targets = mixup(images, labels, 3, 0.0, generator())
    assert mixed is images
    assert targets.argmax(1).tolist() == labels.tolist()
    with pytest.raises(ValueError, match="alpha -1"):
        mixup(images, labels, 3, -1, generator())


@pytest.mark.parametrize(("mean", "std"), [([0.5], [0.25]), ([0.1, 0.2, 0.3], [0.5, 0.25, 1.0])])
def test_normalize(mean: Sequence[float], std: Sequence[float]) -> None:
    pixels = torch.randint(0, 256, (5, 4, 6, len(mean)), dtype=torch.uint8, generator=generator())
    scaling = normalization(mean, std, "cpu")
    out = normalize(pixels, *scaling)
    expected = (pixels.double() / 255 - torch.tensor(mean).double()) / torch.tensor(std).double()
    torch.testing.assert_close(out, expected.permute(0, 3, 1, 2).float())
    assert out.is_contiguous()
    assert normalize(pixels, *scaling, torch.bfloat16).dtype == torch.bfloat16


def test_normalize_wants_one_value_per_channel() -> None:
    with pytest.raises(ValueError, match="3 channels, mean 1 and std 1"):
        normalize(torch.zeros(1, 2, 2, 3, dtype=torch.uint8), *normalization([0.5], [0.5], "cpu"))
    with pytest.raises(ValueError, match="mean has 1 channels and std 2"):
        normalization([0.5], [0.5, 0.5], "cpu")
