"""Attention from one query: the heart of CrossViT's fusion, without keys and values.

One class token attends to itself and to the patches of another branch. With one query per head, the key matrix can be
applied to the query and the value matrix to the weighted sum of tokens, instead of both to every token: exactly the
same function for 4C^2 + 2VHC multiply-adds instead of (2V + 2)C^2 + 2VC, V tokens of width C, H heads. Softmax cancels
the key bias; the weights sum to one, so the value bias is added once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from crossvit_core.blocks import drop_path_layer, merge_heads, norm_layer, split_heads
from crossvit_core.lean import need_not_be_called
from crossvit_core.residual_attention import Link, mix


class SingleQueryAttention(nn.Module):
    """Projections of the cross-attention (Eq. 6), named as in the published weights.

    ``wk.bias`` has no effect on the output, and asks for no gradient; it is kept for those weights.
    (FullyShardedDataParallel takes such a module with ``use_orig_params=True``.)
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.wq = nn.Linear(width, width)
        self.wk = nn.Linear(width, width)
        self.wv = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        # DistributedDataParallel waits for the gradient of every parameter that asks for one, and here there is none.
        self.wk.bias.requires_grad_(False)

    def freeze_logits(self) -> None:
        """For a query that is always alone: ``wq`` and ``wk`` have no effect either, and ask for no gradient."""
        self.wq.requires_grad_(False)
        self.wk.requires_grad_(False)

    def forward(self, query: Tensor, others: Tensor, link: Link | None = None) -> Any:
        """What ``query`` (B, 1, C) finds in itself and in ``others`` (B, n, C), (B, 1, C).

        As a ``link`` of a chain it gives that and its logits. They lack the key bias, which is the same for every
        key, and in every mixture of logits again: the softmax cancels it there too.
        """
        if not self._may_absorb():
            return direct_attention(self, torch.cat((query, others), dim=1), link)
        lifted = self._lift(self.wq(query))
        logits = torch.cat((lifted @ query.mT, lifted @ others.mT), dim=-1)  # (B, H, 1 + n)
        logits, weights = _weigh(logits, link)
        gathered = weights[..., :1] * query + weights[..., 1:] @ others  # (B, H, C)
        found = self.proj(self._apply_values(gathered))
        return (found, (logits,)) if link else found

    def among(self, query: Tensor, tokens: Tensor, link: Link | None = None) -> Any:
        """The same for ``query`` (B, 1, C) that is row 0 of ``tokens`` (B, 1 + n, C) already."""
        if not self._may_absorb():
            return direct_attention(self, tokens, link)
        logits, weights = _weigh(self._lift(self.wq(query)) @ tokens.mT, link)
        found = self.proj(self._apply_values(weights @ tokens))
        return (found, (logits,)) if link else found

    def of_itself(self, query: Tensor) -> Tensor:
        """``forward`` without others: the softmax of one logit is one, so ``wq`` and ``wk`` do not matter."""
        return self.proj(self.wv(query))

    def _may_absorb(self) -> bool:
        """Are keys and values what their weights say? Otherwise they must be made."""
        return need_not_be_called(self.wk) and need_not_be_called(self.wv)

    def _lift(self, q: Tensor) -> Tensor:
        """(B, 1, C) queries -> (B, H, C): per head ``W_k^T q / sqrt(d)``, to be multiplied with tokens, not keys."""
        per_head = split_heads(q, self.heads).squeeze(2) * self.scale  # (B, H, d)
        keys = self.wk.weight.unflatten(0, (self.heads, -1))  # (H, d, C)
        return torch.bmm(per_head.transpose(0, 1), keys).transpose(0, 1)

    def _apply_values(self, gathered: Tensor) -> Tensor:
        """(B, H, C) weighted sums of tokens -> (B, 1, C) values of all heads."""
        values = self.wv.weight.unflatten(0, (self.heads, -1))  # (H, d, C)
        found = torch.bmm(gathered.transpose(0, 1), values.mT).transpose(0, 1)  # (B, H, d)
        return (found.flatten(1) + self.wv.bias).unsqueeze(1)


def _weigh(logits: Tensor, link: Link | None) -> tuple[Tensor, Tensor]:
    """Logits (B, H, V) of one query -> those that are handed on, (B, H, 1, V), and weights (B, H, V)."""
    if link is None:
        return logits, logits.softmax(dim=-1)
    mixed = mix(logits.unsqueeze(-2), link)
    return mixed, mixed.squeeze(-2).softmax(dim=-1).to(logits.dtype)


def direct_attention(attn: SingleQueryAttention, x: Tensor, link: Link | None = None) -> Any:
    """Eq. 6 as written, (B, V, C) -> (B, 1, C): row 0 asks, keys and values of all rows answer.

    The reference of ``SingleQueryAttention.forward``, and the form whose multiply-adds ``count_cost`` counts. As a
    ``link`` of a chain it gives that and its logits.
    """
    q, k, v = (split_heads(part, attn.heads) for part in (attn.wq(x[:, :1]), attn.wk(x), attn.wv(x)))
    logits = q @ k.mT * attn.scale
    mixed = mix(logits, link) if link else logits
    found = attn.proj(merge_heads(mixed.softmax(dim=-1).to(v.dtype) @ v))
    return (found, (mixed,)) if link else found


class CrossAttentionBlock(nn.Module):
    """``u + attention(LN([u ; P]))`` for a class token ``u`` and foreign patches ``P`` (Eq. 5 and 6); no FFN."""

    def __init__(self, width: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = norm_layer(width)
        self.attn = SingleQueryAttention(width, heads)
        self.drop_path = drop_path_layer(drop_path)

    def forward(
        self,
        token: Tensor,
        tokens: Tensor | None,
        direct: bool = False,
        lean: bool = False,
        link: Link | None = None,
    ) -> Any:
        """(B, 1, C) -> (B, 1, C); overwrites nothing that it is given.

        ``tokens`` (B, T, C) are the other branch's, of which row 0, its own class token, is passed over; None leaves
        ``token`` alone with itself. ``direct`` computes the same by ``direct_attention``. As a ``link`` of a chain it
        gives that and its logits; there must be ``tokens`` then.
        """
        attended = self._direct(token, tokens, link) if direct else self._absorbed(token, tokens, lean, link)
        if link is None:
            return token + self.drop_path(attended)
        attended, carried = attended
        return token + self.drop_path(attended), carried

    def _absorbed(self, token: Tensor, tokens: Tensor | None, lean: bool, link: Link | None) -> Any:
        query = self.norm1(token)
        ours = type(self.attn) is SingleQueryAttention  # whatever wraps one has its ``forward`` alone
        if tokens is None:
            return self.attn.of_itself(query) if ours else self.attn(query, query[:, :0], link)
        if lean and ours:
            normed = self.norm1(tokens)
            if normed.data_ptr() == tokens.data_ptr():  # where nothing stands in place of the norm
                normed = normed.clone()
            normed[:, :1] = query
            return self.attn.among(query, normed, link)
        # The row that is passed over is normed too: a slice would be copied to be normed.
        return self.attn(query, self.norm1(tokens)[:, 1:], link)

    def _direct(self, token: Tensor, tokens: Tensor | None, link: Link | None) -> Any:
        x = token if tokens is None else torch.cat((token, tokens[:, 1:]), dim=1)
        return direct_attention(self.attn, self.norm1(x), link)
