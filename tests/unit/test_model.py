"""The built network: what it accepts, how it is initialised, how depth is dropped, what it ignores."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from crossvit_core.blocks import drop_path_layer
from crossvit_core.config import FUSION_NAMES, ArchConfig, ArchError, BranchConfig, EncoderConfig
from crossvit_core.model import build_model, drop_path_rates
from crossvit_core.presets import PRESETS

NANO = PRESETS["crossvit_nano_16"]


def _fused(fusion: str, *, depths: tuple[int, int] = (1, 1), **changes: object) -> ArchConfig:
    encoder = EncoderConfig(depths=depths, fusion=fusion, **changes)  # type: ignore[arg-type]
    return NANO.replace(encoders=(encoder,) * 2)


def test_released_drop_path_rates() -> None:
    rates = drop_path_rates([EncoderConfig(depths=(1, 4))] * 3, 0.1)
    assert [rate for encoder in rates for rate in encoder] == pytest.approx([0.1 / 11 * step for step in range(12)])
    assert rates[0] == pytest.approx([0, 0.0090909, 0.0181818, 0.0272727], abs=1e-6)


def test_drop_path_rates_of_any_depths() -> None:
    stacked = drop_path_rates([EncoderConfig(depths=(3, 1), fusion_depth=2)], 0.4)
    assert stacked == [pytest.approx([0, 0.1, 0.2, 0.3, 0.4])]
    assert drop_path_rates([EncoderConfig(depths=(0, 0))], 0.4) == [[0.0]]
    assert drop_path_rates([EncoderConfig(depths=(0, 2)), EncoderConfig(depths=(0, 0))], 0.4)[1] == [0.4]


def test_drop_path_reaches_blocks_and_fusion() -> None:
    arch = NANO.replace(encoders=(EncoderConfig(depths=(1, 2)),) * 2)
    model = build_model(arch, drop_path_rate=0.3)
    rate = {name: getattr(module, "drop_prob", 0.0) for name, module in model.named_modules() if "drop_path" in name}
    assert rate["blocks.0.blocks.0.0.drop_path1"] == 0.0
    assert rate["blocks.0.blocks.1.1.drop_path2"] == pytest.approx(0.1)
    assert rate["blocks.0.fusion.1.drop_path"] == pytest.approx(0.1)
    assert rate["blocks.1.blocks.0.0.drop_path1"] == pytest.approx(0.2)
    assert rate["blocks.1.fusion.0.drop_path"] == pytest.approx(0.3)
    assert isinstance(drop_path_layer(0.0), nn.Identity)


def test_rates_act_in_training_only() -> None:
    model = build_model(NANO.replace(encoders=NANO.encoders * 3), drop_path_rate=0.5, drop_rate=0.5)
    images = torch.randn(4, 3, 16, 16)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize("rate", [1.0, -0.1, float("nan")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=r"drop_path_rate .* is not a rate; use one of at least 0 and below 1"):
        build_model(NANO, drop_path_rate=rate)


def test_an_architecture_that_cannot_be_built_is_refused() -> None:
    with pytest.raises(ArchError, match="patch_size 5 does not tile image_size 16; use a side of 15 or 20"):
        build_model(NANO.replace(branches=(replace(NANO.branches[0], patch_size=5), NANO.branches[1])))


@pytest.mark.parametrize("shape", [(2, 3, 16, 17), (2, 1, 16, 16), (3, 16, 16)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"do not fit; this architecture reads \(batch, 3, 16, 16\)"):
        build_model(NANO)(torch.zeros(shape))


def test_initialisation() -> None:
    torch.manual_seed(0)
    model = build_model(PRESETS["crossvit_tiny_32"])
    for name, tensor in model.state_dict().items():
        if "norm" in name or name.endswith(("projs.0.0.weight", "projs.1.0.weight")):
            assert torch.equal(tensor, torch.full_like(tensor, name.endswith("weight"))), name
        elif name.startswith("patch_embed"):
            bound = (3 * model.arch.branches[int(name.split(".")[1])].patch_size ** 2) ** -0.5
            assert 0 < tensor.abs().max() <= bound * (1 + 1e-6), name
        elif name.endswith("bias"):
            assert not tensor.any(), name
        else:
            assert float(tensor.std()) == pytest.approx(0.02, rel=0.2), name


def test_branches_read_the_image_at_their_own_size() -> None:
    """Constant images survive any resizing, so a wide image gives what a native one gives."""
    branches = tuple(
        BranchConfig(image_size=(8, 12), patch_size=p, embed_dim=8, num_heads=2, stem="conv") for p in (2, 4)
    )
    native = ArchConfig(image_size=(8, 12), num_classes=5, branches=branches, encoders=(EncoderConfig(depths=(2, 1)),))
    model, resizing = build_model(native).eval(), build_model(native.replace(image_size=(20, 10))).eval()
    resizing.load_state_dict(model.state_dict())
    with torch.inference_mode():
        expected = model(torch.full((1, 3, 8, 12), 0.7))
        torch.testing.assert_close(resizing(torch.full((1, 3, 20, 10), 0.7)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fusion", FUSION_NAMES[1:])
def test_each_branch_hears_of_the_other(fusion: str) -> None:
    """The features of a branch move with the other's patches, which is what a fusion is for."""
    torch.manual_seed(0)
    model = build_model(_fused(fusion)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        images = torch.randn(1, 3, 16, 16, dtype=torch.float64)
        before = model.forward_features(images)
        for other, pos_embed in ((1, model.pos_embed_0), (0, model.pos_embed_1)):
            held = pos_embed.clone()
            pos_embed[:, 1:] += torch.randn_like(pos_embed[:, 1:])
            after = model.forward_features(images)
            assert (after[other] - before[other]).abs().max() > 1e-4
            pos_embed.copy_(held)


def test_without_fusion_a_branch_hears_nothing() -> None:
    model = build_model(_fused("none")).eval()
    images = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        before = model.forward_features(images)
        model.pos_embed_0 += torch.randn_like(model.pos_embed_0)
        after = model.forward_features(images)
    assert torch.equal(after[1], before[1]) and not torch.equal(after[0], before[0])


def _outputs_without_second_queries(arch: ArchConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs before and after the queries and keys of every second fusion block become noise."""
    torch.manual_seed(0)
    model, images = build_model(arch).eval(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        before = model(images)
        for name, parameter in model.named_parameters():
            if ".fusion." in name and ".1.attn.w" in name and ".wv." not in name:
                parameter.normal_()
        return before, model(images)


def test_published_stacks_ignore_queries_and_keys_of_their_second_block() -> None:
    before, after = _outputs_without_second_queries(_fused("cross_attention", fusion_depth=2))
    assert torch.equal(before, after)


def test_stacks_that_keep_patches_use_them() -> None:
    arch = _fused("cross_attention", fusion_depth=2, fusion_reading="patches")
    before, after = _outputs_without_second_queries(arch)
    assert not torch.equal(before, after)


def test_identity_maps_hold_no_parameters() -> None:
    wide = tuple(replace(branch, embed_dim=32) for branch in NANO.branches)
    arch = NANO.replace(branches=wide, encoders=(EncoderConfig(depths=(1, 1), identity_maps=True),))
    assert not [name for name, _ in build_model(arch).named_parameters() if "projs" in name]


@pytest.mark.parametrize("fusion", FUSION_NAMES)
def test_every_parameter_learns_but_the_dead_ones(fusion: str) -> None:
    model = build_model(_fused(fusion, depths=(2, 1)))
    model(torch.randn(3, 3, 16, 16)).square().sum().backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert {name for name in silent if not name.endswith("wk.bias")} == set()


@pytest.mark.parametrize("fusion", FUSION_NAMES)
def test_exports_with_a_free_batch(fusion: str) -> None:
    model = build_model(_fused(fusion, fusion_depth=2).replace(image_size=20)).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (torch.randn(4, 3, 20, 20),), dynamic_shapes=({0: batch},)).module()
    images = torch.randn(7, 3, 20, 20)
    with torch.inference_mode():
        torch.testing.assert_close(exported(images), model(images))


def test_compiles_without_graph_breaks() -> None:
    model, images = build_model(NANO).eval(), torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(images), model(images))


@pytest.mark.parametrize("fusion", FUSION_NAMES)
def test_runs_under_autocast(fusion: str) -> None:
    torch.manual_seed(0)
    model, images = build_model(_fused(fusion)).eval(), torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        expected = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(model(images).float(), expected, atol=0.02, rtol=0.05)
