"""Residual attention: what it computes, in every form, and what it leaves alone."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from crossvit_core.config import ArchConfig, BranchConfig, EncoderConfig
from crossvit_core.conv_stem import ConvLayer
from crossvit_core.cost import count_cost
from crossvit_core.data import load_dataset
from crossvit_core.layer_cost import block_cost, conv_cost, linear_cost, norm_cost
from crossvit_core.model import CrossViT, build_model
from crossvit_core.presets import PRESETS
from crossvit_core.recipe import TrainRecipe
from crossvit_core.residual_attention import FORMS, Alphas, Link, attend, explicit_attention, suited_form
from crossvit_core.residual_config import ResidualAttentionConfig, mixing_multiplications
from crossvit_core.train import _make_optimizer, train_model

NANO = PRESETS["crossvit_nano_16"]
EVERYWHERE = ResidualAttentionConfig(where=(0, 1), scope="network", fusion=True)


def _arch(
    residual: ResidualAttentionConfig = EVERYWHERE, depths: tuple[int, int] = (1, 3), **encoder: Any
) -> ArchConfig:
    """Three encoders."""
    encoders = (EncoderConfig(depths=depths, **encoder),) * 3
    return NANO.replace(encoders=encoders, residual_attention=residual)


def _model(arch: ArchConfig, dtype: torch.dtype = torch.float64) -> CrossViT:
    """In evaluation mode, every parameter but the alphas far from zero, so that no term can hide."""
    torch.manual_seed(0)
    model = build_model(arch).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("residual_attention."):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def _images(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=dtype)


def _plain_twin(model: CrossViT) -> CrossViT:
    plain = build_model(model.arch.replace(residual_attention=ResidualAttentionConfig())).eval()
    plain.to(next(model.parameters()).dtype)
    tensors = {n: t for n, t in model.state_dict().items() if not n.startswith("residual_attention.")}
    plain.load_state_dict(tensors)
    return plain


# One chain -----------------------------------------------------------------------------------------------------------


def _chain(length: int, tokens: int = 7) -> list[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        tuple(torch.randn(2, 3, tokens, 4, generator=generator, dtype=torch.float64, requires_grad=True) for _ in "qkv")
        for _ in range(length)
    ]  # type: ignore[return-value]


def _run(form: str, chain: list[tuple[Tensor, Tensor, Tensor]], alpha: Tensor, rows: int | None = None) -> list[Tensor]:
    """What every attention finds; the last is asked by its first ``rows`` alone."""
    found, before = [], None
    for index, (q, k, v) in enumerate(chain):
        last = index == len(chain) - 1
        link = Link(before, alpha if before else None, form, last)
        out, before = attend(q[..., :rows, :] if last else q, k, v, q.shape[-1] ** -0.5, link)
        found.append(out)
    return found


@pytest.mark.parametrize("rows", [None, 1])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("alpha", [torch.tensor([0.3]), torch.tensor([0.2, 0.7, 1.3])], ids=["shared", "per head"])
def test_every_form_is_the_written_recurrence_with_its_gradients(form: str, rows: int | None, alpha: Tensor) -> None:
    alpha = alpha.double().requires_grad_()
    chain = _chain(4)
    got = _run(form, chain, alpha, rows)
    logits, want = None, []
    for index, (q, k, v) in enumerate(chain):
        q = q[..., :rows, :] if index == 3 else q
        scores = (q / 4**0.5) @ k.mT
        weight = alpha.view(-1, 1, 1)
        logits = scores if logits is None else weight * scores + (1 - weight) * logits[..., : q.shape[-2], :]
        want.append(logits.softmax(-1) @ v)
    for ours, theirs in zip(got, want):
        assert (ours - theirs).abs().max() < 1e-12
    inputs = [alpha, chain[0][0], chain[0][1], chain[3][2]]
    gradients = [torch.autograd.grad(sum(x.square().sum() for x in outs), inputs) for outs in (got, want)]
    for ours, theirs in zip(*gradients):
        assert theirs.abs().max() > 1e-3
        assert (ours - theirs).abs().max() < 1e-12 * max(1.0, float(theirs.abs().max()))


def test_the_gradient_of_alpha_is_the_numeric_one() -> None:
    chain = [tuple(x.detach() for x in part) for part in _chain(3, tokens=3)]
    alpha = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: _run("explicit", chain, a)[-1], (alpha,))  # type: ignore[arg-type]


def test_the_last_map_reaches_queries_and_keys_of_the_first() -> None:
    chain, alpha = _chain(4), torch.tensor([0.5], dtype=torch.float64)
    gradients = torch.autograd.grad(_run("explicit", chain, alpha)[-1].square().sum(), chain[0][:2])
    assert all(gradient.abs().max() > 1e-4 for gradient in gradients)


def test_unrolled_weights_sum_to_one_and_halve() -> None:
    """At alpha 0.5 a map three blocks back weighs 1/16 and the first of four 1/8."""
    maps = torch.eye(4, dtype=torch.float64)
    logits = maps[0].view(1, 1, 1, 4)
    for row in maps[1:]:
        _, (logits,) = explicit_attention(
            torch.ones(1, 1, 1, 1).double(),
            row.view(1, 1, 4, 1),
            torch.ones(1, 1, 4, 1).double(),
            1.0,
            Link((logits,), 0.5),
        )
    assert logits.flatten().tolist() == [1 / 8, 1 / 8, 1 / 4, 1 / 2]


def test_maps_are_kept_in_single_precision() -> None:
    q = torch.randn(1, 2, 5, 4).bfloat16()
    out, (logits,) = explicit_attention(q, q, q, 0.5, Link((torch.zeros(1, 2, 5, 5),), torch.tensor([0.5])))
    assert out.dtype is torch.bfloat16 and logits.dtype is torch.float32


# Whole networks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", ["cross_attention", "pairwise"])
def test_an_alpha_of_one_is_the_plain_network(fusion: str) -> None:
    """Against fused attention within rounding; the bit for bit comparison is of one block below."""
    model = _model(_arch(replace(EVERYWHERE, alpha_init=1.0), fusion=fusion), torch.float32)
    images = _images(torch.float32)
    difference = (model(images) - _plain_twin(model)(images)).abs().max()
    assert difference < 1e-5 * model(images).abs().max()


def test_an_alpha_of_one_is_plain_explicit_attention_bit_for_bit() -> None:
    torch.manual_seed(0)
    chain = [tuple(torch.randn(2, 3, 17, 16) for _ in "qkv") for _ in range(4)]
    for alpha in (torch.tensor([1.0]), 1.0):
        mixed = _run("explicit", chain, alpha)  # type: ignore[arg-type]
        assert all(torch.equal(out, explicit_attention(*part, 0.25, Link())[0]) for out, part in zip(mixed, chain))


@pytest.mark.parametrize("change", [{"where": (0, 1)}, {"where": (1,)}, {"where": (), "fusion": True}], ids=str)
def test_residual_attention_changes_the_logits(change: dict[str, Any]) -> None:
    model = _model(
        _arch(replace(EVERYWHERE, fusion=False, **change) if "fusion" not in change else replace(EVERYWHERE, **change))
    )
    assert (model(_images()) - _plain_twin(model)(_images())).abs().max() > 1e-3


@pytest.mark.parametrize(
    "residual",
    [
        ResidualAttentionConfig(where=(0,), scope="encoder"),
        ResidualAttentionConfig(where=(0, 1), scope="network"),
        ResidualAttentionConfig(fusion=True),
        ResidualAttentionConfig(where=(0, 1), scope="network", alpha_param="fixed", alpha_init=1.0),
    ],
)
def test_what_has_no_link_is_the_plain_network(residual: ResidualAttentionConfig) -> None:
    """Encoder by encoder a single block is no chain; nor is the one block, or fusion, of a network."""
    depths = (1, 2) if residual.where == (0,) else (1, 1)
    arch = NANO.replace(encoders=(EncoderConfig(depths=depths),), residual_attention=residual)
    if residual.alpha_param == "fixed":
        arch = _arch(residual)
    plain = arch.replace(residual_attention=ResidualAttentionConfig())
    assert arch.violations() == [] and arch.key() == plain.key()
    assert list(build_model(arch).state_dict()) == list(build_model(plain).state_dict())
    assert count_cost(arch) == count_cost(plain)


def test_chains_of_one_branch_leave_the_other_alone_until_they_meet() -> None:
    """Encoder by encoder, a branch of one block each has no chain."""
    model = _model(_arch(ResidualAttentionConfig(where=(0, 1), scope="encoder"), fusion="none"))
    small, large = model.forward_features(_images())
    plain_small, plain_large = _plain_twin(model).forward_features(_images())
    assert torch.equal(small, plain_small)
    assert (large - plain_large).abs().max() > 1e-3


@pytest.mark.parametrize("fusion", ["cross_attention", "none"])
@pytest.mark.parametrize("alpha_param", ["fixed", "shared", "branch", "block", "head"])
@pytest.mark.parametrize("scope", ["encoder", "network"])
def test_params_and_names(fusion: str, alpha_param: str, scope: str) -> None:
    """Heads: 2 each. Links: branch 0 none or 2, branch 1 six (3 encoders x 2) or 8, each visit 2."""
    arch = _arch(replace(EVERYWHERE, alpha_param=alpha_param, scope=scope), fusion=fusion)
    plain = arch.replace(residual_attention=ResidualAttentionConfig())
    links = (0 if scope == "encoder" else 2) + (6 if scope == "encoder" else 8) + (4 if fusion != "none" else 0)
    chains = (0 if scope == "encoder" else 1) + 1 + (2 if fusion != "none" else 0)
    expected = {"fixed": 0, "shared": 1, "branch": chains, "block": links, "head": 2 * links}[alpha_param]
    assert count_cost(arch).params - count_cost(plain).params == expected
    model = build_model(arch)
    assert sum(p.numel() for p in model.parameters()) == count_cost(arch).params
    names, others = list(model.state_dict()), list(build_model(plain).state_dict())
    assert [name for name in names if not name.startswith("residual_attention.")] == others


def test_every_alpha_matters_and_learns() -> None:
    model = _model(_arch(replace(EVERYWHERE, alpha_param="head"), fusion_depth=2, fusion_reading="patches"))
    model(_images()).square().sum().backward()
    alphas = dict(model.residual_attention.named_parameters())  # type: ignore[union-attr]
    assert len(alphas) == 2 + 8 + 2 * 5
    for name, alpha in alphas.items():
        assert alpha.grad is not None and alpha.grad.abs().min() > 0, name


def test_alphas_are_exempt_from_weight_decay() -> None:
    model = build_model(_arch(replace(EVERYWHERE, alpha_param="head")))
    decayed = {id(p) for group in _make_optimizer(model, TrainRecipe()).param_groups[:1] for p in group["params"]}
    alphas = [p for n, p in model.named_parameters() if n.startswith("residual_attention.")]
    assert alphas and all(alpha.ndim == 1 and id(alpha) not in decayed for alpha in alphas)


@pytest.mark.parametrize(("alpha_range", "start"), [("raw", 0.9), ("clamp", 0.9), ("sigmoid", 0.9)])
def test_alphas_start_where_they_should_and_stay_in_range(alpha_range: str, start: float) -> None:
    arch = _arch(replace(EVERYWHERE, alpha_init=start, alpha_range=alpha_range))
    alphas = build_model(arch).residual_attention
    assert isinstance(alphas, Alphas)
    assert alphas.values() == {"shared": [pytest.approx(start, abs=1e-6)]}
    with torch.no_grad():
        next(alphas.parameters()).fill_(3.0)
    (value,) = alphas.values()["shared"]
    assert value == {"raw": 3.0, "clamp": 1.0}.get(alpha_range, pytest.approx(0.9526, abs=1e-4))


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_whole_network_agree(form: str) -> None:
    model = _model(_arch(replace(EVERYWHERE, alpha_param="block", alpha_range="sigmoid"), fusion="pairwise"))
    expected = model(_images())
    model.residual_attention.form = form  # type: ignore[union-attr]
    assert (model(_images()) - expected).abs().max() < 1e-9


def test_the_form_that_suits() -> None:
    images = torch.zeros(1, 3, 16, 16)
    with torch.no_grad():
        assert [suited_form(tokens, 2, images) for tokens in (17, 401)] == ["explicit", "biased"]
        assert suited_form(401, 2, images.bfloat16()) == "explicit"
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert suited_form(401, 2, images) == "explicit"
    assert [suited_form(401, links, images) for links in (2, 3)] == ["concatenated", "explicit"]


# Beside other features -----------------------------------------------------------------------------------------------

LIVELY = _arch(replace(EVERYWHERE, alpha_param="head"))


def test_without_gradients_the_logits_are_the_same() -> None:
    model = _model(LIVELY)
    expected = model(_images())
    with torch.inference_mode():
        assert (model(_images()) - expected).abs().max() < 1e-12


def test_checkpointing_gives_the_same_gradients() -> None:
    model = _model(LIVELY).train()
    model(_images()).square().sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.set_grad_checkpointing()
    model(_images()).square().sum().backward()
    got = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert got.keys() == expected.keys()
    assert all(torch.allclose(got[name], expected[name], rtol=1e-10, atol=1e-12) for name in expected)


@pytest.mark.parametrize("alpha_param", ["shared", "branch", "block", "head"])
def test_alphas_may_be_tensors_that_are_no_parameters(alpha_param: str) -> None:
    model = _model(_arch(replace(EVERYWHERE, alpha_param=alpha_param)))
    tensors = {name: tensor.detach() for name, tensor in model.named_parameters()}
    apart = vmap(lambda image: functional_call(model, tensors, (image[None],))[0])(_images())
    torch.testing.assert_close(apart, model(_images()), rtol=0, atol=1e-10)
    assert grad(lambda given: functional_call(model, given, (_images(),)).sum())(tensors).keys() == tensors.keys()


def test_intermediates_end_with_the_same_features() -> None:
    model = _model(LIVELY)
    features, maps = model.forward_intermediates(_images())
    assert len(maps) == 6
    for ours, theirs in zip(features, model.forward_features(_images()), strict=True):
        assert (ours - theirs).abs().max() < 1e-9


@pytest.mark.parametrize("strict", [pytest.param(True, marks=pytest.mark.slow), False])
def test_it_exports(strict: bool) -> None:
    model, images = _model(LIVELY, torch.float32), _images(torch.float32)
    with torch.no_grad():
        program = torch.export.export(model, (images,), strict=strict)
        torch.testing.assert_close(program.module()(images), model(images), atol=1e-4, rtol=1e-4)


def test_autocast_stays_near() -> None:
    model, images = _model(LIVELY, torch.float32), _images(torch.float32)
    expected = model(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = model(images)
    assert (got.float() - expected).norm() < 0.1 * expected.norm()


def test_copies_have_alphas_of_their_own() -> None:
    model = _model(LIVELY)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.residual_attention.parameters():  # type: ignore[union-attr]
            parameter.fill_(0.1)
    assert (model(_images()) - twin(_images())).abs().max() > 1e-3


# What is said, and what is the same ----------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"where": (2,)}, "residual_attention.where: there is no branch 2; use 0 to 1, or [] for none"),
    ({"where": ("both",)}, "residual_attention.where: there is no branch 'both'; use 0 to 1, or [] for none"),
    (
        {"scope": "networks"},
        "residual_attention.scope 'networks' is unknown; did you mean 'network'? known: encoder, network",
    ),
    ({"fusion": 1}, "residual_attention.fusion must be true or false, got 1; use false"),
    ({"alpha_init": 1.5}, "residual_attention.alpha_init must be a number from 0 to 1, got 1.5; use 1"),
    ({"alpha_init": "half"}, "residual_attention.alpha_init must be a number from 0 to 1, got 'half'; use 0.5"),
    (
        {"alpha_init": 1, "alpha_range": "sigmoid"},
        "residual_attention.alpha_init 1 is never reached by a sigmoid; use 0.99 or another range",
    ),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[message[:50] for _, message in WRONG])
def test_what_is_wrong_and_the_way_out(changes: dict[str, Any], message: str) -> None:
    assert _arch(replace(EVERYWHERE, **changes)).violations() == [message]


def test_windows_and_chains_exclude_each_other() -> None:
    arch = _arch(ResidualAttentionConfig(where=(0,), scope="network"), windows=(2, 0))
    assert [problem.split(";")[0] for problem in arch.violations()] == [
        f"residual_attention.where names branch 0, which has windows in encoder {k}" for k in range(3)
    ]


def test_an_encoder_without_fusion_joins_the_next_only_where_chains_do() -> None:
    apart = tuple(EncoderConfig(depths=depths, fusion="none") for depths in ((1, 2), (1, 1)))
    one = (EncoderConfig(depths=(2, 3), fusion="none"),)
    for scope, joined in (("network", True), ("encoder", False)):
        residual = ResidualAttentionConfig(where=(1,), scope=scope)
        keys = {NANO.replace(encoders=encoders, residual_attention=residual).key() for encoders in (apart, one)}
        assert (len(keys) == 1) is joined


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ({"alpha_param": "fixed", "alpha_range": "sigmoid"}, {"alpha_param": "fixed"}),
        ({"where": (1, 0, 1)}, {"where": (0, 1)}),
        ({"fusion": False, "where": (1,), "alpha_param": "branch"}, {"fusion": False, "where": (1,)}),
    ],
)
def test_descriptions_of_one_network_have_one_key(one: dict[str, Any], same: dict[str, Any]) -> None:
    assert _arch(replace(EVERYWHERE, **one)).key() == _arch(replace(EVERYWHERE, **same)).key()


def test_different_chains_have_different_keys() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"where": (1,)},
        {"scope": "encoder"},
        {"fusion": False},
        {"alpha_init": 0.7},
        {"alpha_param": "block"},
        {"alpha_param": "fixed"},
        {"alpha_range": "clamp"},
    ]
    keys = {_arch(replace(EVERYWHERE, **change)).key() for change in changes} | {_arch(ResidualAttentionConfig()).key()}
    assert len(keys) == len(changes) + 1


@pytest.mark.parametrize(
    ("preset", "millions"),
    [("crossvit_tiny_240", 5.7), ("crossvit_9_240", 6.7), ("crossvit_15_240", 12.8), ("crossvit_18_240", 16.5)],
)
def test_multiplications_of_mixing_are_the_reference_table(preset: str, millions: float) -> None:
    """2 H N^2 of every block, the table's way of counting: the first of a chain, which mixes nothing, included."""
    arch = PRESETS[preset].replace(residual_attention=ResidualAttentionConfig(where=(0, 1), scope="network"))
    firsts = sum(2 * branch.num_heads * branch.num_tokens**2 for branch in arch.branches)
    assert (mixing_multiplications(arch) + firsts) / 1e6 == pytest.approx(millions, abs=0.05)


