"""Geometry of the † stem: which three convolutions turn patches of a given size into tokens. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class ConvLayer(NamedTuple):
    """One square convolution with bias; the fields stand in the order of ``torch.nn.Conv2d``."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    padding: int
    dilation: int = 1
    groups: int = 1


def conv_stem_layers(patch_size: int, in_channels: int, width: int) -> tuple[ConvLayer, ...]:
    """The † stem of the paper for any patch of 2^a*3^b pixels: three convolutions of widths C//4, C//2 and C.

    The first has the largest stride of 4, 3, 2, 1 that divides the patch; the other two share the rest as evenly as
    they can, larger stride first. This gives the published stems at 12 (4, 3, 1) and 16 (4, 2, 2). Every convolution
    divides a side that its stride divides exactly.
    """
    first = next(stride for stride in (4, 3, 2, 1) if patch_size % stride == 0)
    rest = patch_size // first
    second = next(stride for stride in range(1, rest + 1) if rest % stride == 0 and stride * stride >= rest)
    widths = (width // 4, width // 2, width)
    return (
        ConvLayer(in_channels, widths[0], 7, first, 3),
        ConvLayer(widths[0], widths[1], *_kernel_and_padding(second)),
        ConvLayer(widths[1], widths[2], *_kernel_and_padding(rest // second)),
    )


def largest_map_bytes(layers: Iterable[ConvLayer], images: Any) -> int:
    """Of one image's largest map in float32, behind any of ``layers``, the first of which reads ``images``."""
    area, largest = images.shape[-2] * images.shape[-1], 0
    for layer in layers:
        area //= layer.stride**2
        largest = max(largest, layer.outputs * area)
    return 4 * largest


def _kernel_and_padding(stride: int) -> tuple[int, int, int]:
    """Kernel, stride and padding; the kernel is odd so that it has a centre."""
    if stride == 1:
        return (3, 1, 1)
    return (stride, stride, 0) if stride % 2 else (stride + 1, stride, stride // 2)
