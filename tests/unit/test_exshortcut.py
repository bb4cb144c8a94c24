"""The ExShortcut head: what taps read, what they add, and what they leave alone."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from crossvit_core.config import ArchConfig, EncoderConfig, HeadConfig
from crossvit_core.cost import count_cost
from crossvit_core.exshortcut import Tap
from crossvit_core.exshortcut_config import TapShape, tap_classifier_cost, tap_cost
from crossvit_core.heads import HEADS
from crossvit_core.model import CrossViT, build_model
from crossvit_core.presets import PRESETS
from crossvit_core.weights import load_checkpoint, load_model, save_weights

NANO = PRESETS["crossvit_nano_16"]
TAPS = ((0, 0), (0, 1), (1, 1))
ALL = HeadConfig(kind="exshortcut", taps=TAPS)
SHAPES = [
    *({"pool": pool} for pool in ("mean", "cls", "both")),
    *({"pool": pool, "project": p, "mu": 0.5} for pool in ("mean", "cls", "both") for p in ("after", "before")),
]


def _arch(head: HeadConfig = ALL, fusion: str = "cross_attention") -> ArchConfig:
    """Three encoders: taps of the first two."""
    return NANO.replace(encoders=(EncoderConfig(depths=(1, 1), fusion=fusion),) * 3, head=head)


def _model(arch: ArchConfig, noise: float = 0.2) -> CrossViT:
    torch.manual_seed(0)
    model = build_model(arch).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model


def _images() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


# What a tap reads ----------------------------------------------------------------------------------------------------


def _identity_tap(pool: str) -> Tap:
    """A tap whose norm hands tokens on, so that the pooling shows."""
    tap = Tap(TapShape(17, 8, pool, "none", 0)).double()
    tap.norm = torch.nn.Identity()  # type: ignore[assignment]
    return tap


def test_the_mean_covers_every_patch_alike() -> None:
    tap, tokens = _identity_tap("mean"), torch.randn(1, 17, 8, dtype=torch.float64)
    before, change = tap(tokens), torch.randn(8, dtype=torch.float64)
    for index in range(17):
        changed = tokens.clone()
        changed[0, index] += change
        expected = change / 16 if index else torch.zeros_like(change)
        torch.testing.assert_close(tap(changed)[0] - before[0], expected, atol=1e-12, rtol=0)


def test_both_is_the_class_token_beside_the_mean() -> None:
    tokens = torch.randn(3, 17, 8, dtype=torch.float64)
    side_by_side = torch.cat([_identity_tap(pool)(tokens) for pool in ("cls", "mean")], dim=-1)
    assert torch.equal(_identity_tap("both")(tokens), side_by_side)


def test_to_project_before_pooling_is_another_function() -> None:
    """SiLU does not commute with the mean; without patches to pool over, the order does not matter."""
    tokens = torch.randn(3, 17, 8)
    for pool, same in (("mean", False), ("cls", True)):
        after, before = (Tap(TapShape(17, 8, pool, project, 4)) for project in ("after", "before"))
        before.load_state_dict(after.state_dict())
        assert torch.allclose(after(tokens), before(tokens), atol=1e-6) is same


# What taps add -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["zero", "normal"])
def test_taps_that_start_at_zero_leave_the_logits_as_they_are_bit_for_bit(init: str) -> None:
    model = build_model(_arch(replace(ALL, init=init, pool="both", project="after"))).eval()
    plain = build_model(_arch(HeadConfig())).eval()
    tensors = {name: tensor for name, tensor in model.state_dict().items() if "taps." not in name}
    assert list(tensors) == list(plain.state_dict())
    plain.load_state_dict(tensors)
    images = _images().float()
    assert torch.equal(model(images), plain(images)) is (init == "zero")


def test_a_head_without_taps_is_the_plain_one() -> None:
    plain = _arch(HeadConfig())
    for taps in ((), ((2, 0),), ((7, 1),)):
        arch = _arch(replace(ALL, taps=taps, pool="cls", mu=0.5, project="after"))
        assert arch.violations() == [] and arch.key() == plain.key()
        model, same = build_model(arch).eval(), build_model(plain).eval()
        assert list(model.state_dict()) == list(same.state_dict())
        same.load_state_dict(model.state_dict())
        assert torch.equal(model(_images().float()), same(_images().float()))
        assert count_cost(arch) == count_cost(plain)


def test_a_tap_of_an_encoder_that_is_gone_is_gone() -> None:
    shorter = _arch().replace(encoders=_arch().encoders[:2])
    assert [name for name in build_model(shorter).state_dict() if name.startswith("head.taps")] == [
        "head.taps.0_0.weight",
        "head.taps.0_1.weight",
    ]


def test_logits_are_the_votes_and_half_of_every_tap() -> None:
    model = _model(_arch())
    features = model.forward_features(_images())
    assert [feature.shape[1] for feature in features] == [16, 32, 16, 32, 32]
    weights = [model.get_parameter(f"head.taps.{k}_{b}.weight") for k, b in TAPS]
    votes = sum(model.get_submodule(f"head.{index}")(feature) for index, feature in enumerate(features[:2]))
    expected = (votes + sum(feature @ weight.T for feature, weight in zip(features[2:], weights))) / 2
    torch.testing.assert_close(model(_images()), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("fusion", ["cross_attention", "none"])
def test_the_head_reaches_the_first_encoder_past_later_ones(fusion: str) -> None:
    """Of later encoders nothing gets through to the head; the early tap still trains the first."""
    model = _model(_arch(replace(ALL, taps=((0, 1),)), fusion=fusion)).train()
    with torch.no_grad():
        for norm in model.norm:
            norm.weight.zero_()  # type: ignore[union-attr, operator]
    model(_images()).square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    first = gradients["blocks.0.blocks.1.0.attn.qkv.weight"]
    later = gradients["blocks.1.blocks.1.0.attn.qkv.weight"]
    assert first is not None and first.abs().max() > 1e-6
    assert later is None or not later.any()


@pytest.mark.parametrize("size", [16, 24, 32])
def test_it_works_at_any_resolution(size: int) -> None:
    model = _model(_arch(replace(ALL, pool="both", project="before", mu=4 / 3)))
    model.set_input_size(size)
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    assert model(images).shape == (2, 10)
    assert count_cost(model.arch).params == sum(p.numel() for p in model.parameters())


# What it costs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_params_are_those_of_the_built_taps(changes: dict[str, Any]) -> None:
    arch = _arch(replace(ALL, **changes))
    model, parts = build_model(arch), count_cost(arch).by_module
    for k, b in TAPS:
        for name in (f"taps.{k}_{b}", f"head.taps.{k}_{b}"):
            held = sum(p.numel() for n, p in model.named_parameters() if n.startswith(f"{name}."))
            assert parts[name].params == held > 0
    assert model.num_features == sum(feature.shape[1] for feature in model.forward_features(_images().float()))


@pytest.mark.parametrize(
    ("preset", "extra"),
    [("tiny", 576_000), ("9", 768_000), ("15", 1_152_000), ("18", 1_344_000), ("small", 1_152_000)],
)
def test_direct_taps_of_the_published_sizes(preset: str, extra: int) -> None:
    """Both branches after encoders 1 and 2 of 3, 1000 classes: the classifiers alone, as the reference table counts."""
    plain = PRESETS[f"crossvit_{preset}_240"]
    taps = tuple(itertools.product((0, 1), (0, 1)))
    arch = plain.replace(head=HeadConfig(kind="exshortcut", taps=taps))
    norms = 2 * 2 * sum(branch.embed_dim for branch in plain.branches)
    assert count_cost(arch).params - count_cost(plain).params - norms == extra


BASE = 5_636_720  # MobileViT-S as the authors build it, with 640 channels into 1000 classes


def _exits(widths: tuple[int, int, int]) -> int:
    """Parameters of the exits of stages 3 to 5 by our formula. A tap of ours also norms what it reads, theirs not."""
    total = 0
    for (channels, side), width in zip(((96, 32), (128, 16), (160, 8)), widths):
        if width:
            shape = TapShape(side**2 + 1, channels, "mean", "before", width)
            total += tap_cost(shape).params - 2 * channels + tap_classifier_cost(shape, 1000).params
    return total


@pytest.mark.parametrize(
    ("widths", "params"),
    [((32, 64, 480), 5_558_256), ((32, 128, 480), 5_630_576), ((128, 160, 640), 5_958_064), ((0, 0, 640), BASE)],
)
def test_the_published_variants_have_their_parameters(widths: tuple[int, int, int], params: int) -> None:
    assert BASE - _exits((0, 0, 640)) + _exits(widths) == params


def test_the_quoted_increase_is_the_classifiers() -> None:
    taps = [TapShape(1025, 96, "mean", "before", 128), TapShape(257, 128, "mean", "before", 160)]
    assert sum(tap_classifier_cost(tap, 1000).params for tap in taps) == 288_000
    assert [tap_cost(tap).params - 2 * tap.width for tap in taps] == [12_544, 20_800]


# Beside other features -----------------------------------------------------------------------------------------------


def test_without_gradients_the_logits_are_the_same() -> None:
    model = _model(_arch(replace(ALL, pool="both"), fusion="all_attention"))
    expected = model(_images())
    with torch.inference_mode():
        torch.testing.assert_close(model(_images()), expected, atol=1e-10, rtol=0)


def test_intermediates_come_with_the_same_features() -> None:
    model = _model(_arch())
    features, _ = model.forward_intermediates(_images())
    for ours, theirs in zip(features, model.forward_features(_images()), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)
    assert len(model.forward_intermediates(_images(), indices=[0], stop_early=True)[0]) == 2 + 2


def test_another_classifier_keeps_the_taps() -> None:
    model = _model(_arch())
    model.reset_classifier(4)
    assert model(_images()).shape == (2, 4)
    assert not model.get_parameter("head.taps.0_0.weight").any()
    model.reset_classifier(0)
    assert model(_images()).shape == (2, model.num_features)


def test_weights_come_back(tmp_path: Any) -> None:
    model = _model(_arch()).float()
    save_weights(tmp_path / "w.safetensors", model)
    loaded = load_model(tmp_path / "w.safetensors")
    assert loaded.arch == model.arch and torch.equal(loaded(_images().float()), model(_images().float()))
    other = build_model(model.arch)
    load_checkpoint(other, tmp_path / "w.safetensors")
    assert torch.equal(other.eval()(_images().float()), model(_images().float()))


def test_it_exports_and_runs_in_half_precision() -> None:
    model, images = _model(_arch(replace(ALL, pool="both", project="before"))).float(), _images().float()
    with torch.no_grad():
        program = torch.export.export(model, (images,))
        torch.testing.assert_close(program.module()(images), model(images), atol=1e-4, rtol=1e-4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert (model(images).float() - model(images)).norm() < 0.1 * model(images).norm()


# What is said, and what is the same ----------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"taps": ((0, 2),)}, "head.taps: [0, 2] names branch 2; use [0, 0] to [0, 1]"),
    (
        {"taps": (1,)},
        "head.taps: 1 is no tap; use [encoder, branch], both counted from 0, such as [0, 1]",
    ),
    ({"pool": "max"}, "head.pool 'max' is unknown; known: both, cls, mean"),
    ({"project": "befor"}, "head.project 'befor' is unknown; did you mean 'before'? known: after, before, none"),
    ({"init": "ones"}, "head.init 'ones' is unknown; known: normal, zero"),
    ({"mu": "direct"}, "head.mu must be a finite number, got 'direct'; use one such as 1"),
    ({"mu": 0.01, "project": "after"}, "head.mu 0.01 of 16 channels leaves none; use at least 0.0625"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_what_is_wrong_and_the_way_out(changes: dict[str, Any], message: str) -> None:
    assert _arch(replace(ALL, **changes)).violations() == [message]


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ({"taps": ((1, 1), (0, 1), (0, 0), (0, 1))}, {}),
        ({"mu": 0.5}, {}),
        ({"pool": "cls", "project": "before"}, {"pool": "cls", "project": "after"}),
    ],
)
def test_descriptions_of_one_head_have_one_key(one: dict[str, Any], same: dict[str, Any]) -> None:
    assert _arch(replace(ALL, **one)).key() == _arch(replace(ALL, **same)).key()


def test_different_heads_have_different_keys() -> None:
    heads = [replace(ALL, **changes) for changes in [*SHAPES, {"taps": ((0, 1),)}, {"init": "normal"}]]
    keys = [_arch(head).key() for head in heads]
    assert len(set(keys)) == len(keys) - 1  # before and after pooling of the class token alone are one
    assert _arch(HeadConfig()).key() not in keys


def test_a_tapped_encoder_without_fusion_is_not_merged_away() -> None:
    tapped, untapped = (_arch(replace(ALL, taps=taps), fusion="none") for taps in (((1, 1),), ()))
    four, two = ((EncoderConfig(depths=(n, n), fusion="none") for n in numbers) for numbers in ((1, 1, 1), (2, 1)))
    assert tapped.key() == _arch(replace(ALL, taps=((0, 1),))).replace(encoders=tuple(two)).key()
    assert tapped.key() != untapped.key() == _arch(HeadConfig()).replace(encoders=tuple(four)).key()


def test_plain_data_comes_back() -> None:
    data = _arch(replace(ALL, pool="both", mu=0.5)).to_dict()
    assert data["head"] == {"kind": "exshortcut", "taps": [[0, 0], [0, 1], [1, 1]], "pool": "both", "mu": 0.5}
    assert ArchConfig.from_dict(data) == _arch(replace(ALL, pool="both", mu=0.5))
    assert set(HEADS) == {"class_token", "exshortcut"}
