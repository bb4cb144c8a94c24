"""SQ-b: shift and scale what norms give, so that it is symmetric and even, and undo both in the layers that read it.

Reconstruction of MPTQ-ViT's SmoothQuant with bias term: that the bias is the midpoint of a channel is an assumption
(Outlier Suppression+ uses it). Without the shift it is SmoothQuant as published. The network stays the same function.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from crossvit_core.model import CrossViT
from crossvit_core.quantize.calibrate import Observed, observe
from crossvit_core.window_attention import WindowAttention

_SMALLEST = 1e-5
_PROBE_IMAGES = 8
_TOLERANCE = 1e-4  # of the largest logit; a fold that another reader of the norm breaks is far beyond


@torch.no_grad()
def smooth(model: CrossViT, images: Tensor, *, with_bias: bool = True, alpha: float = 0.5) -> list[str]:
    """Fold, in place, a shift and a scale per channel into every norm that only linear layers read; their names.

    ``alpha`` in [0, 1] is the share of the range that goes to the weights. A norm that something else reads as well is
    left as it is: folding it would change the logits, which is tried on some of the ``images`` (N, C, H, W).
    """
    modules = dict(model.named_modules())
    sites = observe(model, images)
    probe = images[:_PROBE_IMAGES]
    expected = model(probe)
    smoothed = []
    for name, readers in _readers(sites).items():
        norm, linears = modules[name], [modules[site] for site in readers]
        assert isinstance(norm, nn.LayerNorm)
        if not all(isinstance(layer, nn.Linear) for layer in linears):
            continue
        saved = [(part, _copy(part)) for part in (norm, *linears)]
        padded = any(_is_padded(modules[site.rpartition(".")[0]]) for site in readers)
        _fold(norm, linears, [sites[site] for site in readers], with_bias and not padded, alpha)
        if (model(probe) - expected).abs().max() <= _TOLERANCE * expected.abs().max():
            smoothed.append(name)
        else:
            for part, state in saved:
                part.load_state_dict(state, strict=False)
    return smoothed


def _is_padded(module: nn.Module) -> bool:
    """Do zeros join what the norm gives before its readers see it? They would be shifted, too."""
    return isinstance(module, WindowAttention) and module.pads


def shift_and_scale(
    low: Tensor, high: Tensor, weight_max: Tensor, *, with_bias: bool, alpha: float
) -> tuple[Tensor, Tensor]:
    """beta = (max + min) / 2 and s = max|X - beta|^alpha / max|W|^(1 - alpha), each per channel, (C,).

    A channel that is always equal to beta keeps its scale.
    """
    beta = (low + high) / 2 if with_bias else torch.zeros_like(low)
    reach = torch.maximum((high - beta).abs(), (low - beta).abs())
    scale = (reach**alpha / weight_max.clamp_min(_SMALLEST) ** (1 - alpha)).clamp_min(_SMALLEST)
    return beta, torch.where(reach > 0, scale, 1.0)


def _readers(sites: Mapping[str, Observed]) -> dict[str, list[str]]:
    """The layers behind every norm, by the norm's name."""
    readers = defaultdict(list)
    for site, seen in sites.items():
        kind, _, norm = seen.product.left_origin.partition(":")
        if kind == "norm" and seen.product.right_is_weight:
            readers[norm].append(site)
    return readers


def _fold(norm: nn.LayerNorm, linears: list[nn.Linear], seen: list[Observed], with_bias: bool, alpha: float) -> None:
    """One shift and scale for all readers of the norm, by the extrema and the largest weights over all of them."""
    low = torch.stack([each.lows for each in seen if each.lows is not None]).amin(dim=0)
    high = torch.stack([each.highs for each in seen if each.highs is not None]).amax(dim=0)
    weight_max = torch.stack([layer.weight.abs().amax(dim=0) for layer in linears]).amax(dim=0)
    beta, scale = shift_and_scale(low, high, weight_max, with_bias=with_bias, alpha=alpha)
    norm.weight.div_(scale)
    norm.bias.sub_(beta).div_(scale)
    for layer in linears:
        moved = layer.weight @ beta
        if layer.bias is None:
            layer.bias = nn.Parameter(moved, requires_grad=False)
        else:
            layer.bias.add_(moved)
        layer.weight.mul_(scale)


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}
