"""A network prepared for quantisation: what it computes, and what it costs, at any bits for any of its tensors.

It computes as the paper writes it (``reference_form``): the cheaper forms of cross-attention have no keys and values
that could be quantised. Quantised are the weights of linear layers and convolutions, what those layers read (but not
the image), and queries, keys, probabilities and values of attention. Biases, norms, softmax and GELU arithmetic,
positions and class tokens are not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from crossvit_core.model import CrossViT
from crossvit_core.parallel_conv import BatchNorm
from crossvit_core.quantize.calibrate import Calibration, observe
from crossvit_core.quantize.codes import Quantizer
from crossvit_core.quantize.products import STEMS, Product, watching
from crossvit_core.quantize.settings import FULL_BITS, MAX_BITS, Method
from crossvit_core.quantize.smooth import smooth

_EDGES = (f"{STEMS}.", "head.")
_IMAGE_BITS = 8  # pixels are bytes
_FULL_BYTES = FULL_BITS // 8

Bits = Mapping[str, int]
"""The bits of every slot, by name."""


class Slot(NamedTuple):
    """A tensor that is quantised. ``numel``: elements of a weight, or of an activation for one image.

    An edge, which patch embeddings and heads are, stays at 8 bits.
    """

    name: str
    is_weight: bool
    numel: int
    is_edge: bool


class Footprint(NamedTuple):
    """What an assignment of bits costs.

    Mean bits are weighted by elements: of weights, of the activations of one image, and of both together.
    ``model_bytes`` are those of the stored model: weights at their bits, every other parameter and every scale in
    float32.
    ``bit_operations`` is the sum of multiply-adds x bits x bits over all products, of one image.
    """

    weight_bits: float
    activation_bits: float
    mean_bits: float
    model_bytes: int
    bit_operations: int


class Prepared(NamedTuple):
    """A copy of a network, smoothed or not, with its calibration; methods with the same smoothing share one."""

    model: CrossViT
    calibration: Calibration
    smoothed: list[str]


def prepare(model: CrossViT, images: Tensor, smoothing: str = "none", alpha: float = 0.5) -> Prepared:
    """Calibrate a copy of ``model`` on ``images`` (N, C, H, W), at most 256, of the training split.

    Raises QuantizeError for a network with a layer that is not seen.
    """
    own = copy.deepcopy(model).eval().requires_grad_(False)
    _fold_batch_norms(own)
    smoothed = [] if smoothing == "none" else smooth(own, images, with_bias=smoothing == "scale_and_bias", alpha=alpha)
    return Prepared(own, Calibration(observe(own, images)), smoothed)


class QuantizedNetwork:
    """A prepared network quantised by one method."""

    def __init__(self, prepared: Prepared, method: Method) -> None:
        self.model, self.calibration, _ = prepared
        self.method = method
        self.slots = {slot.name: slot for slot in _slots(self.calibration)}

    def single(self, bits: int) -> dict[str, int]:
        """The same bits for all, edges at 8."""
        return {slot.name: MAX_BITS if slot.is_edge else bits for slot in self.slots.values()}

    @torch.no_grad()
    def logits(self, images: Tensor, bits: Bits) -> Tensor:
        """(B, C, H, W) -> (B, num_classes)."""
        with watching(self.model, self._visitor(bits)):
            out: Tensor = self.model(images)
            return out

    def footprint(self, bits: Bits) -> Footprint:
        """What these bits cost."""
        weights = [slot for slot in self.slots.values() if slot.is_weight]
        activations = [slot for slot in self.slots.values() if not slot.is_weight]
        stored_bits = sum(slot.numel * bits[slot.name] for slot in weights)
        others = sum(p.numel() for p in self.model.parameters()) - sum(slot.numel for slot in weights)
        return Footprint(
            mean_bits(weights, bits),
            mean_bits(activations, bits),
            mean_bits([*weights, *activations], bits),
            -(-stored_bits // 8) + _FULL_BYTES * (others + self._num_steps(bits)),
            self._bit_operations(bits),
        )

    def full_footprint(self) -> Footprint:
        """What full precision costs: 32 bits for everything."""
        macs = sum(seen.macs for seen in self.calibration.sites.values())
        stored = _FULL_BYTES * sum(parameter.numel() for parameter in self.model.parameters())
        return Footprint(FULL_BITS, FULL_BITS, FULL_BITS, stored, macs * FULL_BITS**2)

    def _visitor(self, bits: Bits) -> Callable[[Product, Tensor, Tensor], Tensor]:
        def visit(product: Product, left: Tensor, right: Tensor) -> Tensor:
            if product.left in self.slots:
                left = self._left(product.site, bits[product.left])(left)
            return product.apply(left, self.calibration.quantized_right(product.site, bits[product.right], right))

        return visit

    def _left(self, site: str, bits: int) -> Quantizer:
        return self.calibration.left(site, bits, self.method.gelu, self.method.softmax)

    def _num_steps(self, bits: Bits) -> int:
        count = 0
        for site, seen in self.calibration.sites.items():
            count += self.calibration.right(site, bits[seen.product.right]).num_steps
            if seen.product.left in self.slots:
                count += self._left(site, bits[seen.product.left]).num_steps
        return count

    def _bit_operations(self, bits: Bits) -> int:
        products = ((seen.product, seen.macs) for seen in self.calibration.sites.values())
        return sum(macs * bits.get(product.left, _IMAGE_BITS) * bits[product.right] for product, macs in products)


def mean_bits(slots: list[Slot], bits: Bits) -> float:
    """Mean bits of an element of these tensors."""
    return sum(slot.numel * bits[slot.name] for slot in slots) / sum(slot.numel for slot in slots)


def divergence(full: Tensor, quantised: Tensor) -> float:
    """KL divergence of the quantised from the full-precision class probabilities, from logits; mean per image."""
    full, quantised = full.double().log_softmax(dim=1), quantised.double().log_softmax(dim=1)
    return F.kl_div(quantised, full, reduction="batchmean", log_target=True).item()


def _fold_batch_norms(model: nn.Module) -> None:
    """Of convolutions beside attention: what is quantised must be the weights that are stored."""
    for module in list(model.modules()):
        if isinstance(module, nn.Sequential):
            for index in range(len(module) - 1):
                conv, norm = module[index], module[index + 1]
                if isinstance(conv, nn.Conv2d) and isinstance(norm, BatchNorm):
                    module[index], module[index + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()


def _slots(calibration: Calibration) -> list[Slot]:
    found = []
    for site, seen in calibration.sites.items():
        is_edge = site.startswith(_EDGES)
        if seen.product.left_origin != "image":
            found.append(Slot(seen.product.left, False, seen.left_numel, is_edge))
        found.append(Slot(seen.product.right, seen.product.right_is_weight, seen.right_numel, is_edge))
    return found
