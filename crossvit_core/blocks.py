"""Self-attention and the transformer block, which can be asked for the rows alone that someone will read.

The FFN and stochastic depth are timm's, written out: importing timm loads torchvision and torch's compiler, which
triples the time until a worker process is ready.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from crossvit_core import cost
from crossvit_core.lean import linear, need_not_be_called, rows_of
from crossvit_core.residual_attention import Link, attend

NORM_EPS = 1e-6  # the published networks'; torch's default is 1e-5


def norm_layer(width: int) -> nn.LayerNorm:
    """LayerNorm as every part of the network uses it."""
    return nn.LayerNorm(width, eps=NORM_EPS)


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training, leaves out whole samples and scales up the others."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, ...); all of x in evaluation."""
        if not self.training:
            return x
        kept = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - self.drop_prob)
        return x * kept / (1 - self.drop_prob)


class Mlp(nn.Module):
    """The FFN: Linear, exact GELU, Linear (paper section 3.1)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor, lean: bool = False) -> Tensor:
        """(B, T, width) -> (B, T, width)."""
        if lean:
            return linear(self.fc2, linear(self.fc1, x, gelu=True))
        return self.fc2(F.gelu(self.fc1(x)))


def drop_path_layer(rate: float) -> nn.Module:
    """Stochastic depth per sample; at rate 0 no module at all."""
    return DropPath(rate) if rate > 0 else nn.Identity()


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, C) -> (B, heads, T, C / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, T, d) -> (B, T, heads * d)."""
    return x.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Multi-head self-attention (ViT). The rows of ``qkv`` are ordered q, k, v, each head-major."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, queries: Tensor | None = None, lean: bool = False, link: Link | None = None) -> Any:
        """(B, T, C) -> (B, T, C), or (B, Q, C) for ``queries`` of (B, Q, C) that attend to ``x``.

        As a ``link`` of a chain it gives that and what it hands on (``crossvit_core.residual_attention``).
        """
        q, k, v = (split_heads(part, self.heads) for part in self._project(x, queries, lean))
        found, carried = attend(q, k, v, self.scale, link) if link else (F.scaled_dot_product_attention(q, k, v), None)
        merged = merge_heads(found)
        out = linear(self.proj, merged) if lean else self.proj(merged)
        return (out, carried) if link else out

    def _project(self, x: Tensor, queries: Tensor | None, lean: bool) -> tuple[Tensor, ...]:
        if queries is None:
            return (linear(self.qkv, x) if lean else self.qkv(x)).chunk(3, dim=-1)
        width = x.shape[-1]
        if not need_not_be_called(self.qkv):
            return (self.qkv(queries)[..., :width], *self.qkv(x)[..., width:].chunk(2, dim=-1))
        q = F.linear(queries, self.qkv.weight[:width], self.qkv.bias[:width])
        kv = F.linear(x, self.qkv.weight[width:], self.qkv.bias[width:])
        return (q, *kv.chunk(2, dim=-1))


class AttentionBlock(nn.Module):
    """``x + MSA(LN(x))``: self-attention without an FFN, for fusion by all-attention (Eq. 2)."""

    cost = staticmethod(cost.self_attention_cost)

    def __init__(self, width: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = norm_layer(width)
        self.attn = Attention(width, heads)
        self.drop_path = drop_path_layer(drop_path)

    def forward(self, x: Tensor, rows: Tensor | None = None, lean: bool = False) -> Tensor:
        """(B, T, C) -> (B, T, C), or only the given ``rows`` of ``x``, (B, Q, C) -> (B, Q, C).

        ``lean`` writes the outcome over ``x`` or ``rows``; see ``crossvit_core.lean``.
        """
        queries = None if rows is None else self.norm1(rows)
        change = self.drop_path(self.attn(self.norm1(x), queries, lean))
        return _add(x if rows is None else rows, change, lean)


class Block(nn.Module):
    """A transformer block of ViT (paper section 3.1): ``y = x + MSA(LN(x))``, then ``y + FFN(LN(y))``.

    ``conv_path``, if set, maps tokens to tokens beside attention (ViTAEv2): ``y = x + MSA(LN(x)) + conv_path(x)``. It
    gives the class token nothing.
    """

    cost = staticmethod(cost.block_cost)

    def __init__(self, width: int, heads: int, mlp_dim: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = norm_layer(width)
        self.attn = Attention(width, heads)
        self.drop_path1 = drop_path_layer(drop_path)
        self.norm2 = norm_layer(width)
        self.mlp = Mlp(width, mlp_dim)
        self.drop_path2 = drop_path_layer(drop_path)
        self.conv_path: nn.Module | None = None

    def forward(self, x: Tensor, class_only: bool = False, lean: bool = False, link: Link | None = None) -> Any:
        """(B, T, C) -> (B, T, C), or its first row alone, (B, 1, C), at the cost of that row.

        ``lean`` writes the outcome over ``x``; see ``crossvit_core.lean``. As a ``link`` of a chain it gives that and
        what its attention hands on.
        """
        normed = self.norm1(x)
        queries = normed[:, :1] if class_only else None
        attended, carried = self.attn(normed, queries, lean, link) if link else (self.attn(normed, queries, lean), None)
        change = self.drop_path1(attended)
        if self.conv_path is not None and not class_only:
            change = change + self.drop_path1(self.conv_path(x))
        x = _add(x[:, :1] if class_only else x, change, lean)
        # What stands in place of the FFN knows nothing of the lean form.
        by_shares = lean and type(self.mlp) is Mlp
        x = self._add_ffn(x) if by_shares else _add(x, self.drop_path2(self.mlp(self.norm2(x))), lean)
        return (x, carried) if link else x

    def _add_ffn(self, x: Tensor) -> Tensor:
        """``x + FFN(LN(x))``, written over ``x``, as many rows at a time as the caches hold with their inside."""
        # In training stochastic depth drops whole samples, which shares of rows would cut through.
        shares = (x,) if self.training else rows_of(x, self.mlp.hidden)
        for rows in shares:
            rows.add_(self.drop_path2(self.mlp(self.norm2(rows), lean=True)))
        return x


def _add(x: Tensor, change: Tensor, lean: bool) -> Tensor:
    return x.add_(change) if lean else x + change
