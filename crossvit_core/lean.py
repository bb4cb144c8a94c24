"""The forward pass that no one differentiates, watches or rewrites: the same function, in less time.

Such a pass may overwrite its own intermediate tensors, and on an x86 processor may use oneDNN's matrix product with
GELU in the same pass over memory. ``allowed`` says when; the parts of the network take ``lean``, and then own the
tokens that they are given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

# Measured on AVX-512 cores, one and two threads. Below, the product that F.linear takes (MKL's) is as fast or faster.
_LEAST_MACS = 20_000_000
_LEAST_WIDTH = 192
_LEAST_MACS_WITH_GELU = 2**22

_PIECE_BYTES = 16 * 2**20
_SHARE_BYTES = 3 * 2**20


def allowed(model: nn.Module, images: Tensor) -> bool:
    """May this forward pass of ``model`` overwrite what it has made? Not if a hook might keep it."""
    return not torch.is_grad_enabled() and is_plain(images) and not _is_watched(model)


def is_plain(images: Tensor) -> bool:
    """Does what is called run as it is called, in the dtype of ``images``?

    Not where operators are rewritten or counted (torch.compile and export, tracing, as fvcore does, dispatch modes, as
    torch's own counter, functional transforms), nor under autocast.
    """
    return not (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch.is_autocast_enabled(images.device.type)
        or is_in_torch_dispatch_mode()
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


def _is_watched(model: nn.Module) -> bool:
    """Does any module within have a forward hook? (``Module.modules()`` would take several times as long.)"""
    waiting: list[nn.Module | None] = [model]
    while waiting:
        module = waiting.pop()
        if module is not None:
            if module._forward_hooks or module._forward_pre_hooks:
                return True
            waiting.extend(module._modules.values())
    return _has_any_global_hook()


def pieces_of(images: Tensor, largest_bytes: int) -> tuple[Tensor, ...]:
    """(B, ...) in equal pieces for which the caches of a processor are large enough; undivided on a GPU.

    ``largest_bytes`` are those of the largest tensor that one image becomes. Memory matters as much as the caches: what
    is larger than 32 MiB, glibc hands back to the system, which zeroes it again at every use.
    """
    return _split(images, len(images) * largest_bytes / _PIECE_BYTES)


def shares_of(images: Tensor, inside_bytes: int) -> tuple[Tensor, ...]:
    """The same in smaller pieces, for one layer or stem with ``inside_bytes`` of tensors for an image within."""
    return _split(images, len(images) * inside_bytes / _SHARE_BYTES)


def _split(x: Tensor, parts: float) -> tuple[Tensor, ...]:
    count = min(math.ceil(parts), len(x)) if x.device.type == "cpu" else 1
    return x.tensor_split(count) if count > 1 else (x,)


def rows_of(x: Tensor, widest: int) -> tuple[Tensor, ...]:
    """Views of the rows of ``x`` (B, T, C) in equal shares, each small enough as float32 of ``widest`` columns.

    For what maps every row alone, as an FFN. It costs nothing where memory is at hand; where other work in the process
    has made glibc hand back what would be used again, it saves most of the page faults. One undivided share where the
    rows are not contiguous, and on a GPU.
    """
    rows = x.flatten(0, 1) if x.is_contiguous() else None
    shares = () if rows is None else _split(rows, len(rows) * widest * 4 / _SHARE_BYTES)
    return shares if len(shares) > 1 else (x,)


def is_plain_linear(layer: nn.Module) -> bool:
    """Do a linear layer's weight and bias say what it computes?

    Not those of what replaces or wraps one (adapters, quantised layers, parametrisations), and not those that are made
    anew at every call (pruning, weight norm) or know how they are to be multiplied.
    """
    if type(layer) is not nn.Linear or "forward" in layer.__dict__:
        return False
    own = layer._parameters
    return _is_plain_tensor(own.get("weight")) and _is_plain_tensor(own.get("bias"))


def need_not_be_called(layer: nn.Module) -> bool:
    """May its weight and bias stand in for calling a layer? Not where a hook waits for the call.

    The hooks of a tracer, as fvcore's, only note names, as do those that export and torch's counter of FLOPs put on all
    modules.
    """
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    of_tracers = torch.compiler.is_compiling() or is_in_torch_dispatch_mode()
    waits = any(hooks) or (_has_any_global_hook() and not of_tracers)
    return is_plain_linear(layer) and (not waits or torch.jit.is_tracing())


def _is_plain_tensor(weight: Tensor | None) -> bool:
    """Export puts tensors of a kind of its own in the place of weights, which do whatever those do."""
    return weight is not None and (type(weight) in (nn.Parameter, Tensor) or torch.compiler.is_compiling())


def linear(layer: nn.Module, x: Tensor, *, gelu: bool = False) -> Tensor:
    """``layer(x)`` for a linear layer, with exact GELU after it if wanted. No gradients."""
    if type(layer) is nn.Linear and _ONEDNN is not None and _onednn_pays(layer, x, gelu):
        after, how = ("gelu", "none") if gelu else ("none", "")
        product: Tensor = _ONEDNN(x, layer.weight, layer.bias, after, [], how)
        return product
    out: Tensor = layer(x)
    return torch.ops.aten.gelu_.default(out) if gelu else out


def _onednn_pays(layer: nn.Linear, x: Tensor, gelu: bool) -> bool:
    macs = x.numel() * layer.out_features
    if macs < (_LEAST_MACS_WITH_GELU if gelu else _LEAST_MACS) or not (gelu or layer.in_features >= _LEAST_WIDTH):
        return False
    suited = x.dtype is torch.float32 is layer.weight.dtype and x.device.type == "cpu"
    return suited and bool(torch.backends.mkldnn.enabled)


def _find_onednn() -> Callable[..., Any] | None:
    """torch's linear layer on oneDNN, which torch.compile uses; None where torch has none, or has another library."""
    if not torch.backends.mkldnn.is_available() or not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return None
    operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return None if operator is None else operator.default


_ONEDNN = _find_onednn()
