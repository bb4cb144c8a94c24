"""Any architecture: its counts are those of the built network, and its cheap forms are the written ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from crossvit_core import config, cost, exshortcut_config, residual_config
from crossvit_core.blocks import AttentionBlock, Block
from crossvit_core.canonical import canonical
from crossvit_core.config import ArchConfig, BranchConfig, EncoderConfig, HeadConfig
from crossvit_core.cost import Cost, count_cost
from crossvit_core.cross_attention import CrossAttentionBlock, SingleQueryAttention, direct_attention
from crossvit_core.flops import count_activations_fvcore, count_flops_by_module
from crossvit_core.fusion import FUSIONS, reference_form
from crossvit_core.heads import HEADS
from crossvit_core.model import CrossViT, build_model
from crossvit_core.reading import unread_branches
from crossvit_core.residual_config import ResidualAttentionConfig
from crossvit_core.stems import STEMS


@st.composite
def branches(draw: st.DrawFn) -> BranchConfig:
    patch = draw(st.sampled_from([2, 3, 4, 6]))
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    heads = draw(st.integers(1, 3))
    dilations = draw(st.sets(st.integers(1, 4), min_size=1))
    return BranchConfig(
        image_size=(rows * patch, columns * patch),
        patch_size=patch,
        embed_dim=heads * draw(st.sampled_from([4, 8])),
        num_heads=heads,
        mlp_ratio=draw(st.sampled_from([0.5, 1, 2.5, 4])),
        stem=draw(st.sampled_from(config.STEM_NAMES)),
        stem_dilations=tuple(sorted(dilations)),
        conv_path=draw(st.booleans()),
        conv_channels_per_group=draw(st.sampled_from([1, 2, 4])),
        conv_ratio=draw(st.sampled_from([1, 2])),
        conv_depth=draw(st.sampled_from([2, 3])),
        conv_init=draw(st.sampled_from(config.CONV_INITS)),
    )


@st.composite
def encoders(draw: st.DrawFn, num_branches: int) -> EncoderConfig:
    return EncoderConfig(
        depths=draw(st.tuples(*[st.integers(0, 2)] * num_branches)),
        fusion="none" if num_branches == 1 else draw(st.sampled_from(config.FUSION_NAMES)),
        fusion_depth=draw(st.integers(1, 3)),
        fusion_reading=draw(st.sampled_from(config.FUSION_READINGS)),
        identity_maps=draw(st.booleans()),
        windows=draw(st.just(()) | st.tuples(*[st.integers(0, 4)] * num_branches)),
    )


@st.composite
def heads(draw: st.DrawFn, num_branches: int) -> HeadConfig:
    taps = st.tuples(st.integers(0, 2), st.integers(0, num_branches - 1))
    return HeadConfig(
        kind=draw(st.sampled_from(config.HEAD_NAMES)),
        taps=tuple(draw(st.lists(taps, max_size=3))),
        pool=draw(st.sampled_from(exshortcut_config.POOLS)),
        project=draw(st.sampled_from(exshortcut_config.PROJECTIONS)),
        mu=draw(st.sampled_from([1 / 3, 1.0, 4 / 3])),
        init=draw(st.sampled_from(exshortcut_config.TAP_INITS)),
    )


@st.composite
def residual_attentions(draw: st.DrawFn, parts: list[EncoderConfig]) -> ResidualAttentionConfig:
    """Chains in branches without windows."""
    free = [b for b in range(len(parts[0].depths)) if not any(part.window_side(b) for part in parts)]
    return ResidualAttentionConfig(
        where=tuple(b for b in free if draw(st.booleans())),
        scope=draw(st.sampled_from(residual_config.SCOPES)),
        fusion=draw(st.booleans()),
        alpha_init=draw(st.sampled_from([0.5, 0.9])),
        alpha_param=draw(st.sampled_from(residual_config.ALPHA_PARAMS)),
        alpha_range=draw(st.sampled_from(residual_config.ALPHA_RANGES)),
    )


@st.composite
def architectures(draw: st.DrawFn) -> ArchConfig:
    """Small networks of every stem, fusion, reading, option and number of branches, for images of any proportions."""
    parts = draw(st.lists(branches(), min_size=1, max_size=3))
    stages = draw(st.lists(encoders(len(parts)), min_size=1, max_size=3))
    return ArchConfig(
        image_size=(draw(st.integers(4, 12)), draw(st.integers(4, 12))),
        in_channels=draw(st.integers(1, 3)),
        num_classes=draw(st.integers(1, 10)),
        branches=tuple(parts),
        encoders=tuple(stages),
        head=draw(heads(len(parts))),
        residual_attention=draw(residual_attentions(stages)),
    )


def _lively(arch: ArchConfig) -> CrossViT:
    """A double-precision network whose every parameter is far from zero, so that no term can hide."""
    model = build_model(arch).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def _images(arch: ArchConfig) -> torch.Tensor:
    shape = (2, arch.in_channels, *arch.size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@settings(max_examples=150, deadline=None)
@given(arch=architectures())
def test_params_are_those_of_the_built_network_part_by_part(arch: ArchConfig) -> None:
    counted = count_cost(arch)
    with torch.device("meta"):
        model = build_model(arch)
    assert counted.params == sum(parameter.numel() for parameter in model.parameters())
    held: dict[str, int] = dict.fromkeys(counted.by_module, 0)
    for name, parameter in model.named_parameters():
        held[next(part for part in held if f"{name}.".startswith(f"{part}."))] += parameter.numel()
    assert held == {name: part.params for name, part in counted.by_module.items()}
    assert sum(part.params for part in counted.by_module.values()) == counted.params


@settings(max_examples=30, deadline=None)
@given(arch=architectures())
def test_macs_and_activations_are_fvcores(arch: ArchConfig) -> None:
    counted, model = count_cost(arch), build_model(arch)
    traced = count_flops_by_module(model)
    assert traced[""]["macs"] == counted.macs
    assert {name: part.macs for name, part in counted.by_module.items()} == _macs_of(counted, traced)
    assert count_activations_fvcore(model) == counted.activations


@settings(max_examples=40, deadline=None)
@given(arch=architectures())
def test_executed_macs_are_fvcores_of_what_runs(arch: ArchConfig) -> None:
    counted, traced = count_cost(arch), count_flops_by_module(build_model(arch), reference=False)
    assert traced[""]["macs"] == counted.executed_macs
    assert {name: part.executed_macs for name, part in counted.by_module.items()} == _macs_of(counted, traced)


def _macs_of(counted: Cost, traced: dict[str, dict[str, int]]) -> dict[str, int]:
    """Traced multiply-adds of the same parts; those that are parameters and no modules have none."""
    return {name: traced[name]["macs"] if name in traced else 0 for name in counted.by_module}


@settings(max_examples=60, deadline=None)
@given(arch=architectures())
def test_the_forward_computes_the_written_form(arch: ArchConfig) -> None:
    model, images = _lively(arch), _images(arch)
    with torch.inference_mode():
        logits = model(images)
        with reference_form(model):
            expected = model(images)
    assert logits.shape == (2, arch.num_classes)
    torch.testing.assert_close(logits, expected, atol=1e-9, rtol=1e-9)


@settings(max_examples=25, deadline=None)
@given(arch=architectures())
def test_the_forward_has_the_gradients_of_the_written_form(arch: ArchConfig) -> None:
    model, images = _lively(arch), _images(arch)
    gradients = []
    for reference in (False, True):
        model.zero_grad()
        if reference:
            with reference_form(model):
                model(images).square().sum().backward()
        else:
            model(images).square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, expected in gradients[1].items():
        got = gradients[0][name]
        want = torch.zeros_like(dict(model.named_parameters())[name]) if expected is None else expected
        torch.testing.assert_close(torch.zeros_like(want) if got is None else got, want, atol=1e-7, rtol=1e-7)


@settings(max_examples=40, deadline=None)
@given(heads=st.integers(1, 4), head_dim=st.integers(1, 6), others=st.integers(0, 9), seed=st.integers(0, 99))
def test_one_query_needs_no_keys_and_values(heads: int, head_dim: int, others: int, seed: int) -> None:
    torch.manual_seed(seed)
    attn = SingleQueryAttention(heads * head_dim, heads).double().requires_grad_(True)  # wk.bias, too
    x = torch.randn(3, 1 + others, heads * head_dim, dtype=torch.float64, requires_grad=True)
    absorbed, direct = attn(x[:, :1], x[:, 1:]), direct_attention(attn, x)
    torch.testing.assert_close(absorbed, direct, atol=1e-12, rtol=1e-12)
    weight = torch.randn_like(direct)
    inputs = [x, *(p for name, p in attn.named_parameters() if name != "wk.bias")]
    got = torch.autograd.grad((absorbed * weight).sum(), inputs)
    want = torch.autograd.grad((direct * weight).sum(), inputs, retain_graph=True)
    torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)
    (dead,) = torch.autograd.grad((direct * weight).sum(), [attn.wk.bias])
    assert dead.abs().max() < 1e-12


@settings(max_examples=150, deadline=None)
@given(arch=architectures())
def test_an_architecture_survives_its_dictionary(arch: ArchConfig) -> None:
    assert ArchConfig.from_dict(arch.to_dict()) == arch
    assert ArchConfig.from_dict(arch.to_dict()).key() == arch.key()


@settings(max_examples=60, deadline=None)
@given(arch=architectures())
def test_one_key_means_one_function(arch: ArchConfig) -> None:
    """What the key folds away changes no output: weights of one description, in order, give the other's outputs."""
    folded = ArchConfig.from_dict(canonical(arch))
    assert folded.key() == arch.key()
    model, twin = _lively(arch), build_model(folded).double().eval()
    with torch.no_grad():
        for ours, theirs in zip(_by_branch(twin), _by_branch(model), strict=True):
            ours.copy_(theirs)
    with torch.inference_mode():
        torch.testing.assert_close(twin(_images(arch)), model(_images(arch)), atol=1e-9, rtol=1e-9)


