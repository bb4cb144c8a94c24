"""Choosing quantisers on calibration data: of the candidates, the one that changes the product least.

The score of a candidate is the mean squared change of the product that its tensor enters, the other operand kept as it
is; so every (tensor, bits) is decided by itself, once. PTQ4ViT weights the change by the gradient of a divergence
between full-precision and model outputs. That gradient is zero while every layer is still at full precision and the
images are the same: what is left is rounding noise, so it is not used here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from crossvit_core.model import CrossViT
from crossvit_core.quantize import codes
from crossvit_core.quantize.codes import Quantizer, Uniform
from crossvit_core.quantize.products import Product, watching
from crossvit_core.quantize.settings import QuantizeError

_ROWS = 512  # of a linear layer's input, kept to score candidates on
_ELEMENTS = 2**18  # of the largest tensor of another product, likewise; at least one image
_BATCH_SIZE = 64

Q = TypeVar("Q", bound=Quantizer)


@dataclass
class Observed:
    """What calibration saw of one product: a sample of its operands, and extrema and counts of all of them.

    ``lows`` and ``highs`` are per channel of what a norm gave, (C,). ``left_numel`` and ``macs`` are of one image.
    """

    product: Product
    lefts: list[Tensor] = field(default_factory=list)
    rights: list[Tensor] = field(default_factory=list)
    left_max: float = 0.0
    right_max: float = 0.0
    lows: Tensor | None = None
    highs: Tensor | None = None
    left_numel: int = 0
    right_numel: int = 0
    macs: int = 0

    @property
    def left(self) -> Tensor:
        return torch.cat(self.lefts)

    @property
    def right(self) -> Tensor:
        return self.rights[0] if self.product.right_is_weight else torch.cat(self.rights)

    def see_extrema(self, left: Tensor, right: Tensor) -> None:
        self.left_max = max(self.left_max, left.abs().max().item())
        self.right_max = max(self.right_max, right.abs().max().item())
        if self.product.left_origin.startswith("norm:"):
            rows = left.flatten(0, -2)
            low, high = rows.amin(dim=0), rows.amax(dim=0)
            self.lows = low if self.lows is None else torch.minimum(self.lows, low)
            self.highs = high if self.highs is None else torch.maximum(self.highs, high)


@torch.no_grad()
def observe(model: CrossViT, images: Tensor) -> dict[str, Observed]:
    """Every product of ``model`` by its site, seen in evaluation at full precision on ``images`` (N, C, H, W)."""
    model.eval()
    sites: dict[str, Observed] = {}
    generator = torch.Generator().manual_seed(0)

    with watching(model, lambda *operands: visit(*operands)):
        for batch in images.split(_BATCH_SIZE):
            visit = partial(_see, sites, (len(batch), len(images)), generator)
            model(batch)
    _check_complete(model, sites)
    return sites


def _see(
    sites: dict[str, Observed],
    counts: tuple[int, int],
    generator: torch.Generator,
    product: Product,
    left: Tensor,
    right: Tensor,
) -> Tensor:
    """One product of a batch. ``counts``: images in the batch, and in all; attention in windows has longer batches."""
    out = product.apply(left, right)
    seen, batch = sites.setdefault(product.site, Observed(product)), counts[0]
    seen.see_extrema(left, right)
    seen.left_numel = left.numel() // batch
    seen.right_numel = right.numel() // (1 if product.right_is_weight else batch)
    per_output = right[0].numel() if product.right_is_weight else left.shape[-1]
    seen.macs = out.numel() // batch * per_output
    _keep(seen, left, right, out, batch / counts[1], generator)
    return out


def _keep(seen: Observed, left: Tensor, right: Tensor, out: Tensor, share: float, generator: torch.Generator) -> None:
    """Add to the sample what this batch, a ``share`` of all images, gives to it."""
    if seen.product.right_is_weight and left.ndim < 4:
        rows = left.flatten(0, -2)
        chosen = torch.randperm(len(rows), generator=generator)[: math.ceil(_ROWS * share)]
        seen.lefts.append(rows[chosen.to(rows.device)])
    else:
        largest = max(tensor.numel() // len(left) for tensor in (left, out))
        count = max(1, round(share * _ELEMENTS / largest))
        seen.lefts.append(left[:count].clone())
        right = right if seen.product.right_is_weight else right[:count].clone()
    if not (seen.rights and seen.product.right_is_weight):
        seen.rights.append(right.detach())


def _check_complete(model: CrossViT, sites: dict[str, Observed]) -> None:
    """A layer that was never seen would silently stay at full precision."""
    layers = (torch.nn.Linear, torch.nn.Conv2d)
    missed = [name for name, module in model.named_modules() if isinstance(module, layers) and name not in sites]
    if missed:
        raise QuantizeError(
            f"{', '.join(missed[:3])} of this network computes in a form that quantisation does not see; "
            "the network cannot be quantised"
        )


class Calibration:
    """Quantisers of the operands that were observed, each searched once per bits and kind.

    A kind is "uniform", or for what comes out of a GELU "hand" or "searched", out of a softmax "searched".
    """

    def __init__(self, sites: dict[str, Observed]) -> None:
        self.sites = sites
        self._found: dict[tuple[str, int, str], Quantizer] = {}
        self._weights: dict[tuple[str, int], Tensor] = {}

    def left(self, site: str, bits: int, gelu: str = "uniform", softmax: str = "uniform") -> Quantizer:
        """For the left operand of a site, by what computed it."""
        kind = {"gelu": gelu, "softmax": softmax}.get(self.sites[site].product.left_origin, "uniform")
        key = (f"{site}:left", bits, kind)
        if key not in self._found:
            self._found[key] = self._search_left(self.sites[site], bits, kind)
        return self._found[key]

    def right(self, site: str, bits: int) -> Uniform:
        """For the right operand of a site: a weight, keys or values."""
        key = (f"{site}:right", bits, "uniform")
        if key not in self._found:
            self._found[key] = self._search_right(self.sites[site], bits)
        found = self._found[key]
        assert isinstance(found, Uniform)
        return found

    def quantized_right(self, site: str, bits: int, right: Tensor) -> Tensor:
        """The right operand at these bits; a weight is rounded once and kept."""
        if not self.sites[site].product.right_is_weight:
            return self.right(site, bits)(right)
        if (site, bits) not in self._weights:
            self._weights[site, bits] = self.right(site, bits)(right)
        return self._weights[site, bits]

    def _search_left(self, seen: Observed, bits: int, kind: str) -> Quantizer:
        left, right = seen.left, seen.right
        candidates: Sequence[Quantizer]
        if kind == "uniform":
            candidates = codes.uniform_candidates(left.new_tensor(seen.left_max), bits)
        elif seen.product.left_origin == "gelu":
            candidates = codes.gelu_candidates(seen.left_max, bits)[: 1 if kind == "hand" else None]
        else:
            candidates = codes.softmax_candidates(bits)
        return best(candidates, left, lambda change: seen.product.apply(change, right))

    def _search_right(self, seen: Observed, bits: int) -> Uniform:
        left, right = seen.left, seen.right
        # As PTQ4ViT: queries, keys and values of one layer have weights of their own scale.
        groups = right.chunk(3) if seen.product.right_is_weight and seen.product.site.endswith(".qkv") else (right,)
        steps = []
        for part in groups:
            largest = part.abs().max()
            found = best(codes.uniform_candidates(largest, bits), part, partial(seen.product.apply, left))
            steps.append(found.step.expand(len(part), 1) if len(groups) > 1 else found.step)
        return Uniform(bits, torch.cat(steps) if len(groups) > 1 else steps[0])


def best(candidates: Sequence[Q], x: Tensor, response: Callable[[Tensor], Tensor]) -> Q:
    """The first of the candidates with the least score."""
    if len(candidates) == 1:
        return candidates[0]
    scores = torch.stack([score(candidate, x, response) for candidate in candidates])
    return candidates[int(scores.argmin())]


def score(quantizer: Quantizer, x: Tensor, response: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean squared ``response`` to what the quantiser changes; lower is better."""
    return response(quantizer(x) - x).square().mean()
