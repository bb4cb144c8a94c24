"""The stem of ViTAEv2's reduction cell: the image through convolutions of several dilations at once."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossvit_core.config import BranchConfig
from crossvit_core.conv_stem import ConvLayer, largest_map_bytes
from crossvit_core.vitae_cost import reduction_stem_cost, reduction_stem_layers


class PyramidReduction(nn.Module):
    """Convolutions that read one image side by side, GELU, their channels one after another (the paper's PRM).

    ``layers`` have one stride and one kernel, each its dilation, as from ``vitae_cost.pyramid_layers``; no norm.
    """

    def __init__(self, layers: Iterable[ConvLayer]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(*layer) for layer in layers)

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, sum of outputs, H / stride, W / stride)."""
        return torch.cat([F.gelu(conv(images)) for conv in self.convs], dim=1)


class ReductionStem(nn.Module):
    """The † stem with a pyramid of dilations in place of its first convolution and ReLU."""

    cost = staticmethod(reduction_stem_cost)

    def __init__(self, branch: BranchConfig, in_channels: int) -> None:
        super().__init__()
        pyramid, (second, third) = reduction_stem_layers(
            branch.patch_size, in_channels, branch.embed_dim, branch.stem_dilations
        )
        self._inside = tuple(pyramid)
        self.pyramid = PyramidReduction(pyramid)
        self.proj = nn.Sequential(nn.Conv2d(*second), nn.ReLU(inplace=True), nn.Conv2d(*third))

    def inside_bytes(self, images: Tensor) -> int:
        """Of the largest float32 map between input and output of an image; the pyramid's parts lie there twice."""
        return 2 * len(self._inside) * largest_map_bytes(self._inside[:1], images)

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, rows * columns, embed_dim)."""
        grid: Tensor = self.proj(self.pyramid(images))
        return grid.flatten(2).transpose(1, 2)