def _by_branch(model: CrossViT) -> list[torch.Tensor]:
    """Parameters with the blocks of each branch together: the order in which merging two encoders leaves them."""

    def branch(named: tuple[str, torch.Tensor]) -> int:
        _, inside, rest = named[0].partition(".blocks.")
        return int(rest.split(".")[0]) if inside else -1

    return [parameter for _, parameter in sorted(model.named_parameters(), key=branch)]


def test_registries_agree_with_the_names_of_the_configuration() -> None:
    for names, modules, costs in (
        (config.STEM_NAMES, STEMS, cost.STEM_COSTS),
        (config.FUSION_NAMES, FUSIONS, cost.FUSION_COSTS),
        (config.HEAD_NAMES, HEADS, cost.HEAD_COSTS),
    ):
        assert set(names) == set(modules) == set(costs)
        for name in names:
            assert modules[name].cost is costs[name]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("tokens", "width", "heads"), [(5, 8, 2), (1, 12, 3)])
def test_a_block_costs_what_it_holds(tokens: int, width: int, heads: int) -> None:
    def held(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert Block.cost(tokens, width, heads, 3 * width).params == held(Block(width, heads, 3 * width))
    assert AttentionBlock.cost(tokens, width, heads).params == held(AttentionBlock(width, heads))
    streams = (cost.Stream(tokens, width, heads),) * 2
    fusion = cost.cross_attention_cost(streams, EncoderConfig(depths=(0, 0)), False)["fusion.0"]
    assert fusion.params == held(CrossAttentionBlock(width, heads))


def test_costs_add_up() -> None:
    one = cost.Cost(1, 2, 3, 4, {"a": cost.Cost(1, 2, 3, 4)})
    other = cost.Cost(10, 20, 30, 40, {"a": cost.Cost(4, 5, 6, 7), "b": cost.Cost(6, 15, 24, 33)})
    both = one + other
    assert both == cost.Cost(11, 22, 33, 44)
    assert dict(both.by_module) == {"a": cost.Cost(5, 7, 9, 11), "b": cost.Cost(6, 15, 24, 33)}


@settings(max_examples=150, deadline=None)
@given(arch=architectures())
def test_a_branch_is_read_if_and_only_if_the_logits_change_with_its_patches(arch: ArchConfig) -> None:
    model = _lively(arch)
    model(_images(arch)).square().sum().backward()
    unread = unread_branches(arch)
    for index, branch in enumerate(arch.branches):
        gradients = [parameter.grad for parameter in model.patch_embed[index].parameters()]
        changes = any(gradient is not None and bool(gradient.any()) for gradient in gradients)
        if index in unread:
            assert not changes
        elif branch.stem == "linear":  # a ReLU of the other stems may let nothing through
            assert changes
