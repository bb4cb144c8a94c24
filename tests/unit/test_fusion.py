"""Each fusion against its equation, written out with torch's own multi-head attention."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossvit_core.config import BranchConfig, EncoderConfig
from crossvit_core.cross_attention import CrossAttentionBlock, SingleQueryAttention
from crossvit_core.fusion import FUSIONS, MultiScaleEncoder

Tokens = list[Tensor]
HEADS = (2, 3, 1)
WIDTHS = (8, 12, 8)


def _encoder(fusion: str, grids: tuple[tuple[int, int], ...], **changes: object) -> MultiScaleEncoder:
    """An encoder without blocks, every parameter far from zero, in double precision."""
    torch.manual_seed(0)
    branches = [
        BranchConfig(image_size=(2 * rows, 2 * columns), patch_size=2, embed_dim=width, num_heads=heads)
        for (rows, columns), width, heads in zip(grids, WIDTHS, HEADS)
    ]
    config = EncoderConfig(depths=(0,) * len(grids), fusion=fusion, **changes)  # type: ignore[arg-type]
    encoder = FUSIONS[fusion](branches, config, [0.0]).double().eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.5)
    return encoder


def _tokens(grids: tuple[tuple[int, int], ...]) -> Tokens:
    return [torch.randn(2, 1 + r * c, width, dtype=torch.float64) for (r, c), width in zip(grids, WIDTHS)]


def _mha(query: Tensor, x: Tensor, weight: Tensor, bias: Tensor, proj: nn.Linear, heads: int) -> Tensor:
    """torch's multi-head attention of ``query`` over ``x``, batch first."""
    q, kv = query.transpose(0, 1), x.transpose(0, 1)
    out, _ = F.multi_head_attention_forward(
        q, kv, kv, x.shape[-1], heads, weight, bias, None, None, False, 0.0, proj.weight, proj.bias, False
    )
    return out.transpose(0, 1)


def _cross(block: CrossAttentionBlock, u: Tensor, patches: Tensor) -> Tensor:
    """Eq. 5 and 6 of one direction."""
    attn: SingleQueryAttention = block.attn
    x = block.norm1(torch.cat((u, patches), dim=1))
    weight = torch.cat([linear.weight for linear in (attn.wq, attn.wk, attn.wv)])
    bias = torch.cat([linear.bias for linear in (attn.wq, attn.wk, attn.wv)])
    return u + _mha(x[:, :1], x, weight, bias, attn.proj, attn.heads)


def _check(encoder: MultiScaleEncoder, x: Tokens, expected: Tokens) -> None:
    with torch.inference_mode():
        torch.testing.assert_close(encoder(x), expected, atol=1e-10, rtol=1e-10)
        rows = [tokens[:, :1] for tokens in expected]
        torch.testing.assert_close(encoder(x, class_only=True), rows, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("count", [2, 3])
def test_cross_attention_is_cyclic(count: int) -> None:
    grids = ((3, 2), (2, 2), (1, 4))[:count]
    encoder, x = _encoder("cross_attention", grids), _tokens(grids)
    expected = []
    for i, (f, block, g) in enumerate(zip(encoder.projs, encoder.fusion, encoder.revert_projs)):
        y = g(_cross(block, f(x[i][:, :1]), x[(i + 1) % count][:, 1:]))
        expected.append(torch.cat((y, x[i][:, 1:]), dim=1))
    _check(encoder, x, expected)


@pytest.mark.parametrize(("reading", "keeps"), [("published", False), ("patches", True)])
def test_stacked_cross_attention(reading: str, keeps: bool) -> None:
    grids = ((3, 2), (2, 2))
    encoder, x = _encoder("cross_attention", grids, fusion_depth=3, fusion_reading=reading), _tokens(grids)
    expected = []
    for i, (f, blocks, g) in enumerate(zip(encoder.projs, encoder.fusion, encoder.revert_projs)):
        patches = x[1 - i][:, 1:]
        y = _cross(blocks[0], f(x[i][:, :1]), patches)
        for block in blocks[1:]:
            y = _cross(block, y, patches if keeps else patches[:, :0])
        expected.append(torch.cat((g(y), x[i][:, 1:]), dim=1))
    _check(encoder, x, expected)


@pytest.mark.parametrize("depth", [1, 2])
def test_all_attention(depth: int) -> None:
    grids = ((3, 2), (2, 2), (1, 4))
    encoder, x = _encoder("all_attention", grids, fusion_depth=depth), _tokens(grids)
    y = torch.cat([f(tokens) for f, tokens in zip(encoder.projs, x)], dim=1)
    for block in encoder.fusion:
        normed, attn = block.norm1(y), block.attn
        y = y + _mha(normed, normed, attn.qkv.weight, attn.qkv.bias, attn.proj, 3)
    _check(encoder, x, [g(part) for g, part in zip(encoder.revert_projs, y.split([7, 5, 5], dim=1))])


def test_class_tokens_are_summed() -> None:
    grids = ((3, 2), (2, 2))
    encoder, (small, large) = _encoder("class_token", grids), _tokens(grids)
    shared = encoder.projs[0](small[:, :1]) + large[:, :1]
    expected = [
        torch.cat((encoder.revert_projs[0](shared), small[:, 1:]), dim=1),
        torch.cat((shared, large[:, 1:]), dim=1),
    ]
    _check(encoder, [small, large], expected)


def _halved(patches: Tensor) -> Tensor:
    """A 2 x 4 grid on 1 x 2: bilinear at half the side is the mean of each square."""
    return patches.unflatten(1, (1, 2, 2, 2)).mean(dim=(2, 4)).flatten(1, 2)


def _repeated(patches: Tensor) -> Tensor:
    """A 1 x 1 grid on 2 x 2: its one patch everywhere."""
    return patches.expand(-1, 4, -1)


@pytest.mark.parametrize(
    ("grids", "onto_large", "onto_small"),
    [
        (((2, 3), (2, 3)), lambda x: x, lambda x: x),
        (((2, 2), (1, 1)), lambda x: x.mean(dim=1, keepdim=True), _repeated),
        (((2, 4), (1, 2)), _halved, None),
    ],
)
def test_pairwise_sums_on_each_grid(
    grids: tuple[tuple[int, int], ...],
    onto_large: Callable[[Tensor], Tensor],
    onto_small: Callable[[Tensor], Tensor] | None,
) -> None:
    encoder, (small, large) = _encoder("pairwise", grids), _tokens(grids)
    mapped = encoder.projs[0](small)
    row = mapped[:, :1] + large[:, :1]
    got = encoder([small, large])
    expected = torch.cat((row, onto_large(mapped[:, 1:]) + large[:, 1:]), dim=1)
    torch.testing.assert_close(got[1], expected, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(encoder([small, large], class_only=True), [x[:, :1] for x in got])
    if onto_small is not None:
        both = torch.cat((row, mapped[:, 1:] + onto_small(large[:, 1:])), dim=1)
        torch.testing.assert_close(got[0], encoder.revert_projs[0](both), atol=1e-10, rtol=1e-10)
