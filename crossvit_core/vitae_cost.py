"""ViTAEv2's inductive biases (arXiv 2202.10108): which convolutions and windows they are, and what they cost.

Imports no torch. The modules are in ``reduction_stem``, ``parallel_conv`` and ``window_attention``.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

from crossvit_core.config import BranchConfig, Size
from crossvit_core.conv_stem import ConvLayer, conv_stem_layers
from crossvit_core.layer_cost import CACHED, Cost, attention_maps_cost, conv_cost, mlp_cost, products_cost

# Pyramid reduction (the paper's PRM) ----------------------------------------------------------------------------------


def pyramid_layers(inputs: int, outputs: int, kernel: int, stride: int, dilations: tuple[int, ...]) -> list[ConvLayer]:
    """One convolution per dilation, each of ``outputs`` channels, side by side: they read the same, at several scales.

    Padded as the released code pads, each divides a side that ``stride`` divides exactly.
    """
    return [ConvLayer(inputs, outputs, kernel, stride, _padding(kernel, stride, d), d) for d in dilations]


def reduction_stem_layers(
    patch_size: int, in_channels: int, width: int, dilations: tuple[int, ...]
) -> tuple[list[ConvLayer], tuple[ConvLayer, ...]]:
    """The † stem with its first convolution spread over dilations: those of the pyramid, and the two that follow.

    Of n dilations each has a quarter of ``width`` over n channels, at least one.
    """
    first, second, third = conv_stem_layers(patch_size, in_channels, width)
    each = max(first.outputs // len(dilations), 1)
    pyramid = pyramid_layers(in_channels, each, first.kernel, first.stride, dilations)
    return pyramid, (second._replace(inputs=each * len(dilations)), third)


@lru_cache(CACHED)
def reduction_stem_cost(size: Size, patch_size: int, in_channels: int, width: int, dilations: tuple[int, ...]) -> Cost:
    """The convolutions of ``reduction_stem_layers``."""
    pyramid, following = reduction_stem_layers(patch_size, in_channels, width, dilations)
    rows, columns = size[0] // pyramid[0].stride, size[1] // pyramid[0].stride
    cost = Cost()
    for layer in pyramid:
        cost += conv_cost(layer, rows, columns)
    for layer in following:
        rows, columns = rows // layer.stride, columns // layer.stride
        cost += conv_cost(layer, rows, columns)
    return cost


def _padding(kernel: int, stride: int, dilation: int) -> int:
    """Half of what the dilated kernel reaches beyond its stride, rounded up."""
    return -(-((kernel - 1) * dilation + 1 - stride) // 2)


# Parallel convolutions (PCM) ------------------------------------------------------------------------------------------


def parallel_conv_layers(branch: BranchConfig) -> tuple[ConvLayer, ...]:
    """Grouped 3 x 3 convolutions on the branch's grid: to ``conv_dim`` channels, back, and at depth 3 once more."""
    width, hidden = branch.embed_dim, branch.conv_dim
    groups = width // branch.conv_channels_per_group
    widths = (width, hidden, width) if branch.conv_depth == 2 else (width, hidden, width, width)
    return tuple(ConvLayer(a, b, 3, 1, 1, 1, groups) for a, b in pairwise(widths))


@lru_cache(CACHED)
def parallel_conv_cost(layers: tuple[ConvLayer, ...], places: int) -> Cost:
    """The convolutions on a grid of ``places``, and a BatchNorm after each but the last."""
    cost = Cost()
    for layer in layers:
        cost += conv_cost(layer, places, 1)
    return cost + Cost(2 * sum(layer.outputs for layer in layers[:-1]))


# Attention in windows -------------------------------------------------------------------------------------------------


def window_on(grid: Size, side: int) -> Size | None:
    """(rows, columns) of windows of ``side`` patches on a grid, no larger than it; None where attention is full."""
    window = (min(side, grid[0]), min(side, grid[1]))
    return None if side == 0 or window == grid else window


def padded_side(side: int, window: int) -> int:
    """The next multiple of the window."""
    return -(-side // window) * window


@lru_cache(CACHED)
def window_products_cost(grid: Size, window: Size, width: int, heads: int) -> Cost:
    """Products of attention where patches meet those of their own window and the class token, which meets all tokens.

    The grid is padded to whole windows, and what pads it has queries too.
    """
    places = padded_side(grid[0], window[0]) * padded_side(grid[1], window[1])
    of_class = products_cost(1, grid[0] * grid[1] + 1, width, heads)
    return of_class + products_cost(places, window[0] * window[1] + 1, width, heads)


# A block with any of these --------------------------------------------------------------------------------------------


@lru_cache(CACHED)
def vitae_block_cost(branch: BranchConfig, window: Size | None) -> Cost:
    """A transformer block of ``branch`` with its convolutions, if any, and its attention within ``window``, if any.

    ``window`` is that of ``window_on``.
    """
    tokens, width, heads = branch.num_tokens, branch.embed_dim, branch.num_heads
    cost = attention_maps_cost(tokens, width) + mlp_cost(tokens, width, branch.mlp_dim)
    if window is None:
        cost += products_cost(tokens, tokens, width, heads)
    else:
        cost += window_products_cost(branch.grid, window, width, heads)
    if branch.conv_path:
        cost += parallel_conv_cost(parallel_conv_layers(branch), branch.num_patches)
    return cost
