"""The currency of cost, and what layers and blocks cost. ``crossvit_core.cost`` states the convention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from crossvit_core.conv_stem import ConvLayer

CACHED = 1 << 14  # calls remembered per function: more than any space has of one layer


@dataclass(frozen=True)
class Cost:
    """Counts of a module for one image, and of its parts. Two costs are equal if their totals are.

    ``macs`` are multiply-adds as the paper writes the network, ``executed_macs`` those of the forms that run.

    ``by_module`` maps the names that tensors have in the state dict, such as ``patch_embed.0``, ``blocks.1.blocks.0.2``
    or ``blocks.1.fusion.0``, to the cost of that part; the parts add up to the whole.
    """

    params: int = 0
    macs: int = 0
    activations: int = 0
    executed_macs: int = 0
    by_module: Mapping[str, Cost] = field(default_factory=dict, compare=False, repr=False)

    def __add__(self, other: Cost) -> Cost:
        """The cost of both; parts of one name are added up."""
        parts = dict(self.by_module)
        for name, cost in other.by_module.items():
            parts[name] = parts[name] + cost if name in parts else cost
        return Cost(
            self.params + other.params,
            self.macs + other.macs,
            self.activations + other.activations,
            self.executed_macs + other.executed_macs,
            parts,
        )

    def __mul__(self, times: int) -> Cost:
        """The cost of ``times`` modules that do not share weights; without parts."""
        return Cost(self.params * times, self.macs * times, self.activations * times, self.executed_macs * times)

    def executing(self, macs: int) -> Cost:
        """The same module in an equal form of ``macs`` multiply-adds; without parts."""
        return Cost(self.params, self.macs, self.activations, macs)


def total(parts: Mapping[str, Cost]) -> Cost:
    """The sum of named parts."""
    costs = parts.values()
    return Cost(
        sum([cost.params for cost in costs]),
        sum([cost.macs for cost in costs]),
        sum([cost.activations for cost in costs]),
        sum([cost.executed_macs for cost in costs]),
        parts,
    )


@lru_cache(CACHED)
def parameter_cost(elements: int) -> Cost:
    """A parameter that is added: embeddings of positions, class tokens."""
    return Cost(elements)


@lru_cache(CACHED)
def norm_cost(width: int) -> Cost:
    """LayerNorm: parameters alone."""
    return Cost(2 * width)


@lru_cache(CACHED)
def linear_cost(rows: int, inputs: int, outputs: int) -> Cost:
    """A linear map with bias, of ``rows`` tokens."""
    macs = rows * inputs * outputs
    return Cost((inputs + 1) * outputs, macs, rows * outputs, macs)


def products_cost(queries: int, keys: int, width: int, heads: int) -> Cost:
    """``q k^T`` and ``A v`` over all heads."""
    macs = 2 * queries * keys * width
    return Cost(0, macs, heads * queries * keys + queries * width, macs)


def conv_cost(layer: ConvLayer, rows: int, columns: int) -> Cost:
    """A convolution with bias whose output has ``rows`` x ``columns`` places."""
    weights = layer.kernel**2 * layer.inputs // layer.groups * layer.outputs
    macs = rows * columns * weights
    return Cost(weights + layer.outputs, macs, rows * columns * layer.outputs, macs)


@lru_cache(CACHED)
def attention_maps_cost(tokens: int, width: int) -> Cost:
    """What attention is besides its products: norm, q, k, v, output."""
    return norm_cost(width) + linear_cost(tokens, width, 3 * width) + linear_cost(tokens, width, width)


@lru_cache(CACHED)
def mlp_cost(tokens: int, width: int, mlp_dim: int) -> Cost:
    """Norm and FFN."""
    return norm_cost(width) + linear_cost(tokens, width, mlp_dim) + linear_cost(tokens, mlp_dim, width)


@lru_cache(CACHED)
def self_attention_cost(tokens: int, width: int, heads: int) -> Cost:
    """Norm and multi-head self-attention: q, k, v, both products, output."""
    return attention_maps_cost(tokens, width) + products_cost(tokens, tokens, width, heads)


@lru_cache(CACHED)
def block_cost(tokens: int, width: int, heads: int, mlp_dim: int) -> Cost:
    """A transformer block: self-attention and FFN, each behind a norm."""
    return self_attention_cost(tokens, width, heads) + mlp_cost(tokens, width, mlp_dim)


def few_queries_macs(queries: int, tokens: int, width: int) -> int:
    """Self-attention asked by ``queries`` of ``tokens`` rows: q, both products and output of those, k and v of all."""
    return 2 * (queries + tokens) * width**2 + 2 * queries * tokens * width


def class_row_macs(tokens: int, width: int, mlp_dim: int) -> int:
    """A block whose class row alone is read: one query, one row of the FFN."""
    return few_queries_macs(1, tokens, width) + 2 * width * mlp_dim


@lru_cache(CACHED)
def class_row_block_cost(tokens: int, width: int, heads: int, mlp_dim: int) -> Cost:
    """A block that executes ``class_row_macs``."""
    return block_cost(tokens, width, heads, mlp_dim).executing(class_row_macs(tokens, width, mlp_dim))
