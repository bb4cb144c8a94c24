"""Gradients reach every parameter that can have one, and are those of the written form; what has none is listed."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from crossvit_core.blocks import Attention
from crossvit_core.config import FUSION_NAMES, ArchConfig, EncoderConfig
from crossvit_core.cross_attention import SingleQueryAttention
from crossvit_core.fusion import reference_form
from crossvit_core.model import CrossViT, build_model
from crossvit_core.presets import PRESETS

NANO = PRESETS["crossvit_nano_16"].replace(num_classes=3)


@dataclass(frozen=True)
class Case:
    """A network, and the pieces of its parameters that no output depends on, besides the key biases."""

    encoders: tuple[EncoderConfig, ...]
    dead: frozenset[str] = frozenset()
    branches: int = 2

    @property
    def arch(self) -> ArchConfig:
        """Narrow branches, the first with a conv stem; a third is as wide as the first."""
        small, large = NANO.branches
        first = replace(small, embed_dim=8, stem="conv")
        branches = (first, replace(large, embed_dim=12), replace(large, embed_dim=8, patch_size=4))
        return NANO.replace(branches=branches[: self.branches], encoders=self.encoders)


def _patches_unread(branch: int, stem: str) -> frozenset[str]:
    """Everything that makes the patches of a branch whose class token never meets them."""
    layers = [f"patch_embed.{branch}.proj{layer}" for layer in ((".0", ".2", ".4") if stem == "conv" else ("",))]
    names = [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    return frozenset({*names, f"pos_embed_{branch}[patches]"})


def _alone(encoder: int, *fusions: str) -> frozenset[str]:
    """Later cross-attention blocks of a published stack: one token attends to itself, so its weights do not matter."""
    return frozenset(
        f"blocks.{encoder}.fusion.{fusion}.attn.{name}"
        for fusion in fusions
        for name in ("wq.weight", "wq.bias", "wk.weight")
    )


def _encoder(fusion: str = "cross_attention", depths: tuple[int, ...] = (1, 1), **changes: object) -> EncoderConfig:
    return EncoderConfig(depths=depths, fusion=fusion, **changes)  # type: ignore[arg-type]


CASES = {
    **{fusion: Case((_encoder(fusion), _encoder(fusion))) for fusion in FUSION_NAMES},
    **{
        f"three branches, {fusion}": Case((_encoder(fusion, (1, 0, 1)), _encoder(fusion, (1, 1, 1))), branches=3)
        for fusion in FUSION_NAMES
    },
    "every fusion in turn": Case(tuple(_encoder(fusion) for fusion in FUSION_NAMES)),
    "one branch": Case((_encoder("none", (2,)),), branches=1),
    "identity maps": Case((_encoder(depths=(1, 1, 1), identity_maps=True),), branches=3),
    "stack of all-attention": Case((_encoder("all_attention", fusion_depth=2),)),
    "published stack": Case(
        (_encoder(fusion_depth=3), _encoder(fusion_depth=2)),
        dead=_alone(0, "0.1", "0.2", "1.1", "1.2") | _alone(1, "0.1", "1.1"),
    ),
    "stack that keeps patches": Case((_encoder(fusion_depth=3, fusion_reading="patches"),)),
    "no blocks, cross-attention": Case((_encoder(depths=(0, 0)),)),
    "no blocks, all-attention": Case((_encoder("all_attention", (0, 0)),)),
    "no blocks in one branch, unfused": Case((_encoder("none", (0, 1)),), dead=_patches_unread(0, "conv")),
    "no blocks, class tokens": Case(
        (_encoder("class_token", (0, 0)),), dead=_patches_unread(0, "conv") | _patches_unread(1, "linear")
    ),
    "no blocks, pairwise twice": Case(
        (_encoder("pairwise", (0, 0)),) * 2, dead=_patches_unread(0, "conv") | _patches_unread(1, "linear")
    ),
    "patches read by the other branch": Case((_encoder("pairwise", (0, 0)), _encoder("none", (0, 1)))),
}

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_case_and_stochastic_depth = pytest.mark.parametrize(
    ("case", "drop_path_rate"),
    [*((case, 0.0) for case in CASES.values()), *((CASES[fusion], 0.3) for fusion in FUSION_NAMES)],
    ids=[*CASES, *(f"{fusion}, stochastic depth" for fusion in FUSION_NAMES)],
)


def _lively(arch: ArchConfig, drop_path_rate: float = 0.0) -> CrossViT:
    """A double-precision network in training whose every parameter is far from zero, so that no term can hide."""
    model = build_model(arch, drop_path_rate=drop_path_rate).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def _images(arch: ArchConfig, batch: int = 16) -> Tensor:
    shape = (batch, arch.in_channels, *arch.size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _gradients(model: CrossViT) -> dict[str, Tensor]:
    """By parameter, of a loss that weighs every logit differently; zeros where autograd has none."""
    torch.manual_seed(2)  # stochastic depth leaves out the same samples in both forms
    model.zero_grad()
    logits = model(_images(model.arch))
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    (logits * weights).sum().backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}


def _pieces(gradients: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Parameters, in pieces where a part may be alive and another dead."""
    for name, gradient in gradients.items():
        if name.endswith("qkv.bias"):
            yield from zip((f"{name}[q]", f"{name}[k]", f"{name}[v]"), gradient.chunk(3))
        elif name.startswith("pos_embed"):
            yield from zip((f"{name}[class]", f"{name}[patches]"), (gradient[:, :1], gradient[:, 1:]))
        else:
            yield name, gradient


