"""Parameters and multiply-adds of any network, by fvcore; what could not be counted is named, never passed over.

The convention is that of ``crossvit_core.flops``: convolutions, linear layers and products of matrices count; what
works element by element, reduces, moves or resizes is free, norms and pooling included.
"""

from __future__ import annotations

import math
import string
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from crossvit_core.config import Size
from crossvit_core.flops import FREE_OPERATORS, FlopCountAnalysis, get_shape, sdpa_macs


@dataclass(frozen=True)
class NetworkCount:
    """What was counted for one image. ``uncounted`` names the operators that may hold more multiply-adds."""

    params: int
    macs: int
    uncounted: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """What a table says beside the count; '' for a complete one."""
        return f"count incomplete: {', '.join(self.uncounted)}" if self.uncounted else ""


def count_network(model: nn.Module, size: Size, in_channels: int) -> NetworkCount:
    """Trace ``model`` with one image (1, in_channels, height, width), in evaluation mode, and put its mode back."""
    parameter = next(model.parameters())
    image = torch.zeros(1, in_channels, *size, device=parameter.device)
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer's, on sizes that become constants and on its own end
            analysis = FlopCountAnalysis(model, image).set_op_handle(**_HANDLES)
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
            counts, unsupported = analysis.by_operator(), analysis.unsupported_ops()
    finally:
        for module in training:
            module.training = True
    uncounted = sorted(name for name in unsupported if name.removesuffix("_") not in _FREE)
    macs = sum(int(counts[name]) for name in _COUNTED & counts.keys())
    return NetworkCount(sum(p.numel() for p in model.parameters()), macs, tuple(uncounted))


def _product_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """A matrix product, broadcast or not: each number of the result sums over the last axis of the first factor."""
    return math.prod(get_shape(outputs[0])) * get_shape(inputs[0])[-1]


def _same_convolution_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """A convolution whose padding is a word, which fvcore passes over: (output, input of a group, sides) weights."""
    return math.prod(get_shape(outputs[0])) * math.prod(get_shape(inputs[1])[1:])


def _added_product_macs(inputs: list[Any], outputs: list[Any]) -> int:
    return _product_macs(inputs[1:], outputs)


def _outer_product_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """A product in which both factors are broadcast is one of a column and a row; any other goes by element: free."""
    shapes = [get_shape(value) or [] for value in inputs[:2]]
    result = math.prod(get_shape(outputs[0]))
    return result if all(math.prod(shape) < result for shape in shapes) and all(shapes) else 0


def _einsum_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """Every number of the result sums over the letters that it lacks; of one factor, that is a sum and free.

    Of more than two factors this is the product in one go, the most that it can cost.
    """
    shapes = [get_shape(factor) for factor in inputs[1].node().inputs()]
    if len(shapes) < 2:
        return 0
    factors, _, result = inputs[0].toIValue().replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for letters, shape in zip(factors.split(","), shapes):
        head, _, tail = letters.partition("...")
        sizes.update(zip(head, shape))
        sizes.update(zip(reversed(tail), reversed(shape)))
    summed = set(sizes) - set(result or _implied(factors))
    return math.prod(get_shape(outputs[0])) * math.prod(sizes[letter] for letter in summed)


def _implied(factors: str) -> str:
    """The letters of a result that is not written out: those that occur once."""
    return "".join(letter for letter in string.ascii_letters if factors.count(letter) == 1)


_HANDLES: dict[str, Callable[[list[Any], list[Any]], int]] = {
    "aten::scaled_dot_product_attention": sdpa_macs,
    "aten::mul": _outer_product_macs,
    "aten::einsum": _einsum_macs,
    "aten::_convolution_mode": _same_convolution_macs,
    **{f"aten::{name}": _product_macs for name in ("bmm", "dot", "matmul", "mm", "mv")},
    **{f"aten::{name}": _added_product_macs for name in ("addmm", "addmv", "baddbmm")},
}

_COUNTED = frozenset({"conv", "linear", *(name.removeprefix("aten::") for name in _HANDLES)})

# By element; reductions and pooling; moved, cut or resized.
_ELEMENTWISE = (
    "add addcmul clamp_min cos div dropout elu erf exp gelu hardsigmoid hardswish hardtanh leaky_relu log log_softmax "
    "lt mish mul ne neg pow prelu reciprocal relu6 round rsqrt rsub sigmoid silu sin softmax softplus sqrt sub tanh "
    "where"
)
_REDUCING = (
    "abs adaptive_max_pool2d amax amin avg_pool1d avg_pool2d cumsum linalg_vector_norm max_pool2d mean norm sum var"
)
_MOVING = (
    "alias clone col2im expand_as flip im2col index_select lift_fresh mT meshgrid new_ones pad pixel_shuffle "
    "pixel_unshuffle repeat repeat_interleave reshape_as tile topk unflatten unfold _upsample_bicubic2d_aa "
    "upsample_bicubic2d view_as"
)
# In place, with a name that ends in '_', they are as free.
_FREE = FREE_OPERATORS | {f"aten::{name}" for text in (_ELEMENTWISE, _REDUCING, _MOVING) for name in text.split()}
