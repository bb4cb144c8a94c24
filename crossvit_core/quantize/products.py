"""Finding, in any forward pass, the products whose operands are to be quantised.

A product is a linear layer, a convolution or one of the two products of attention. They are found where they are
computed, not by the classes of modules, so that every variant of the network is covered. ``watching`` hands each of
them to a visitor, which decides what the operands are worth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from crossvit_core.fusion import reference_form
from crossvit_core.quantize.settings import QuantizeError

STEMS, BLOCKS = "patch_embed", "blocks"  # outside the blocks, products without weights only rescale images


@dataclass(frozen=True)
class Product:
    """One bilinear operation: ``apply(left, right)``, bias left out.

    ``right_is_weight``: ``right`` is then a parameter of this name, without the ``.weight``. ``left_origin`` is what
    computed ``left``: "gelu", "softmax", "image", ``"norm:<name>"`` or "" for anything else.
    """

    site: str
    left: str
    right: str
    right_is_weight: bool
    left_origin: str
    apply: Callable[[Tensor, Tensor], Tensor]


Visitor = Callable[[Product, Tensor, Tensor], Tensor]
"""Takes a product and its operands, left and right; returns the product of these, or of others in their place."""


@contextmanager
def watching(model: nn.Module, visitor: Visitor) -> Iterator[None]:
    """Within this context every product of a forward pass of ``model`` goes through ``visitor``.

    The model computes as the paper writes it (``reference_form``): cross-attention then has keys and values. Raises
    QuantizeError, from the forward pass, where a part of a weight is used.
    """
    place = _Place()
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(partial(place.enter, name)))
        handles.append(module.register_forward_hook(place.leave))
    try:
        with reference_form(model), _Interceptor(model, visitor, place):
            yield
    finally:
        for handle in handles:
            handle.remove()


class _Place:
    """Where a forward pass is: the names of the modules that it is in, outermost first."""

    def __init__(self) -> None:
        self.path: list[str] = []
        self.seen: Counter[str] = Counter()

    def enter(self, name: str, *_: Any) -> None:
        if not self.path:
            self.seen.clear()
        self.path.append(name)

    def leave(self, *_: Any) -> None:
        self.path.pop()

    @property
    def name(self) -> str:
        return self.path[-1] if self.path else ""

    def numbered(self, name: str) -> str:
        """The name itself, the first time in a forward pass; with a number from the second on."""
        self.seen[name] += 1
        return name if self.seen[name] == 1 else f"{name}{self.seen[name]}"


class _Interceptor(TorchFunctionMode):
    """Sees every operator by the name that it is called by."""

    def __init__(self, model: nn.Module, visitor: Visitor, place: _Place) -> None:
        super().__init__()
        self.visitor, self.place = visitor, place
        self.names = {id(tensor): name for name, tensor in model.named_parameters()}
        first: Sequence[str] = getattr(model, "pretrained_cfg", {}).get("first_conv", ())
        self.first_convs = frozenset(first)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        handler = _HANDLERS.get(func)
        return func(*args, **(kwargs or {})) if handler is None else handler(self, func, *args, **(kwargs or {}))

    def weighted(self, x: Tensor, weight: Tensor, apply: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The product with a parameter."""
        name = self.names.get(id(weight))
        if name is None:
            raise QuantizeError(
                f"{self.where} computes with a part of a weight; quantisation reads whole weights only, so this "
                "network cannot be quantised"
            )
        site = name.removesuffix(".weight")
        origin = "image" if site in self.first_convs else _origin(x)
        return self.visitor(Product(site, f"{site}.input", name, True, origin, apply), x, weight)

    def attending(self, left: Tensor, right_tensor: Tensor, roles: tuple[str, str]) -> Tensor:
        """A product of two activations."""
        prefix = f"{self.place.name}."
        site = self.place.numbered(prefix + roles[0])
        right = f"{prefix}{roles[1]}{site.removeprefix(prefix + roles[0])}"
        return self.visitor(Product(site, site, right, False, _origin(left), torch.matmul), left, right_tensor)

    @property
    def where(self) -> str:
        return self.place.name


# Operators -----------------------------------------------------------------------------------------------------------


def _linear(mode: _Interceptor, func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    out = mode.weighted(input, weight, F.linear)
    return out if bias is None else out + bias


def _conv2d(
    mode: _Interceptor, func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **options: Any
) -> Tensor:
    out = mode.weighted(input, weight, lambda x, w: torch.conv2d(x, w, None, *args, **options))
    return out if bias is None else out + bias[:, None, None]


def _matmul(mode: _Interceptor, func: Any, left: Tensor, right: Tensor) -> Tensor:
    if not mode.where.startswith(f"{BLOCKS}."):
        return func(left, right)
    roles = ("softmax", "v") if _origin(left) == "softmax" else ("q", "k")
    return mode.attending(left, right, roles)


def _attention(
    mode: _Interceptor,
    func: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention in its steps, so that its operands exist."""
    if is_causal or enable_gqa or dropout_p:
        raise QuantizeError(f"{mode.where} attends in a way that quantisation does not know (causal, grouped, dropout)")
    logits = mode.attending(query, key.mT, ("q", "k")) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None:
        logits = logits.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype is torch.bool else logits + attn_mask
    return mode.attending(_marked(logits.softmax(dim=-1), "softmax"), value, ("softmax", "v"))


def _norm(mode: _Interceptor, func: Any, *args: Any, **options: Any) -> Tensor:
    weight = options.get("weight", args[2] if len(args) > 2 else None)
    name = mode.names.get(id(weight), "").removesuffix(".weight")
    return _marked(func(*args, **options), f"norm:{name}" if name else "")


def _marking(origin: str) -> Callable[..., Tensor]:
    def handle(mode: _Interceptor, func: Any, *args: Any, **options: Any) -> Tensor:
        return _marked(func(*args, **options), origin)

    return handle


def _passing_on(mode: _Interceptor, func: Any, x: Tensor, *args: Any, **options: Any) -> Tensor:
    return _marked(func(x, *args, **options), _origin(x))


def _marked(x: Tensor, origin: str) -> Tensor:
    x.crossvit_origin = origin  # type: ignore[attr-defined]
    return x


def _origin(x: Tensor) -> str:
    return getattr(x, "crossvit_origin", "")


_HANDLERS: dict[Any, Callable[..., Any]] = {
    F.linear: _linear,
    torch.conv2d: _conv2d,
    torch.matmul: _matmul,
    torch.bmm: _matmul,
    Tensor.matmul: _matmul,
    Tensor.bmm: _matmul,
    Tensor.__matmul__: _matmul,
    F.scaled_dot_product_attention: _attention,
    F.layer_norm: _norm,
    F.gelu: _marking("gelu"),
    F.softmax: _marking("softmax"),
    torch.softmax: _marking("softmax"),
    Tensor.softmax: _marking("softmax"),
    F.dropout: _passing_on,
    Tensor.to: _passing_on,
    Tensor.__getitem__: _passing_on,
    Tensor.mT.__get__: _passing_on,  # type: ignore[attr-defined]
}