def _key_biases(model: CrossViT) -> set[str]:
    """Softmax cancels what is added to all keys."""
    self_attention = {f"{name}.qkv.bias[k]" for name, part in model.named_modules() if isinstance(part, Attention)}
    cross = {f"{name}.wk.bias" for name, part in model.named_modules() if isinstance(part, SingleQueryAttention)}
    return self_attention | cross


@every_case_and_stochastic_depth
def test_gradients_reach_all_but_the_listed(case: Case, drop_path_rate: float) -> None:
    """Element by element: a piece is wholly dead, to rounding, or wholly alive."""
    model = _lively(case.arch, drop_path_rate)
    pieces = dict(_pieces(_gradients(model)))
    rounding = 1e-13 * max(float(piece.abs().max()) for piece in pieces.values())
    dead = {name for name, piece in pieces.items() if piece.abs().max() <= rounding}
    assert dead == case.dead | _key_biases(model)
    partly = [name for name, piece in pieces.items() if name not in dead and piece.abs().min() <= rounding]
    assert partly == []


@every_case
def test_what_asks_for_a_gradient_gets_one_and_what_never_has_one_does_not_ask(case: Case) -> None:
    """Whole parameters of cross-attention alone: others that no output depends on get zeros."""
    model = _lively(case.arch)
    model(_images(model.arch)).sum().backward()
    got = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert got == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    alone = {name for name in case.dead if ".fusion." in name}
    assert got == dict(model.named_parameters()).keys() - alone - {
        n for n in _key_biases(model) if n.endswith("wk.bias")
    }


@every_case_and_stochastic_depth
def test_gradients_are_those_of_the_written_form(case: Case, drop_path_rate: float) -> None:
    model = _lively(case.arch, drop_path_rate)
    got = _gradients(model)
    with reference_form(model):
        expected = _gradients(model)
    for name, want in expected.items():
        scale = max(1.0, float(want.abs().max()))
        torch.testing.assert_close(got[name], want, atol=1e-10 * scale, rtol=0, msg=lambda text, n=name: f"{n}: {text}")


@every_case
def test_gradients_are_slopes(case: Case) -> None:
    """Along one direction of all parameters and the images at once: off by the square of a step of 1e-5.

    Parameters that ask for no gradient are moved as well, to no effect.
    """
    model, images = _lively(case.arch).eval(), _images(case.arch, 2).requires_grad_()
    values = [images, *model.parameters()]
    generator = torch.Generator().manual_seed(4)
    direction = [torch.randn(value.shape, generator=generator, dtype=torch.float64) for value in values]
    asking = [(value, d) for value, d in zip(values, direction) if value.requires_grad]
    gradients = torch.autograd.grad(model(images).sin().sum(), [value for value, _ in asking])
    slope = sum(float((g * d).sum()) for g, (_, d) in zip(gradients, asking))
    measured = (_moved(model, values, direction, 1e-5) - _moved(model, values, direction, -1e-5)) / 2e-5
    assert measured == pytest.approx(slope, rel=1e-5)


def _moved(model: CrossViT, values: list[Tensor], direction: list[Tensor], step: float) -> float:
    """The loss with all ``values``, of which the first are the images, ``step`` along their direction."""
    images, *parameters = (value.detach() + step * d for value, d in zip(values, direction))
    named = dict(zip((name for name, _ in model.named_parameters()), parameters))
    with torch.no_grad():
        return float(torch.func.functional_call(model, named, (images,)).sin().sum())


def test_key_biases_of_the_paper_are_as_many_as_the_table_says(fixtures_dir: Path) -> None:
    with (fixtures_dir / "cost_reductions.csv").open() as file:
        rows = {row["model"].removesuffix(" (unregistered)"): row for row in csv.DictReader(file)}
    for name, row in rows.items():
        with torch.device("meta"):
            model = build_model(PRESETS[name])
        pieces = dict(_pieces(dict(model.named_parameters())))
        dead = sum(pieces[bias].numel() for bias in _key_biases(model))
        assert dead == int(row["key_bias_params_without_effect"]), name