# The published networks ----------------------------------------------------------------------------------------------


def test_revit_b_has_the_published_parameters() -> None:
    """ViT-B/16 without class token, mean-pooled, and one scalar. Ours always have a class token and its position.

    So it is counted from our parts without those two rows; timm's ViT-B/16 and one alpha, less the same, agree.
    """
    stem = conv_cost(ConvLayer(3, 768, 16, 16, 0), 14, 14)
    parts = [stem, *[block_cost(196, 768, 12, 3072)] * 12, norm_cost(768), linear_cost(1, 768, 1000)]
    alpha = 1
    assert sum(part.params for part in parts) + 196 * 768 + alpha == 86_566_121
    with torch.device("meta"):
        theirs = timm.create_model("vit_base_patch16_224")
    assert sum(p.numel() for p in theirs.parameters()) - 2 * 768 + alpha == 86_566_121
    arch = ArchConfig(
        image_size=224,
        branches=(BranchConfig(image_size=224, patch_size=16, embed_dim=768, num_heads=12),),
        encoders=(EncoderConfig(depths=(12,), fusion="none"),),
        residual_attention=ResidualAttentionConfig(where=(0,)),
    )
    assert count_cost(arch).params - 2 * 768 == 86_566_121


def test_remvitv2_t_is_timms_and_one_scalar() -> None:
    with torch.device("meta"):
        theirs = timm.create_model("mvitv2_tiny")
    alphas = build_model(_arch()).residual_attention
    assert isinstance(alphas, nn.Module)
    assert sum(p.numel() for p in (*theirs.parameters(), *alphas.parameters())) == 24_173_321


# Trained -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("alpha_range", ["raw", "clamp", "sigmoid"])
def test_alphas_move_in_training(alpha_range: str) -> None:
    """How far, and where to, is not foreseen: a raw alpha may leave [0, 1]."""
    residual = replace(EVERYWHERE, alpha_param="block", alpha_range=alpha_range)
    torch.manual_seed(0)
    model = build_model(_arch(residual).replace(in_channels=1))
    *_, last = train_model(model, load_dataset("digits", image_size=(16, 16)), TrainRecipe(epochs=5), seed=0)
    assert model.residual_attention is not None
    values = [value for alphas in model.residual_attention.values().values() for value in alphas]
    assert len(values) == 2 + 8 + 4
    assert all(abs(value - 0.5) > 1e-4 for value in values) and max(abs(value - 0.5) for value in values) > 0.01
    assert alpha_range == "raw" or all(0 <= value <= 1 for value in values)
    assert last.val_accuracy > 0.5  # ten classes; it has learned
