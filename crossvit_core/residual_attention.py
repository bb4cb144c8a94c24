"""Residual attention (ReViT): attention whose logits are mixed with those of the attention before it.

``A_l = alpha S_l + (1 - alpha) A_{l-1}``, ``A_0 = S_0``, on scaled logits, before the softmax. What is handed on is the
mixture, with its gradients. ``residual_config`` says which attentions form chains; here a chain is run, in one of
three equal forms:

- *explicit*, as written: every map exists. The reference, and what is traced, exported and compiled.
- *concatenated*: as ``A_l = sum_i c_i S_i`` with known ``c_i``, one fused attention over ``[c_0 Q_0, ..., c_l Q_l]``
  and ``[K_0, ..., K_l]``; no map exists, but products grow with l.
- *biased*, where nobody reads the map afterwards: fused attention of ``alpha Q`` with the additive mask
  ``(1 - alpha) A_{l-1}``.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossvit_core.config import ArchConfig
from crossvit_core.lean import is_plain
from crossvit_core.residual_config import ResidualAttentionConfig, alpha_sizes, chains

Alpha = Tensor | float
Carried = tuple[Tensor, ...]  # (logits,) of the explicit form, (queries, keys) of the concatenated one

_MANY_TOKENS = 256
_FEW_LINKS = 2


class Link(NamedTuple):
    """What an attention is given of its chain: what came before and the weight of its own logits, None at the first.

    ``last``: nobody reads the logits after this one. ``alpha`` is a number, or (1,) or (heads,).
    """

    before: Carried | None = None
    alpha: Alpha | None = None
    form: str = "explicit"
    last: bool = False


def mix(scores: Tensor, link: Link) -> Tensor:
    """Scaled logits (B, H, Q, N) -> the mixed ones, in float32 at least.

    Of logits before that have more than Q rows, the first are taken: those of the class token.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if link.before is None:
        return scores
    before = link.before[0][..., : scores.shape[-2], :]
    return torch.lerp(before, scores, _per_head(link.alpha, scores))


def _per_head(alpha: Alpha | None, like: Tensor) -> Alpha:
    """Alpha in the dtype of (B, H, Q, N) logits, to be broadcast over them."""
    assert alpha is not None, "a link that has logits before it has an alpha"
    return alpha.to(like.dtype).view(-1, 1, 1) if isinstance(alpha, Tensor) else alpha


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, link: Link) -> tuple[Tensor, Carried | None]:
    """Queries (B, H, Q, d), keys and values (B, H, N, d) -> what they find (B, H, Q, d), and what is handed on.

    ``scale`` is that of the logits, ``d**-0.5``: a number, not read from shapes, which a tracer would watch.
    """
    return FORMS[link.form](q, k, v, scale, link)


def explicit_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, link: Link) -> tuple[Tensor, Carried | None]:
    """As written."""
    logits = mix((q * scale) @ k.mT, link)
    return logits.softmax(dim=-1).to(v.dtype) @ v, (logits,)


def biased_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, link: Link) -> tuple[Tensor, Carried | None]:
    """The explicit form, but for a link that ends its chain."""
    if link.before is None or not link.last:
        return explicit_attention(q, k, v, scale, link)
    alpha = _per_head(link.alpha, q)
    mask = (1 - alpha) * link.before[0][..., : q.shape[-2], :].to(q.dtype)
    return F.scaled_dot_product_attention(alpha * q, k, v, attn_mask=mask, scale=scale), None


def concatenated_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, link: Link) -> tuple[Tensor, Carried | None]:
    """Without maps; the queries handed on are weighted already."""
    if link.before is not None:
        alpha = _per_head(link.alpha, q)
        queries, keys = link.before
        q = torch.cat(((1 - alpha) * queries[..., : q.shape[-2], :], alpha * q), dim=-1)
        k = torch.cat((keys, k), dim=-1)
    return F.scaled_dot_product_attention(q, k, v, scale=scale), (q, k)


def suited_form(tokens: int, links: int, images: Tensor) -> str:
    """The fastest form of a chain over so many tokens, measured on AVX-512 cores (benchmarks/residual_attention_speed).

    Explicit wherever it is not clearly slower, on GPUs, where none has been measured, and in half precision, in which
    the other forms would not keep logits in float32.
    """
    suited = images.device.type == "cpu" and images.dtype in (torch.float32, torch.float64) and is_plain(images)
    if tokens < _MANY_TOKENS or not suited:
        return "explicit"
    if not torch.is_grad_enabled():
        return "biased"
    return "concatenated" if links <= _FEW_LINKS else "explicit"


