"""What an architecture costs, in closed form: nothing is built, nothing imports torch.

The convention, the same everywhere in the suite:

- ``params``: elements of all parameters, position embeddings and class tokens included.
- ``macs``: multiply-adds of convolutions, linear layers and the two products of attention, for one image. This is what
  the paper (and fvcore) call FLOPs. Norms, softmax, activations, biases, sums and resizing count nothing.
- ``activations``: output elements of those same convolutions, linear layers and products, for one image (fvcore's
  ``ActivationCountAnalysis``). Attention products are ``q k^T``, with heads x queries x keys elements, and ``A v``.

Counts are of the network as the paper writes it. The modules compute some of it in cheaper, equal forms
(``crossvit_core.fusion``); those savings are not counted here, so that all architectures compare on the paper's terms.

A cost function stands here for every module that another file of this folder defines; the module refers to it as its
``cost``. Counts compose: a ``Cost`` carries the costs of its parts under their names in the state dict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from crossvit_core.config import ArchConfig, BranchConfig, EncoderConfig, Size
from crossvit_core.conv_stem import ConvLayer, conv_stem_layers

_CACHED = 1 << 14


@dataclass(frozen=True)
class Cost:
    """Counts of a module for one image, and of its parts. Two costs are equal if their totals are.

    ``by_module`` maps the names that tensors have in the state dict, such as ``patch_embed.0``, ``blocks.1.blocks.0.2``
    or ``blocks.1.fusion.0``, to the cost of that part; the parts add up to the whole.
    """

    params: int = 0
    macs: int = 0
    activations: int = 0
    by_module: Mapping[str, Cost] = field(default_factory=dict, compare=False, repr=False)

    def __add__(self, other: Cost) -> Cost:
        """The cost of both; parts of one name are added up."""
        parts = dict(self.by_module)
        for name, cost in other.by_module.items():
            parts[name] = parts[name] + cost if name in parts else cost
        return Cost(self.params + other.params, self.macs + other.macs, self.activations + other.activations, parts)

    def __mul__(self, times: int) -> Cost:
        """The cost of ``times`` modules that do not share weights; without parts."""
        return Cost(self.params * times, self.macs * times, self.activations * times)


class Stream(NamedTuple):
    """What a fusion sees of a branch: tokens (class token included), width, heads."""

    tokens: int
    width: int
    heads: int


def total(parts: Mapping[str, Cost]) -> Cost:
    """The sum of named parts."""
    costs = parts.values()
    return Cost(
        sum([cost.params for cost in costs]),
        sum([cost.macs for cost in costs]),
        sum([cost.activations for cost in costs]),
        parts,
    )


def count_cost(arch: ArchConfig) -> Cost:
    """Parameters, multiply-adds and activations of ``arch`` for one image. Raises ArchError if it cannot be built."""
    arch.check()
    parts: dict[str, Cost] = {}
    for index, branch in enumerate(arch.branches):
        parts |= _embedding_parts(index, branch, arch.in_channels)
    for index, encoder in enumerate(arch.encoders):
        parts |= _encoder_parts(index, encoder, arch.branches)
    for index, branch in enumerate(arch.branches):
        parts[f"norm.{index}"] = _norm(branch.embed_dim)
    parts |= HEAD_COSTS[arch.head.kind](tuple(branch.embed_dim for branch in arch.branches), arch.num_classes)
    return total(parts)


def _embedding_parts(index: int, branch: BranchConfig, in_channels: int) -> dict[str, Cost]:
    stem = STEM_COSTS[branch.stem](branch.size, branch.patch_size, in_channels, branch.embed_dim)
    return {
        f"pos_embed_{index}": Cost(branch.num_tokens * branch.embed_dim),
        f"cls_token_{index}": Cost(branch.embed_dim),
        f"patch_embed.{index}": stem,
    }


def _encoder_parts(index: int, encoder: EncoderConfig, branches: tuple[BranchConfig, ...]) -> dict[str, Cost]:
    parts: dict[str, Cost] = {}
    for b, (branch, depth) in enumerate(zip(branches, encoder.depths)):
        block = block_cost(branch.num_tokens, branch.embed_dim, branch.num_heads, branch.mlp_dim)
        for d in range(depth):
            parts[f"blocks.{index}.blocks.{b}.{d}"] = block
    streams = tuple(Stream(branch.num_tokens, branch.embed_dim, branch.num_heads) for branch in branches)
    keeps_patches = encoder.fusion_reading == "patches"
    fusion = FUSION_COSTS[encoder.fusion](streams, encoder.fusion_depth, keeps_patches, encoder.identity_maps)
    parts |= {f"blocks.{index}.{name}": cost for name, cost in fusion.items()}
    return parts


# Layers --------------------------------------------------------------------------------------------------------------


@lru_cache(_CACHED)
def _norm(width: int) -> Cost:
    return Cost(2 * width)


def _linear(rows: int, inputs: int, outputs: int) -> Cost:
    return Cost((inputs + 1) * outputs, rows * inputs * outputs, rows * outputs)


def _products(queries: int, keys: int, width: int, heads: int) -> Cost:
    """``q k^T`` and ``A v`` over all heads."""
    return Cost(0, 2 * queries * keys * width, heads * queries * keys + queries * width)


def _conv(layer: ConvLayer, rows: int, columns: int) -> Cost:
    weights = layer.kernel**2 * layer.inputs * layer.outputs
    outputs = rows * columns * layer.outputs
    return Cost(weights + layer.outputs, rows * columns * weights, outputs)


@lru_cache(_CACHED)
def self_attention_cost(tokens: int, width: int, heads: int) -> Cost:
    """Norm and multi-head self-attention: q, k, v, both products, output."""
    linears = _linear(tokens, width, 3 * width) + _linear(tokens, width, width)
    return _norm(width) + linears + _products(tokens, tokens, width, heads)


@lru_cache(_CACHED)
def block_cost(tokens: int, width: int, heads: int, mlp_dim: int) -> Cost:
    """A transformer block: self-attention and FFN, each behind a norm."""
    mlp = _norm(width) + _linear(tokens, width, mlp_dim) + _linear(tokens, mlp_dim, width)
    return self_attention_cost(tokens, width, heads) + mlp


# Stems: (size, patch_size, in_channels, width) -> Cost ----------------------------------------------------------------


@lru_cache(_CACHED)
def linear_stem_cost(size: Size, patch_size: int, in_channels: int, width: int) -> Cost:
    """One convolution whose kernel and stride are the patch."""
    layer = ConvLayer(in_channels, width, patch_size, patch_size, 0)
    return _conv(layer, size[0] // patch_size, size[1] // patch_size)


@lru_cache(_CACHED)
def conv_stem_cost(size: Size, patch_size: int, in_channels: int, width: int) -> Cost:
    """The three convolutions of ``conv_stem_layers``."""
    cost, (rows, columns) = Cost(), size
    for layer in conv_stem_layers(patch_size, in_channels, width):
        rows, columns = rows // layer.stride, columns // layer.stride
        cost += _conv(layer, rows, columns)
    return cost


# Fusions: (streams, depth, keeps_patches, identity_maps) -> parts by name ---------------------------------------------


def no_fusion_cost(streams: tuple[Stream, ...], depth: int, keeps_patches: bool, identity: bool) -> dict[str, Cost]:
    """Branches that do not meet."""
    return {}


@lru_cache(_CACHED)
def _map(rows: int, inputs: int, outputs: int) -> Cost:
    """f or g: LayerNorm, GELU, linear."""
    return _norm(inputs) + _linear(rows, inputs, outputs)


def all_attention_cost(streams: tuple[Stream, ...], depth: int, keeps_patches: bool, identity: bool) -> dict[str, Cost]:
    """Eq. 2: maps of all tokens in every branch, ``depth`` self-attentions over all of them at the largest width."""
    common = widest(streams)
    tokens = sum(stream.tokens for stream in streams)
    parts = {}
    for i, stream in enumerate(streams):
        parts[f"projs.{i}"] = _map(stream.tokens, stream.width, common.width)
        parts[f"revert_projs.{i}"] = _map(stream.tokens, common.width, stream.width)
    for layer in range(depth):
        parts[f"fusion.{layer}"] = self_attention_cost(tokens, common.width, common.heads)
    return parts


def class_token_cost(streams: tuple[Stream, ...], depth: int, keeps_patches: bool, identity: bool) -> dict[str, Cost]:
    """Eq. 3: maps of the class tokens of the branches narrower than the widest."""
    return _narrow_maps([1] * len(streams), streams)


def pairwise_cost(streams: tuple[Stream, ...], depth: int, keeps_patches: bool, identity: bool) -> dict[str, Cost]:
    """Eq. 4: maps of all tokens of the branches narrower than the widest."""
    return _narrow_maps([stream.tokens for stream in streams], streams)


def _narrow_maps(rows: list[int], streams: tuple[Stream, ...]) -> dict[str, Cost]:
    common = widest(streams).width
    parts = {}
    for i, (count, stream) in enumerate(zip(rows, streams)):
        if stream.width != common:
            parts[f"projs.{i}"] = _map(count, stream.width, common)
            parts[f"revert_projs.{i}"] = _map(count, common, stream.width)
    return parts


def cross_attention_cost(
    streams: tuple[Stream, ...], depth: int, keeps_patches: bool, identity: bool
) -> dict[str, Cost]:
    """Eq. 5 to 7, cyclic: the class token of branch i attends to itself and the patches of branch i + 1."""
    parts = {}
    for i, stream in enumerate(streams):
        other = streams[(i + 1) % len(streams)]
        if not (identity and stream.width == other.width):
            parts[f"projs.{i}"] = _map(1, stream.width, other.width)
            parts[f"revert_projs.{i}"] = _map(1, other.width, stream.width)
        parts[f"fusion.{i}"] = _cross_attention_stack(*other, depth, keeps_patches)
    return parts


@lru_cache(_CACHED)
def _cross_attention_stack(tokens: int, width: int, heads: int, depth: int, keeps_patches: bool) -> Cost:
    later_tokens = tokens if keeps_patches else 1
    return _one_query(tokens, width, heads) + _one_query(later_tokens, width, heads) * (depth - 1)


def _one_query(tokens: int, width: int, heads: int) -> Cost:
    """Attention from one of ``tokens`` rows to all of them: wq and proj of one row, wk and wv of all."""
    linears = _linear(1, width, width) * 2 + _linear(tokens, width, width) * 2
    return _norm(width) + linears + _products(1, tokens, width, heads)


def widest(streams: tuple[Stream, ...]) -> Stream:
    """The first of the branches of largest width: it sets the common width and its heads."""
    return max(streams, key=lambda stream: stream.width)


# Heads: (widths, num_classes) -> parts by name ------------------------------------------------------------------------


def class_token_head_cost(widths: tuple[int, ...], num_classes: int) -> dict[str, Cost]:
    """One linear map per branch."""
    return {f"head.{i}": _linear(1, width, num_classes) for i, width in enumerate(widths)}


StemCost = Callable[[Size, int, int, int], Cost]
FusionCost = Callable[[tuple[Stream, ...], int, bool, bool], dict[str, Cost]]
HeadCost = Callable[[tuple[int, ...], int], dict[str, Cost]]

STEM_COSTS: dict[str, StemCost] = {"linear": linear_stem_cost, "conv": conv_stem_cost}
FUSION_COSTS: dict[str, FusionCost] = {
    "none": no_fusion_cost,
    "all_attention": all_attention_cost,
    "class_token": class_token_cost,
    "pairwise": pairwise_cost,
    "cross_attention": cross_attention_cost,
}
HEAD_COSTS: dict[str, HeadCost] = {"class_token": class_token_head_cost}
