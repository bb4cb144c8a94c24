"""Images at a branch's own size."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from crossvit_core.config import Size
from crossvit_core.lean import is_plain

_STRIP = 32  # output rows that are computed by one product; more, and most of its multiplications are by zero


def rescale(images: Tensor, size: Size) -> Tensor:
    """(B, C, H, W) -> (B, C, *size), bicubic without antialiasing, as the published networks feed their large patches.

    Matrix products where that is faster, in float32 on a processor: equal to ``F.interpolate`` within rounding.
    """
    if tuple(images.shape[-2:]) == size:
        return images
    suited = images.device.type == "cpu" and images.dtype is torch.float32 and images.is_contiguous()
    if suited and is_plain(images):
        return _by_strips(images, size)
    return F.interpolate(images, size=size, mode="bicubic", align_corners=False)


def _by_strips(images: Tensor, size: Size) -> Tensor:
    """Rows, then columns, a strip of the output at a time: each reads only the few input rows that its taps reach."""
    height, width = images.shape[-2:]
    rows = torch.cat([taps @ images[..., a:b, :] for a, b, taps in _strips(height, size[0])], dim=-2)
    return torch.cat([rows[..., a:b] @ taps.mT for a, b, taps in _strips(width, size[1])], dim=-1)


@lru_cache(maxsize=32)
def _strips(source: int, target: int) -> list[tuple[int, int, Tensor]]:
    """For each strip: the input rows [first, last) that it reads, and their taps (strip, last - first)."""
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        unit = torch.eye(source, dtype=torch.float32)[None, None]
        # torch's own taps, rounding included: its source positions are float32 too.
        taps = F.interpolate(unit, size=(target, source), mode="bicubic", align_corners=False)[0, 0]
        return [_read_by(strip) for strip in taps.split(_STRIP)]


def _read_by(strip: Tensor) -> tuple[int, int, Tensor]:
    columns = strip.any(dim=0).nonzero()
    first, last = int(columns[0]), int(columns[-1]) + 1
    return first, last, strip[:, first:last].contiguous()
