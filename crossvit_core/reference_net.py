"""The yardstick of ``measure``: a small plain vision transformer. Change it, and stored ratios lose meaning."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from crossvit_core.config import Size
from crossvit_core.random_stream import seeded

_GRID = 4
_DIM = 64
_HEADS = 2
_BLOCKS = 2
_CLASSES = 10


def build_reference(size: Size, in_channels: int) -> nn.Module:
    """The reference network for images (B, in_channels, height, width): fixed weights, evaluation mode.

    Patches of a quarter of each side (16 tokens at sides divisible by 4), width 64, two pre-norm blocks of attention
    with two heads and an FFN of ratio 2, mean over tokens, ten logits. All but the patch embedding cost the same at
    every image size.
    """
    with seeded(0):
        return _Reference(size, in_channels).eval()


class _Reference(nn.Module):
    def __init__(self, size: Size, in_channels: int) -> None:
        super().__init__()
        patch = (max(1, size[0] // _GRID), max(1, size[1] // _GRID))
        self.embed = nn.Conv2d(in_channels, _DIM, kernel_size=patch, stride=patch)
        self.blocks = nn.Sequential(*(_Block() for _ in range(_BLOCKS)))
        self.head = nn.Linear(_DIM, _CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 10)."""
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        logits: Tensor = self.head(self.blocks(tokens).mean(dim=1))
        return logits


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(_DIM), nn.LayerNorm(_DIM)
        self.qkv, self.out = nn.Linear(_DIM, 3 * _DIM), nn.Linear(_DIM, _DIM)
        self.mlp = nn.Sequential(nn.Linear(_DIM, 2 * _DIM), nn.GELU(), nn.Linear(2 * _DIM, _DIM))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, 64) to (B, N, 64)."""
        batch, count, dim = tokens.shape
        qkv = self.qkv(self.norm_1(tokens)).view(batch, count, 3, _HEADS, dim // _HEADS)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, count, dim)
        tokens = tokens + self.out(mixed)
        return tokens + self.mlp(self.norm_2(tokens))
