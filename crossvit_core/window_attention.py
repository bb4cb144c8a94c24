"""Self-attention of patches within windows (ViTAEv2, Swin), and of a class token that sees everything."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from crossvit_core.blocks import Attention, merge_heads, split_heads
from crossvit_core.config import Size
from crossvit_core.lean import is_plain_linear, linear
from crossvit_core.residual_attention import Link
from crossvit_core.vitae_cost import padded_side, window_on, window_products_cost


def split_windows(x: Tensor, window: Size) -> Tensor:
    """(B, R, S, C) -> (B * windows, places in a window, C): windows row by row. R and S are whole windows."""
    rows, columns = window
    tiled = x.unflatten(2, (-1, columns)).unflatten(1, (-1, rows)).transpose(2, 3)
    return tiled.flatten(3, 4).flatten(0, 2)


def join_windows(x: Tensor, window: Size, places: Size) -> Tensor:
    """The inverse of ``split_windows``: (B * windows, places in a window, C) -> (B, R, S, C)."""
    counts = (places[0] // window[0], places[1] // window[1])
    tiled = x.unflatten(1, window).unflatten(0, (-1, *counts)).transpose(2, 3)
    return tiled.flatten(3, 4).flatten(1, 2)


def attend_in_windows(qkv: Tensor, window: Size, heads: int, shared: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Queries, keys and values (B, R, S, 3C) -> (B, R, S, C): every place attends to the places of its window.

    ``shared`` are a key and a value (B, heads, 1, C / heads) that every window has in addition.
    """
    places = (qkv.shape[1], qkv.shape[2])
    q, k, v = (split_heads(part, heads) for part in split_windows(qkv, window).chunk(3, dim=-1))
    if shared is not None:
        count = (places[0] // window[0]) * (places[1] // window[1])
        k, v = (torch.cat((_per_window(s, count), x), dim=2) for s, x in zip(shared, (k, v)))
    return join_windows(merge_heads(F.scaled_dot_product_attention(q, k, v)), window, places)


def _per_window(x: Tensor, count: int) -> Tensor:
    """(B, h, 1, d) -> (B * count, h, 1, d)."""
    return x.unsqueeze(1).expand(-1, count, -1, -1, -1).flatten(0, 1)


class WindowAttention(Attention):
    """``Attention`` whose patches attend to the class token and the patches of their window of ``side`` x ``side``.

    The class token attends to all tokens and is an extra key of every window; without that it would lose sight of the
    image. Windows do not shift and have no relative positions (ViTAEv2 for classification). As in the released code,
    a grid that is not whole windows is padded on both sides with zeros (of the normed tokens), which are attended to
    and cropped after. On a grid within one window this is ``Attention``.
    """

    products_cost = staticmethod(window_products_cost)

    def __init__(self, width: int, heads: int, grid: Size, side: int) -> None:
        super().__init__(width, heads)
        self.grid = grid
        self.side = side

    @property
    def pads(self) -> bool:
        """Is the grid no whole number of windows?"""
        window = window_on(self.grid, self.side)
        return window is not None and any(_padding(self.grid, window))

    def forward(self, x: Tensor, queries: Tensor | None = None, lean: bool = False, link: Link | None = None) -> Any:
        """As ``Attention``; ``queries`` are class tokens. Windows form no chains: ``link`` is for grids within one."""
        window = window_on(self.grid, self.side)
        if queries is not None or window is None:
            return super().forward(x, queries, lean, link)
        tokens, places = self._keys_of(x, window, lean)
        q, k, v = (split_heads(part, self.heads) for part in tokens.chunk(3, dim=-1))
        row = merge_heads(F.scaled_dot_product_attention(q[:, :, :1], k, v))
        patches = attend_in_windows(places, window, self.heads, (k[:, :, :1], v[:, :, :1]))
        merged = torch.cat((row, _cropped(patches, self.grid, window).flatten(1, 2)), dim=1)
        return linear(self.proj, merged) if lean else self.proj(merged)

    def _keys_of(self, x: Tensor, window: Size, lean: bool) -> tuple[Tensor, Tensor]:
        """Queries, keys and values of the tokens, (B, T, 3C), and of the padded grid, (B, R, S, 3C)."""
        padding = _padding(self.grid, window)
        if not any(padding):
            tokens = linear(self.qkv, x) if lean else self.qkv(x)
            return tokens, tokens[:, 1:].unflatten(1, self.grid)
        if not is_plain_linear(self.qkv):
            return self.qkv(x), self.qkv(F.pad(x[:, 1:].unflatten(1, self.grid), (0, 0, *padding)))
        # The map of a zero is its bias: padding what has none yet saves the product of what pads.
        mapped = F.linear(x, self.qkv.weight)
        places = F.pad(mapped[:, 1:].unflatten(1, self.grid), (0, 0, *padding))
        return mapped + self.qkv.bias, places + self.qkv.bias


def _padding(grid: Size, window: Size) -> tuple[int, int, int, int]:
    """Places to add left, right, above and below; the odd one goes right and below."""
    rows, columns = (padded_side(side, part) - side for side, part in zip(grid, window))
    return (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)


def _cropped(patches: Tensor, grid: Size, window: Size) -> Tensor:
    """(B, R, S, C) -> (B, rows, columns, C)."""
    left, _, top, _ = _padding(grid, window)
    return patches[:, top : top + grid[0], left : left + grid[1]]
