"""From pixels to patch tokens: the stems of ViT (linear), of the † models (three convolutions), of ViTAEv2."""

from __future__ import annotations

from torch import Tensor, nn

from crossvit_core import cost
from crossvit_core.config import BranchConfig
from crossvit_core.conv_stem import conv_stem_layers, largest_map_bytes
from crossvit_core.reduction_stem import ReductionStem


class LinearStem(nn.Module):
    """Every patch of pixels is mapped by one matrix (paper section 3.1)."""

    cost = staticmethod(cost.linear_stem_cost)

    def __init__(self, branch: BranchConfig, in_channels: int) -> None:
        super().__init__()
        patch = branch.patch_size
        self.proj = nn.Conv2d(in_channels, branch.embed_dim, kernel_size=patch, stride=patch)

    def inside_bytes(self, images: Tensor) -> int:
        """Of the largest float32 map between input and output of an image: there is none."""
        return 0

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, rows * columns, embed_dim)."""
        return _as_tokens(self.proj(images))


class ConvStem(nn.Module):
    """Three convolutions with ReLU between them instead of one matrix (paper section 4.1, the † models)."""

    cost = staticmethod(cost.conv_stem_cost)

    def __init__(self, branch: BranchConfig, in_channels: int) -> None:
        super().__init__()
        layers = conv_stem_layers(branch.patch_size, in_channels, branch.embed_dim)
        self._inside = layers[:2]
        first, second, third = (nn.Conv2d(*layer) for layer in layers)
        self.proj = nn.Sequential(first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True), third)

    def inside_bytes(self, images: Tensor) -> int:
        """Of the largest float32 map between input and output of an image."""
        return largest_map_bytes(self._inside, images)

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, rows * columns, embed_dim)."""
        return _as_tokens(self.proj(images))


def _as_tokens(grid: Tensor) -> Tensor:
    """(B, C, rows, columns) -> (B, rows * columns, C)."""
    return grid.flatten(2).transpose(1, 2)


STEMS: dict[str, type[LinearStem] | type[ConvStem] | type[ReductionStem]] = {
    "linear": LinearStem,
    "conv": ConvStem,
    "reduction": ReductionStem,
}