class Alphas(nn.Module):
    """Every alpha of a network that learns some; a parameter has the name that ``alpha_sizes`` gives it."""

    def __init__(self, arch: ArchConfig) -> None:
        super().__init__()
        config = arch.residual_attention
        self.config = config
        self.form = ""  # a name of FORMS to have all blocks run so; by default what suits
        start = _parameter_of(config)
        for name, size in alpha_sizes(arch).items():
            self.register_parameter(name, nn.Parameter(torch.full((size,), start)))

    def of_link(self, chain: str, number: int) -> Alpha:
        """The alpha of a chain's link, (1,) or (heads,); a number if it is fixed."""
        kind = self.config.alpha_param
        if kind == "fixed":
            return self.config.alpha_init
        names = {"shared": "shared", "branch": chain}
        # Not get_parameter(): replicas and functional calls have tensors in the place of parameters.
        return self._in_range(getattr(self, names.get(kind, f"{chain}_{number}")))

    def keep(self, names: Container[str]) -> None:
        """Drop all parameters but those of these names: of a network that lost its last encoders."""
        for name in [name for name in self._parameters if name not in names]:
            delattr(self, name)

    def values(self) -> dict[str, list[float]]:
        """Alphas as they weigh now, by name; beyond [0, 1] they extrapolate."""
        return {name: self._in_range(parameter.detach()).tolist() for name, parameter in self.named_parameters()}

    def _in_range(self, parameter: Tensor) -> Tensor:
        if self.config.alpha_range == "sigmoid":
            return parameter.sigmoid()
        return parameter.clamp(0, 1) if self.config.alpha_range == "clamp" else parameter

    def forward(self) -> None:
        """Nothing to run: see ``Chains``."""
        raise NotImplementedError("alphas are read by of_link(), they map nothing")


def _parameter_of(config: ResidualAttentionConfig) -> float:
    start = torch.tensor(config.alpha_init, dtype=torch.float64, device="cpu")
    return float(start.logit() if config.alpha_range == "sigmoid" else start)


@dataclass
class Chain:
    """One chain, in one forward pass. ``total`` is its number of links, over all its new starts."""

    name: str
    alphas: Alphas
    form: str
    total: int
    number: int = 0
    before: Carried | None = None

    def link(self) -> Link:
        """What the next attention is given."""
        if self.before is None:
            return Link(form=self.form)
        alpha = self.alphas.of_link(self.name, self.number)
        return Link(self.before, alpha, self.form, last=self.number == self.total - 1)

    def through(self, block: nn.Module, *args: Any) -> Tensor:
        """``block(*args)`` as the next of the chain; the block takes ``link`` and gives what is handed on, too."""
        x, carried = block(*args, link=self.link())
        self.number += self.before is not None
        self.before = carried
        return x


def build_alphas(arch: ArchConfig) -> Alphas | None:
    """None for a network without a chain of two."""
    return Alphas(arch) if arch.residual_attention.is_on and chains(arch) else None


class Chains:
    """All chains of a network, in one forward pass."""

    def __init__(self, arch: ArchConfig, alphas: Alphas, images: Tensor) -> None:
        self.anew = arch.residual_attention.scope == "encoder"
        self._chains: dict[str, Chain] = {}
        for name, (links, _) in chains(arch).items():
            kind, _, branch = name.partition("_")
            tokens = arch.branches[int(branch)].num_tokens if kind == "branch" else 0
            self._chains[name] = Chain(name, alphas, alphas.form or suited_form(tokens, links, images), links)

    def of_branch(self, branch: int) -> Chain | None:
        """The chain of the blocks of a branch at the start of an encoder; None if they have none."""
        chain = self._chains.get(f"branch_{branch}")
        if chain is not None and self.anew:
            chain.before = None
        return chain

    def of_visit(self, branch: int) -> Chain | None:
        """The chain of the cross-attentions of a branch's class token."""
        return self._chains.get(f"visit_{branch}")


Form = Callable[[Tensor, Tensor, Tensor, float, Link], tuple[Tensor, Carried | None]]
FORMS: dict[str, Form] = {
    "explicit": explicit_attention,
    "biased": biased_attention,
    "concatenated": concatenated_attention,
}
