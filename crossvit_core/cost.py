"""What an architecture costs, in closed form: nothing is built, nothing imports torch.

The convention, the same everywhere in the suite:

- ``params``: elements of all parameters, position embeddings and class tokens included.
- ``macs``: multiply-adds of convolutions, linear layers and the two products of attention, for one image. This is what
  the paper (and fvcore) call FLOPs. Norms, softmax, activations, biases, sums and resizing count nothing.
- ``activations``: output elements of those same convolutions, linear layers and products, for one image (fvcore's
  ``ActivationCountAnalysis``). Attention products are ``q k^T``, with heads x queries x keys elements, and ``A v``.
- ``executed_macs``: the multiply-adds that ``forward`` executes in evaluation and training, counted as ``macs`` are.

The first three are of the network as the paper writes it, so that all architectures compare on its terms. The modules
compute some of it in cheaper, equal forms (``crossvit_core.fusion``): attention of one query needs no keys and values,
and after the last encoder nobody reads patches. ``executed_macs`` counts those forms; where a part runs as it is
written, which is everywhere else, it equals ``macs``. Not counted is what chains of residual attention execute beyond
that to train in concatenated form, on a processor, over many tokens (``crossvit_core.residual_attention``).

A cost function stands here for every module that another file of this folder defines; the module refers to it as its
``cost``. Counts compose: a ``Cost`` carries the costs of its parts under their names in the state dict.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from crossvit_core.config import ATTENTION_FUSIONS, ArchConfig, BranchConfig, EncoderConfig, Size
from crossvit_core.conv_stem import ConvLayer, conv_stem_layers
from crossvit_core.exshortcut_config import taps_cost
from crossvit_core.layer_cost import (
    CACHED,
    Cost,
    block_cost,
    class_row_block_cost,
    conv_cost,
    few_queries_macs,
    linear_cost,
    norm_cost,
    parameter_cost,
    products_cost,
    self_attention_cost,
    total,
)
from crossvit_core.reading import read_patches
from crossvit_core.residual_config import alpha_sizes
from crossvit_core.vitae_cost import reduction_stem_cost, vitae_block_cost, window_on


class Stream(NamedTuple):
    """What a fusion sees of a branch: tokens (class token included), width, heads."""

    tokens: int
    width: int
    heads: int


def count_cost(arch: ArchConfig) -> Cost:
    """All counts of ``arch`` for one image. Raises ArchError if it cannot be built."""
    arch.check()
    parts: dict[str, Cost] = {}
    for index, branch in enumerate(arch.branches):
        parts |= _embedding_parts(index, branch, arch.in_channels)
    streams = tuple(Stream(branch.num_tokens, branch.embed_dim, branch.num_heads) for branch in arch.branches)
    mlp_dims = [branch.mlp_dim for branch in arch.branches]
    last, read = len(arch.encoders) - 1, read_patches(arch)
    for index, encoder in enumerate(arch.encoders):
        parts |= _encoder_parts(
            f"blocks.{index}", encoder, arch.branches, streams, mlp_dims, index == last, read[index]
        )
    for index, branch in enumerate(arch.branches):
        parts[f"norm.{index}"] = norm_cost(branch.embed_dim)
    parts |= HEAD_COSTS[arch.head.kind](arch)
    if arch.residual_attention.is_on:
        parts |= residual_attention_cost(arch)
    return total(parts)


def _embedding_parts(index: int, branch: BranchConfig, in_channels: int) -> dict[str, Cost]:
    geometry = (branch.size, branch.patch_size, in_channels, branch.embed_dim)
    stem = STEM_COSTS[branch.stem](*geometry, branch.stem_dilations)
    return {
        f"pos_embed_{index}": parameter_cost(branch.num_tokens * branch.embed_dim),
        f"cls_token_{index}": parameter_cost(branch.embed_dim),
        f"patch_embed.{index}": stem,
    }


def _encoder_parts(
    prefix: str,
    encoder: EncoderConfig,
    branches: tuple[BranchConfig, ...],
    streams: tuple[Stream, ...],
    mlp_dims: list[int],
    class_only: bool,
    read: frozenset[int],
) -> dict[str, Cost]:
    """``class_only``: only class rows are read afterwards, so only those are executed where a form allows it.

    ``read`` are the branches whose patches are read after their blocks; the last block of the others is a plain one.
    """
    parts: dict[str, Cost] = {}
    skips_patches = class_only and encoder.fusion not in ATTENTION_FUSIONS
    for b, (stream, mlp_dim, depth) in enumerate(zip(streams, mlp_dims, encoder.depths)):
        plain = not (branches[b].conv_path or encoder.windows)
        block = block_cost(*stream, mlp_dim) if plain else _vitae_block(branches[b], encoder.window_side(b))
        for d in range(depth):
            parts[f"{prefix}.blocks.{b}.{d}"] = block
        if depth and b not in read:
            last = class_row_block_cost if skips_patches else block_cost
            parts[f"{prefix}.blocks.{b}.{depth - 1}"] = last(*stream, mlp_dim)
    for name, cost in FUSION_COSTS[encoder.fusion](streams, encoder, class_only).items():
        parts[f"{prefix}.{name}"] = cost
    return parts


def _vitae_block(branch: BranchConfig, side: int) -> Cost:
    return vitae_block_cost(branch, window_on(branch.grid, side))


# Stems: (size, patch_size, in_channels, width, dilations) -> Cost -----------------------------------------------------


@lru_cache(CACHED)
def linear_stem_cost(
    size: Size, patch_size: int, in_channels: int, width: int, dilations: tuple[int, ...] = ()
) -> Cost:
    """One convolution whose kernel and stride are the patch."""
    layer = ConvLayer(in_channels, width, patch_size, patch_size, 0)
    return conv_cost(layer, size[0] // patch_size, size[1] // patch_size)


@lru_cache(CACHED)
def conv_stem_cost(size: Size, patch_size: int, in_channels: int, width: int, dilations: tuple[int, ...] = ()) -> Cost:
    """The three convolutions of ``conv_stem_layers``."""
    cost, (rows, columns) = Cost(), size
    for layer in conv_stem_layers(patch_size, in_channels, width):
        rows, columns = rows // layer.stride, columns // layer.stride
        cost += conv_cost(layer, rows, columns)
    return cost


# Fusions: (streams, encoder, class_only) -> parts by name -------------------------------------------------------------


def no_fusion_cost(streams: tuple[Stream, ...], encoder: EncoderConfig, class_only: bool) -> dict[str, Cost]:
    """Branches that do not meet."""
    return {}


@lru_cache(CACHED)
def _map(rows: int, inputs: int, outputs: int, executed_rows: int) -> Cost:
    """f or g: LayerNorm, GELU, linear."""
    cost = norm_cost(inputs) + linear_cost(rows, inputs, outputs)
    return cost.executing(executed_rows * inputs * outputs)


def all_attention_cost(streams: tuple[Stream, ...], encoder: EncoderConfig, class_only: bool) -> dict[str, Cost]:
    """Eq. 2: maps of all tokens in every branch, ``fusion_depth`` self-attentions over all at the largest width."""
    common = widest(streams)
    tokens = sum(stream.tokens for stream in streams)
    parts = {}
    for i, stream in enumerate(streams):
        rows = stream.tokens
        parts[f"projs.{i}"] = _map(rows, stream.width, common.width, rows)
        parts[f"revert_projs.{i}"] = _map(rows, common.width, stream.width, 1 if class_only else rows)
    for layer in range(encoder.fusion_depth):
        parts[f"fusion.{layer}"] = self_attention_cost(tokens, common.width, common.heads)
    if class_only:
        name = f"fusion.{encoder.fusion_depth - 1}"
        parts[name] = parts[name].executing(few_queries_macs(len(streams), tokens, common.width))
    return parts


def class_token_cost(streams: tuple[Stream, ...], encoder: EncoderConfig, class_only: bool) -> dict[str, Cost]:
    """Eq. 3: maps of the class tokens of the branches narrower than the widest."""
    return _narrow_maps(streams, [1] * len(streams), class_only)


def pairwise_cost(streams: tuple[Stream, ...], encoder: EncoderConfig, class_only: bool) -> dict[str, Cost]:
    """Eq. 4: maps of all tokens of the branches narrower than the widest."""
    return _narrow_maps(streams, [stream.tokens for stream in streams], class_only)


def _narrow_maps(streams: tuple[Stream, ...], rows: list[int], class_only: bool) -> dict[str, Cost]:
    common = widest(streams).width
    parts = {}
    for i, (count, stream) in enumerate(zip(rows, streams)):
        if stream.width != common:
            executed = 1 if class_only else count
            parts[f"projs.{i}"] = _map(count, stream.width, common, executed)
            parts[f"revert_projs.{i}"] = _map(count, common, stream.width, executed)
    return parts


def cross_attention_cost(streams: tuple[Stream, ...], encoder: EncoderConfig, class_only: bool) -> dict[str, Cost]:
    """Eq. 5 to 7, cyclic: the class token of branch i attends to itself and the patches of branch i + 1."""
    keeps_patches = encoder.fusion_reading == "patches"
    parts = {}
    for i, stream in enumerate(streams):
        other = streams[(i + 1) % len(streams)]
        if not (encoder.identity_maps and stream.width == other.width):
            parts[f"projs.{i}"] = _map(1, stream.width, other.width, 1)
            parts[f"revert_projs.{i}"] = _map(1, other.width, stream.width, 1)
        parts[f"fusion.{i}"] = _cross_attention_stack(*other, encoder.fusion_depth, keeps_patches)
    return parts


@lru_cache(CACHED)
def _cross_attention_stack(tokens: int, width: int, heads: int, depth: int, keeps_patches: bool) -> Cost:
    first = _one_query(tokens, width, heads)
    # Alone with itself the token needs no weights of attention: W_v and W_o remain.
    later = first if keeps_patches else _one_query(1, width, heads).executing(2 * width**2)
    return first + later * (depth - 1)


def _one_query(tokens: int, width: int, heads: int) -> Cost:
    """Attention from one of ``tokens`` rows to all of them: wq and proj of one row, wk and wv of all.

    Executed without keys and values (``crossvit_core.cross_attention``): four maps of one row, two products per head.
    """
    linears = linear_cost(1, width, width) * 2 + linear_cost(tokens, width, width) * 2
    cost = norm_cost(width) + linears + products_cost(1, tokens, width, heads)
    return cost.executing(4 * width**2 + 2 * tokens * heads * width)


def widest(streams: tuple[Stream, ...]) -> Stream:
    """The first of the branches of largest width: it sets the common width and its heads."""
    return max(streams, key=lambda stream: stream.width)


# Heads: (arch) -> parts by name ---------------------------------------------------------------------------------------


def class_token_head_cost(arch: ArchConfig) -> dict[str, Cost]:
    """One linear map per branch."""
    widths = enumerate([branch.embed_dim for branch in arch.branches])
    return {f"head.{i}": linear_cost(1, width, arch.num_classes) for i, width in widths}


def exshortcut_head_cost(arch: ArchConfig) -> dict[str, Cost]:
    """The plain head, and every tap with its own map."""
    return class_token_head_cost(arch) | taps_cost(arch)


def residual_attention_cost(arch: ArchConfig) -> dict[str, Cost]:
    """Learned alphas. To mix maps is elementwise and counts nothing (see ``mixing_multiplications``)."""
    sizes = alpha_sizes(arch).values()
    return {"residual_attention": parameter_cost(sum(sizes))} if sizes else {}


StemCost = Callable[[Size, int, int, int, tuple[int, ...]], Cost]
FusionCost = Callable[[tuple[Stream, ...], EncoderConfig, bool], dict[str, Cost]]
HeadCost = Callable[[ArchConfig], dict[str, Cost]]

STEM_COSTS: dict[str, StemCost] = {
    "linear": linear_stem_cost,
    "conv": conv_stem_cost,
    "reduction": reduction_stem_cost,
}
FUSION_COSTS: dict[str, FusionCost] = {
    "none": no_fusion_cost,
    "all_attention": all_attention_cost,
    "class_token": class_token_cost,
    "pairwise": pairwise_cost,
    "cross_attention": cross_attention_cost,
}
HEAD_COSTS: dict[str, HeadCost] = {"class_token": class_token_head_cost, "exshortcut": exshortcut_head_cost}
