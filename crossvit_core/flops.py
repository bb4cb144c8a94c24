"""An independent count of multiply-adds: fvcore traces the built network, operator by operator.

``count_cost`` must agree with it. fvcore calls multiply-adds "flops", and passes over operators that it does not know
with a warning; here every operator is counted, on the list of those that cost nothing, or an error.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from crossvit_core.config import Size, as_size
from crossvit_core.fusion import reference_form
from crossvit_core.model import CrossViT

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # fvcore is built on torch's script compiler, whose end torch announces
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis
    from fvcore.nn.jit_handles import get_shape

MAC_OPERATORS = ("conv", "linear", "matmul", "bmm", "einsum", "mul", "sdpa")

_SDPA = "scaled_dot_product_attention"

# Element by element, reductions, views and resizing: free by the convention of ``crossvit_core.cost``.
_FREE = "add clamp gelu lerp mT mean pad sigmoid silu softmax sum unflatten upsample_bicubic2d"
FREE_OPERATORS = frozenset(f"aten::{name}" for name in _FREE.split())


class UncountedError(RuntimeError):
    """An operator that is neither counted nor known to be free."""


def count_flops_fvcore(model: CrossViT, size: int | Size | None = None, *, reference: bool = True) -> dict[str, int]:
    """Multiply-adds of one image by operator, and their sum as ``macs``.

    ``size`` is the image's (height, width), by default the architecture's. ``reference`` counts the network as the
    paper writes it, the ``macs`` of ``count_cost``; without it, the cheaper equal forms that ``forward`` runs, its
    ``executed_macs``. ``mul`` are products of a column and a row, matrix products of inner size one. ``layer_norm`` is
    fvcore's 5 per element and no part of ``macs``. Raises UncountedError.
    """
    return count_flops_by_module(model, size, reference=reference)[""]


def count_flops_by_module(
    model: CrossViT, size: int | Size | None = None, *, reference: bool = True
) -> dict[str, dict[str, int]]:
    """``count_flops_fvcore`` of every module by its name in ``model``, parts included; the whole is named ''."""
    with _traced(model, size, reference) as image:
        analysis = FlopCountAnalysis(model, image).set_op_handle(**_MAC_HANDLES)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        counts = analysis.by_module_and_operator()
        _refuse_uncounted(analysis.unsupported_ops())
    return {name: _with_sum(by_operator) for name, by_operator in counts.items()}


def _with_sum(counts: Mapping[str, float]) -> dict[str, int]:
    by_operator = {"sdpa" if name == _SDPA else name: int(count) for name, count in counts.items()}
    return by_operator | {"macs": sum(by_operator.get(name, 0) for name in MAC_OPERATORS)}


def count_activations_fvcore(model: CrossViT, size: int | Size | None = None) -> int:
    """Output elements of convolutions, linear layers and attention products for one image, in the paper's form."""
    with _traced(model, size, reference=True) as image:
        analysis = ActivationCountAnalysis(model, image)
        analysis.set_op_handle(f"aten::{_SDPA}", _sdpa_activations)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        return int(analysis.total())


@contextmanager
def _traced(model: CrossViT, size: int | Size | None, reference: bool) -> Iterator[Tensor]:
    """An image to trace ``model`` with, in evaluation mode and the wanted form."""
    height, width = model.arch.size if size is None else as_size(size)
    parameter = next(model.parameters())
    if parameter.is_meta:
        raise ValueError("a model on device 'meta' cannot be traced; give it memory: model.to_empty(device='cpu')")
    image = torch.zeros(1, model.arch.in_channels, height, width, device=parameter.device, dtype=parameter.dtype)
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad(), reference_form(model) if reference else nullcontext(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the same announcement, for the tracer
            yield image
    finally:
        for module in training:
            module.training = True


def _refuse_uncounted(unsupported: Iterable[str]) -> None:
    unknown = sorted(set(unsupported) - FREE_OPERATORS)
    if unknown:
        raise UncountedError(
            f"operators not counted: {', '.join(unknown)}; give each a handle, or name it in FREE_OPERATORS"
        )


def sdpa_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """``q k^T`` and ``A v``: queries (..., Q, d), keys (..., K, d), values (..., K, e)."""
    query, key, value = (get_shape(tensor) for tensor in inputs[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _tensor_product_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """An outer product, broadcast; multiplied by a number, a tensor is free. The network knows no other ``mul``."""
    return math.prod(get_shape(outputs[0])) if all(get_shape(factor) for factor in inputs) else 0


def _einsum_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """Two factors: the product of all sizes. fvcore's own count is read from a text of four digits."""
    letters = inputs[0].toIValue().replace(" ", "").partition("->")[0].replace(",", "")
    sizes = [size for factor in inputs[1].node().inputs() for size in get_shape(factor)]
    return math.prod(dict(zip(letters, sizes)).values())


def _sdpa_activations(inputs: list[Any], outputs: list[Any]) -> int:
    """The map of (..., Q, K) and the output."""
    query, key = (get_shape(tensor) for tensor in inputs[:2])
    return math.prod(query[:-1]) * key[-2] + math.prod(get_shape(outputs[0]))


_MAC_HANDLES = {f"aten::{_SDPA}": sdpa_macs, "aten::mul": _tensor_product_macs, "aten::einsum": _einsum_macs}
