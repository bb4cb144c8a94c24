"""Augmentation of whole batches on their device, one gather each. Registry: ``AUGMENTATIONS``.

Random numbers come from the given generator alone, so a run is reproduced bit for bit; a CPU generator may serve images
on a GPU and then draws the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossvit_core.config import suggest


@dataclass(frozen=True)
class Augmentation:
    """``max_shift`` gives the largest shift in pixels along a side of that length; ``flip`` mirrors half the images."""

    max_shift: Callable[[int], int] | None = None
    flip: bool = False


def augment(images: Tensor, policy: str, generator: torch.Generator) -> Tensor:
    """Images (B, C, H, W) of any dtype, changed by the named policy; a new tensor, except for ``none``.

    A shift mirrors the image at its border. Raises ValueError for an unknown policy.
    """
    if policy not in AUGMENTATIONS:
        raise ValueError(f"augmentation {policy!r} is unknown; {suggest(policy, AUGMENTATIONS)}")
    spec = AUGMENTATIONS[policy]
    if spec == Augmentation():
        return images
    batch, channels, height, width = images.shape
    rows = _shifted(height, batch, spec.max_shift, generator)
    columns = _shifted(width, batch, spec.max_shift, generator)
    if spec.flip:
        mirrored = torch.rand(batch, 1, generator=generator, device=generator.device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    pixels = (rows[:, :, None] * width + columns[:, None, :]).reshape(batch, 1, height * width).to(images.device)
    return images.flatten(2).gather(2, pixels.expand(-1, channels, -1)).view_as(images)


def _shifted(side: int, batch: int, max_shift: Callable[[int], int] | None, generator: torch.Generator) -> Tensor:
    """(B, side): which row, or column, of the image each place shows."""
    places = torch.arange(side, device=generator.device).expand(batch, side)
    if max_shift is None:
        return places
    reach = max_shift(side)
    shifts = torch.randint(-reach, reach + 1, (batch, 1), generator=generator, device=generator.device)
    last = side - 1
    # Mirrored at both borders; the clamp serves sides of one pixel, which have nothing to mirror.
    return (last - (last - (places + shifts).abs()).abs()).clamp(0, last)


def mixup(
    images: Tensor, labels: Tensor, num_classes: int, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Each image mixed with another of the batch in one Beta(alpha, alpha) share (Zhang et al., 2018, eq. 1).

    Images float (B, C, H, W), labels int64 (B,). Returns the mixture and soft targets (B, num_classes); with alpha 0
    the images as they are and one-hot targets. Raises ValueError for a negative alpha.
    """
    if alpha < 0:
        raise ValueError(f"mixup alpha {alpha} is negative; use 0 for none, or for instance 0.2")
    targets = F.one_hot(labels, num_classes).to(torch.float32)
    if alpha == 0:
        return images, targets
    partners = torch.randperm(len(images), generator=generator, device=generator.device).to(images.device)
    share = _draw_beta(alpha, generator)
    return images.lerp(images[partners], 1 - share), targets.lerp(targets[partners], 1 - share)


def _draw_beta(alpha: float, generator: torch.Generator) -> float:
    # torch's Beta takes no generator; one integer of it seeds numpy's.
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    return float(np.random.default_rng(int(seed)).beta(alpha, alpha))


def normalization(mean: Sequence[float], std: Sequence[float], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Scale and offset (1, C, 1, 1) that ``normalize`` takes. Made once: a GPU is waited for when it is given numbers.

    Raises ValueError when mean and std differ in number.
    """
    if len(mean) != len(std):
        raise ValueError(f"mean has {len(mean)} channels and std {len(std)}; give one per channel")
    scale = torch.tensor([1 / (255 * s) for s in std], device=device)
    offset = torch.tensor([-m / s for m, s in zip(mean, std)], device=device)
    return scale.view(1, -1, 1, 1), offset.view(1, -1, 1, 1)


def normalize(images: Tensor, scale: Tensor, offset: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 (B, H, W, C) to ``dtype`` (B, C, H, W): pixels in [0, 1], less the mean, over the deviation, by channel.

    Raises ValueError when the channels of images and of the mean and deviation differ in number.
    """
    channels, given = images.shape[-1], scale.shape[1]
    if given != channels:
        raise ValueError(f"images have {channels} channels, mean {given} and std {given}; give one per channel")
    planes = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return torch.addcmul(offset, planes, scale).to(dtype)


def _one_pixel(side: int) -> int:
    return 1


def _eighth(side: int) -> int:
    """Four pixels at 32: the usual shift on CIFAR."""
    return max(1, side // 8)


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(),
    "shift1": Augmentation(max_shift=_one_pixel),
    "shift": Augmentation(max_shift=_eighth),
    "flip": Augmentation(flip=True),
    "shift_flip": Augmentation(max_shift=_eighth, flip=True),
}
