"""CrossViT as timm's users and tools use a model."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import resolve_data_config
from timm.models import safe_model_name
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from timm.utils import reparameterize_model
from torch import Tensor, nn

from crossvit_core import timm_entry
from crossvit_core.artefact import describe
from crossvit_core.config import FUSION_NAMES, ArchConfig, ArchError, EncoderConfig, HeadConfig
from crossvit_core.cost import count_cost
from crossvit_core.export_torch import write_weights
from crossvit_core.model import CrossViT, build_model
from crossvit_core.positions import resize_model, with_image_size
from crossvit_core.presets import PRESETS
from crossvit_core.residual_config import ResidualAttentionConfig
from crossvit_core.weights import WeightsError, load_checkpoint, save_weights

NANO = PRESETS["crossvit_nano_16"]
TWO = NANO.replace(encoders=(EncoderConfig(depths=(1, 2)),) * 2)
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def _create(**options: Any) -> Any:
    return timm.create_model("crossvit_arch", **options)


def _model(arch: ArchConfig = NANO, **rates: float) -> CrossViT:
    torch.manual_seed(0)
    return build_model(arch, **rates)


# timm.create_model ---------------------------------------------------------------------------------------------------


def _as_json(folder: Path) -> str:
    (folder / "arch.json").write_text(json.dumps(TWO.to_dict()), encoding="utf-8")
    return str(folder / "arch.json")


def _as_weights(folder: Path) -> Path:
    save_weights(folder / "w.safetensors", _model(TWO))
    return folder / "w.safetensors"


FORMS: dict[str, Callable[[Path], Any]] = {
    "config": lambda folder: TWO,
    "mapping": lambda folder: TWO.to_dict(),
    "json": _as_json,
    "weights": _as_weights,
}


@pytest.mark.parametrize("form", FORMS)
def test_an_architecture_may_be_given_in_any_form(tmp_path: Path, form: str) -> None:
    model = _create(arch=FORMS[form](tmp_path))
    assert isinstance(model, CrossViT) and model.arch == TWO
    assert model(IMAGES).shape == (2, 10)


@pytest.mark.parametrize("name", ["crossvit_nano_16", "crossvit_micro_64", "crossvit_nano_96"])
def test_presets_are_known_by_name(name: str) -> None:
    model = _create(arch=name)
    assert model.arch == PRESETS[name]
    assert model(torch.randn(1, 3, *model.arch.size)).shape == (1, 10)


def test_the_name_is_listed() -> None:
    assert "crossvit_arch" in timm.list_models("crossvit*") and safe_model_name("crossvit_arch") == "crossvit_arch"


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        (None, "arch None names no architecture; give a preset, a mapping, a .json or a .safetensors file"),
        ("crossvit_nano16", r"nor a preset; did you mean 'crossvit_nano_16'\?"),
        ("absent/arch.json", "arch 'absent/arch.json': there is no such file"),
        ({"image_size": 16}, "branches is empty; a network needs at least one"),
        ({"image_sizes": 16}, "architecture: unknown field 'image_sizes'; did you mean 'image_size'"),
        (NANO.replace(encoders=()), "encoders is empty"),
    ],
)
def test_what_is_no_architecture_is_refused(arch: Any, message: str) -> None:
    with pytest.raises(ArchError, match=message):
        _create(arch=arch)


@pytest.mark.parametrize("content", ["not json", "[]", '{"image_size": 16, "branches": [], "encoders": []}'])
def test_a_file_that_holds_no_architecture_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "arch.json").write_text(content, encoding="utf-8")
    with pytest.raises(ArchError, match=r"arch .*arch\.json': "):
        _create(arch=tmp_path / "arch.json")


def test_options_change_the_architecture() -> None:
    model = _create(
        arch=TWO, num_classes=7, in_chans=1, img_size=(24, 32), drop_rate=0.1, drop_path_rate=0.2, global_pool="token"
    )
    assert model.arch == with_image_size(TWO.replace(num_classes=7, in_channels=1), (24, 32))
    assert (model.num_classes, model.in_chans, model.head_drop.p) == (7, 1, 0.1)
    assert model.blocks[1].fusion[0].drop_path.drop_prob == pytest.approx(0.2)
    assert model(torch.randn(1, 1, 24, 32)).shape == (1, 7)
    config = resolve_data_config({}, model=model)
    assert (config["input_size"], config["mean"], config["std"]) == ((1, 24, 32), (0.5,), (0.5,))
    with pytest.raises(ValueError, match="global_pool 'avg' is not this network's"):
        _create(arch=TWO, global_pool="avg")
    with pytest.raises(ArchError, match="num_classes must be an integer of at least 1, got -1"):
        _create(arch=TWO, num_classes=-1)


def test_no_classes_give_features() -> None:
    torch.manual_seed(0)
    model = _create(arch=NANO, num_classes=0).eval()
    features = model.forward_features(IMAGES)
    assert model.num_classes == 0 and model(IMAGES).shape == (2, model.num_features)
    assert torch.equal(model(IMAGES), torch.cat(features, dim=1))
    assert torch.equal(model(IMAGES), model.forward_head(features, pre_logits=True))


def test_a_checkpoint_of_a_training_is_taken(tmp_path: Path) -> None:
    trained = _model()
    torch.save({"state_dict": trained.state_dict(), "epoch": 1}, tmp_path / "last.pth.tar")
    model = _create(arch=NANO, checkpoint_path=str(tmp_path / "last.pth.tar"))
    assert torch.equal(model.eval()(IMAGES), trained.eval()(IMAGES))


def test_pretrained_means_the_weights_of_the_file(tmp_path: Path) -> None:
    path, trained = _as_weights(tmp_path), _model(TWO).eval()
    assert torch.equal(_create(arch=path, pretrained=True).eval()(IMAGES), trained(IMAGES))
    assert not torch.equal(_create(arch=path).eval()(IMAGES), trained(IMAGES))


def test_pretrained_weights_are_adapted_as_timm_does(tmp_path: Path) -> None:
    path, trained = _as_weights(tmp_path), _model(TWO).eval()
    larger = _create(arch=path, pretrained=True, img_size=24).eval()
    images = torch.randn(2, 3, 24, 24)
    assert torch.equal(larger(images), resize_model(trained, 24)(images))
    other = _create(arch=path, pretrained=True, num_classes=4, in_chans=1)
    assert torch.equal(other.norm[0].weight, trained.norm[0].weight)
    assert torch.equal(other.blocks[1].blocks[1][1].mlp.fc1.weight, trained.blocks[1].blocks[1][1].mlp.fc1.weight)
    torch.testing.assert_close(other.patch_embed[0].proj.weight, trained.patch_embed[0].proj.weight.sum(1, True))
    assert other(torch.randn(1, 1, 16, 16)).shape == (1, 4)


@pytest.mark.parametrize("num_classes", [0, 4])
@pytest.mark.parametrize("project", ["none", "after"])
def test_the_classifiers_of_taps_are_left_out_for_other_classes(
    tmp_path: Path, project: str, num_classes: int, caplog: pytest.LogCaptureFixture
) -> None:
    """With the rest of the classifier; nothing is left over that timm would warn of."""
    head = HeadConfig(kind="exshortcut", taps=((0, 0), (0, 1)), project=project)
    trained = _model(TWO.replace(head=head))
    save_weights(tmp_path / "w.safetensors", trained)
    other = _create(arch=tmp_path / "w.safetensors", pretrained=True, num_classes=num_classes)
    assert torch.equal(other.taps["0_1"].norm.weight, trained.taps["0_1"].norm.weight)
    assert torch.equal(other.blocks[1].blocks[1][1].mlp.fc1.weight, trained.blocks[1].blocks[1][1].mlp.fc1.weight)
    assert other(IMAGES).shape == (2, num_classes or other.num_features)
    assert "Unexpected keys" not in caplog.text


def test_a_file_tells_the_statistics_it_was_trained_on(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", _model(), metadata={"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]})
    config = resolve_data_config({}, model=_create(arch=tmp_path / "w.safetensors"))
    assert (config["mean"], config["std"]) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def _for_240_px() -> ArchConfig:
    """The side of most published networks."""
    branches = tuple(replace(branch, image_size=240, patch_size=p) for branch, p in zip(NANO.branches, (30, 60)))
    return NANO.replace(image_size=240, branches=branches)


def _crop(model: Any) -> float:
    return resolve_data_config({}, model=model)["crop_pct"]


def test_our_own_weights_were_trained_on_whole_images_at_any_size(tmp_path: Path) -> None:
    """Those of a published architecture too: what timm's were evaluated on says nothing of others."""
    for arch in (_for_240_px(), PRESETS["crossvit_tiny_240"]):
        save_weights(tmp_path / "w.safetensors", _model(arch))
        assert _crop(_create(arch=tmp_path / "w.safetensors")) == 1.0
    assert _crop(_model(_for_240_px())) == _crop(_create(arch=_for_240_px())) == 1.0


def test_timms_weights_are_for_the_crop_that_timm_tells() -> None:
    for name, crop in (("crossvit_tiny_240", 0.875), ("crossvit_15_dagger_408", 1.0)):
        assert _crop(_create(arch=name, device="meta")) == timm.get_pretrained_cfg(name).crop_pct == crop


def test_a_file_tells_the_crop_it_was_trained_on(tmp_path: Path) -> None:
    """Beside the statistics, and where an export describes its preprocessing."""
    save_weights(tmp_path / "w.safetensors", _model(), metadata={"crop_pct": 0.9})
    about = describe(NANO, mean=(0.5,) * 3, std=(0.5,) * 3)
    about["preprocessing"]["crop_pct"] = 0.8
    write_weights(_model(), tmp_path / "exported.safetensors", about)
    assert [_crop(_create(arch=tmp_path / f"{name}.safetensors")) for name in ("w", "exported")] == [0.9, 0.8]


def test_pretrained_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    file = str(_as_weights(tmp_path))
    with pytest.raises(
        WeightsError, match=r"of another architecture: blocks\.0\.blocks\.1\.1.* is \(32,\) in the file"
    ):
        _create(arch=NANO, pretrained=True, num_classes=3, pretrained_cfg_overlay={"file": file})
    with pytest.raises(RuntimeError, match="No pretrained weights exist for crossvit_arch"):
        _create(arch=NANO, pretrained=True)


@pytest.mark.parametrize("name", sorted(set(PRESETS) & set(timm.list_models("crossvit*"))))
def test_released_weights_are_where_timm_has_them(name: str) -> None:
    published = timm.get_pretrained_cfg(name)
    config = timm_entry._origin(name)
    assert config == {"hf_hub_id": published.hf_hub_id} and published.hf_hub_id


def test_features_only_gives_maps_of_both_branches() -> None:
    model = _create(arch=TWO, features_only=True)
    assert [tuple(x.shape) for x in model(IMAGES)] == [(2, 16, 4, 4), (2, 32, 2, 2)]
    assert model.feature_info.channels() == [16, 32] and model.feature_info.reduction() == [4, 8]
    chosen = _create(arch=TWO, features_only=True, out_indices=(0, 1, 2))
    assert [x.shape[1] for x in chosen(IMAGES)] == [16, 16, 32]


@pytest.mark.parametrize("indices", [(0,), (1, 4), (2, -1)])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"head": HeadConfig(kind="exshortcut", taps=((0, 1), (1, 0)))},
        {"residual_attention": ResidualAttentionConfig(where=(0, 1), fusion=True, alpha_param="block")},
    ],
)
def test_features_only_holds_and_runs_no_more_than_they_need(
    changes: dict[str, Any], indices: tuple[int, ...], tmp_path: Path
) -> None:
    arch = TWO.replace(encoders=(EncoderConfig(depths=(1, 2), fusion="pairwise"), *TWO.encoders), **changes)
    whole = _model(arch).eval()
    expected = whole.forward_intermediates(IMAGES, indices, intermediates_only=True)
    torch.manual_seed(0)
    features = _create(arch=arch, features_only=True, out_indices=indices).eval()
    needed = max(index % 3 for index in indices) + 1
    assert [x.shape for x in features(IMAGES)] == [x.shape for x in expected]
    assert all(torch.equal(x, y) for x, y in zip(features(IMAGES), expected))
    shorter = _model(arch.replace(encoders=arch.encoders[:needed], head=HeadConfig()))
    read = {n for n, _ in shorter.named_parameters() if not n.startswith(("norm.", "head."))}
    assert {n for n, _ in features.model.named_parameters()} == read
    assert features.model(IMAGES).shape == (2, features.model.num_features) == (2, 48)
    with pytest.raises(WeightsError, match="pruned"):
        save_weights(tmp_path / "w.safetensors", features.model)


def test_a_pruned_network_keeps_the_numbers_of_its_features() -> None:
    model = _model(TWO).eval()
    expected = model.forward_intermediates(IMAGES, [2], norm=True, intermediates_only=True)
    assert model.prune_intermediate_layers([2], prune_head=False) == [2]
    (found,) = model.forward_intermediates(IMAGES, [2], norm=True, intermediates_only=True)
    torch.testing.assert_close(found, expected[0])
    assert model(IMAGES).shape == (2, 10)
    with pytest.raises(ValueError, match="need 2 encoders, of which 1 were not pruned"):
        model.forward_intermediates(IMAGES)


# The model's own methods ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [HeadConfig(), HeadConfig(kind="exshortcut", taps=((0, 1), (1, 0)))])
def test_the_classifier_is_all_that_a_new_one_replaces(head: HeadConfig) -> None:
    model = _model(TWO.replace(head=head))
    named = {f"{name}.{part}" for name in model.pretrained_cfg["classifier"] for part in ("weight", "bias")}
    replaced = {f"head.{name}" for name, _ in model.get_classifier().named_parameters()}
    assert replaced <= named and not named & (model.state_dict().keys() - replaced)


def test_what_timms_scripts_ask_for() -> None:
    arch = NANO.replace(in_channels=1)
    model = _model(arch)
    config = resolve_data_config({}, model=model)
    assert (config["input_size"], config["mean"], config["crop_pct"]) == ((1, 16, 16), (0.5,), 1.0)
    assert model.pretrained_cfg is model.default_cfg and model.pretrained_cfg["num_classes"] == 10
    for name in (*model.pretrained_cfg["first_conv"], *model.pretrained_cfg["classifier"]):
        assert isinstance(model.get_submodule(name), (nn.Conv2d, nn.Linear))
    assert model.num_features == model.head_hidden_size == 48


@pytest.mark.parametrize("stem", ["linear", "conv"])
def test_first_convolutions_read_the_image(stem: str) -> None:
    arch = NANO.replace(branches=tuple(replace(branch, stem=stem) for branch in NANO.branches), in_channels=2)
    model = _model(arch)
    assert [model.get_submodule(name).in_channels for name in model.pretrained_cfg["first_conv"]] == [2, 2]


@pytest.mark.parametrize("fusion", FUSION_NAMES)
def test_every_parameter_gets_a_learning_rate_by_depth(fusion: str) -> None:
    model = _model(TWO.replace(encoders=(EncoderConfig(depths=(1, 1), fusion=fusion),) * 2))
    groups = param_groups_layer_decay(model, 0.05, model.no_weight_decay(), layer_decay=0.5)
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert scales.keys() == {id(p) for p in model.parameters() if p.requires_grad}
    assert {
        name for name, p in model.named_parameters() if id(p) not in scales and not name.endswith("wk.bias")
    } == set()
    assert scales[id(model.pos_embed_0)] < scales[id(model.blocks[0].blocks[0][0].attn.qkv.weight)]
    assert (
        scales[id(model.blocks[0].blocks[0][0].attn.qkv.weight)] < scales[id(model.blocks[1].blocks[0][0].mlp.fc1.bias)]
    )
    assert scales[id(model.head[0].weight)] == max(scales.values()) == 1.0


def test_no_weight_decay_is_heeded() -> None:
    model = _model()
    free, decayed = create_optimizer_v2(model, "adamw", weight_decay=0.05).param_groups
    assert free["weight_decay"] == 0 and decayed["weight_decay"] == 0.05
    ids = {id(parameter) for parameter in free["params"]}
    assert {id(model.cls_token_1), id(model.pos_embed_0), id(model.norm[0].weight)} <= ids
    assert id(model.head[0].weight) not in ids


def test_a_new_classifier_changes_the_architecture() -> None:
    model = _model(TWO).to(torch.bfloat16).eval()
    before = [x.clone() for x in model.forward_features(IMAGES.bfloat16())]
    assert model.get_classifier() is model.head
    model.reset_classifier(5, "token")
    assert (model.num_classes, model.arch) == (5, TWO.replace(num_classes=5))
    assert model(IMAGES.bfloat16()).shape == (2, 5)
    assert all(torch.equal(a, b) for a, b in zip(before, model.forward_features(IMAGES.bfloat16())))
    assert not any(module.training for module in model.modules())
    assert model.head[0].weight.detach().float().std() == pytest.approx(0.02, rel=0.4) and not model.head[0].bias.any()
    assert count_cost(model.arch).params == sum(p.numel() for p in model.parameters())


def test_a_classifier_may_be_taken_off() -> None:
    model = _model()
    model.reset_classifier(0)
    assert (model.num_classes, model.arch) == (0, NANO)
    assert list(model.get_classifier().parameters()) == []
    model.reset_classifier(3)
    assert model(IMAGES).shape == (2, 3) and model.arch.num_classes == 3


@pytest.mark.parametrize("num_classes", [-1, 2.0, True, None])
def test_a_number_of_classes_that_is_none_is_refused(num_classes: Any) -> None:
    model = _model()
    with pytest.raises(ValueError, match=f"num_classes must be an integer of at least 0, got {num_classes}"):
        model.reset_classifier(num_classes)
    with pytest.raises(ValueError, match="global_pool 'avg' is not this network's"):
        model.reset_classifier(2, "avg")
    assert model.num_classes == 10


def test_dropout_acts_before_the_logits_too() -> None:
    model = _model(NANO, drop_rate=0.5)
    features = model.forward_features(IMAGES)
    assert (model.forward_head(features, pre_logits=True) == 0).any()


def test_intermediates_are_the_tokens_between_encoders() -> None:
    model = _model(TWO).eval()
    final, maps = model.forward_intermediates(IMAGES)
    assert [tuple(x.shape) for x in maps] == [(2, 16, 4, 4)] * 2 + [(2, 32, 2, 2)] * 2
    torch.testing.assert_close(final, model.forward_features(IMAGES))
    rows = model.forward_intermediates(IMAGES, output_fmt="NLC", intermediates_only=True)
    assert all(torch.equal(x.flatten(2).mT, y) for x, y in zip(maps, rows))
    normed = model.forward_intermediates(IMAGES, norm=True, output_fmt="NLC", intermediates_only=True)
    torch.testing.assert_close(normed[3], model.norm[1](rows[3]))
    tokens: list[Tensor] = []
    model.blocks[1].register_forward_pre_hook(lambda _, inputs: tokens.extend(inputs[0]))
    model(IMAGES)
    torch.testing.assert_close(rows[0], tokens[0][:, 1:])
    torch.testing.assert_close(rows[2], tokens[1][:, 1:])


def test_intermediates_are_chosen() -> None:
    model = _model(TWO).eval()
    every = model.forward_intermediates(IMAGES, intermediates_only=True)

    def chosen(indices: Any, **options: Any) -> list[int]:
        got = model.forward_intermediates(IMAGES, indices, intermediates_only=True, **options)
        return [next(i for i, x in enumerate(every) if x.shape == y.shape and torch.equal(x, y)) for y in got]

    assert chosen(1) == [3] and chosen([0, -1]) == [0, 3] and chosen([2, 0]) == [0, 2] and chosen([]) == []
    assert chosen([0, 2], stop_early=True) == [0, 2]
    for indices in (0, 5, [4], [-5]):
        with pytest.raises(ValueError, match="indices"):
            model.forward_intermediates(IMAGES, indices)
    with pytest.raises(ValueError, match="output_fmt 'NHWC' is unknown; use NCHW or NLC"):
        model.forward_intermediates(IMAGES, output_fmt="NHWC")
    with pytest.raises(ValueError, match="do not fit"):
        model.forward_intermediates(torch.zeros(1, 3, 17, 16))


def test_stopping_early_runs_no_later_encoder() -> None:
    model, ran = _model(TWO).eval(), []
    for index, encoder in enumerate(model.blocks):
        encoder.register_forward_hook(lambda *_, index=index: ran.append(index))
    model.forward_intermediates(IMAGES, [0], stop_early=True, intermediates_only=True)
    assert ran == [0]


# Gradient checkpointing ----------------------------------------------------------------------------------------------


def _gradients(model: CrossViT) -> tuple[dict[str, Tensor], int]:
    """Gradients of a training step under a seed, and the bytes that the forward kept for them."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model.zero_grad(set_to_none=True)
    torch.manual_seed(3)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(IMAGES.repeat(4, 1, 1, 1)).square().sum()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, sum(kept.values())


@pytest.mark.parametrize("fusion", FUSION_NAMES)
def test_checkpointing_keeps_less_and_gives_the_same_gradients(fusion: str) -> None:
    arch = TWO.replace(encoders=(EncoderConfig(depths=(2, 2), fusion=fusion),) * 2)
    model = _model(arch, drop_path_rate=0.4, drop_rate=0.3)
    names = list(model.state_dict())
    plain, bytes_plain = _gradients(model)
    model.set_grad_checkpointing()
    checkpointed, bytes_checkpointed = _gradients(model)
    assert list(model.state_dict()) == names and plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)
    assert bytes_checkpointed < 0.8 * bytes_plain
    model.set_grad_checkpointing(False)
    assert _gradients(model)[1] == bytes_plain


def test_checkpointed_networks_can_be_copied_pickled_and_evaluated() -> None:
    model = _model(TWO, drop_path_rate=0.4).eval()
    expected = model(IMAGES)
    model.set_grad_checkpointing()
    twin, thawed = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for copied in (twin, thawed):
        torch.testing.assert_close(copied(IMAGES), expected)
        assert _gradients(copied.train())[0]
    with torch.inference_mode():
        assert not model(IMAGES).any()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_checkpointing_leaves_one_graph(backend: str) -> None:
    """As it is written, and divided into forward and backward pass, which every compiler of training does."""
    torch._dynamo.reset()
    model = _model(NANO)
    expected = _gradients(model)[0]
    model.set_grad_checkpointing()
    model.zero_grad()
    torch.compile(model, fullgraph=True, backend=backend)(IMAGES.repeat(4, 1, 1, 1)).square().sum().backward()
    for name, gradient in expected.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, msg=name)
    torch._dynamo.reset()


def test_there_is_nothing_to_reparameterize() -> None:
    """What timm's validate.py and benchmark.py do at --reparam."""
    model = _model().eval()
    assert torch.equal(reparameterize_model(model)(IMAGES), model(IMAGES))


# Architectures that must work ----------------------------------------------------------------------------------------


def _branches(*widths: int, patches: tuple[int, ...] = (4, 8, 2, 16)) -> ArchConfig:
    like = NANO.branches[0]
    branches = tuple(replace(like, patch_size=p, embed_dim=w) for p, w in zip(patches, widths))
    return NANO.replace(branches=branches, encoders=(EncoderConfig(depths=(1,) * len(widths)),) * 2)


UNUSUAL = {
    "more blocks at small patches": NANO.replace(encoders=(EncoderConfig(depths=(3, 1)),)),
    "N = 0": NANO.replace(encoders=(EncoderConfig(depths=(0, 2)),) * 2),
    "M = 0": NANO.replace(encoders=(EncoderConfig(depths=(2, 0)),) * 2),
    "N = M = 0": NANO.replace(encoders=(EncoderConfig(depths=(0, 0)),) * 2),
    "equal widths": _branches(16, 16),
    "three branches": _branches(16, 24, 8),
    "four branches": _branches(16, 24, 8, 16),
    "256 x 128 px": with_image_size(PRESETS["crossvit_nano_32"], (256, 128)),
    "one channel": NANO.replace(in_channels=1),
    **{
        f"conv stem, patch {p}": _branches(8, 12, patches=(p, p)).replace(
            image_size=2 * p,
            branches=tuple(
                replace(NANO.branches[0], image_size=2 * p, patch_size=p, embed_dim=w, stem="conv") for w in (8, 12)
            ),
        )
        for p in (2, 3, 4, 6, 8, 9, 12, 16, 18, 24, 32)
    },
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_architectures_learn(name: str) -> None:
    """They are made by timm, counted, give logits and intermediates, and every parameter that has a say learns."""
    arch = UNUSUAL[name]
    torch.manual_seed(0)
    model = _create(arch=arch)
    images = torch.randn(3, arch.in_channels, *arch.size)
    logits = model(images)
    assert logits.shape == (3, 10) and logits.isfinite().all()
    assert count_cost(arch).params == sum(p.numel() for p in model.parameters())
    logits.square().sum().backward()
    silent = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert {n for n in silent if not n.endswith("wk.bias")} == set()
    maps = model.forward_intermediates(images, intermediates_only=True)
    assert [tuple(x.shape[2:]) for x in maps] == [b.grid for b in arch.branches for _ in arch.encoders]


# Scripts -------------------------------------------------------------------------------------------------------------


def _run(tmp_path: Path, code: str, *arguments: str) -> int:
    (tmp_path / "script.py").write_text(code, encoding="utf-8")
    return timm_entry.main([str(tmp_path / "script.py"), *arguments])


def test_a_script_of_timms_knows_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("sys.argv", ["pytest"])
    monkeypatch.setattr("sys.path", ["/nowhere"])
    (tmp_path / "beside.py").write_text("SIZE = 24\n", encoding="utf-8")
    code = (
        "import sys, timm\nfrom beside import SIZE\nassert __name__ == '__main__'\n"
        "print(timm.create_model('crossvit_arch', arch=sys.argv[1], img_size=SIZE).arch.size)\n"
    )
    assert _run(tmp_path, code, "crossvit_nano_16") == 0
    assert capsys.readouterr().out == "(24, 24)\n"
    assert _run(tmp_path, code, "crossvit_nano_17") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: arch 'crossvit_nano_17' is neither") and "Traceback" not in said


def test_what_is_no_script_is_refused(tmp_path: Path, capsys: Any) -> None:
    assert timm_entry.main([]) == 2
    assert capsys.readouterr().err.startswith("usage: python -m crossvit_core.timm_entry SCRIPT")
    assert timm_entry.main([str(tmp_path / "train.py")]) == 2
    assert "there is no script" in capsys.readouterr().err


TRAINING = """
import sys
import torch
from timm import create_model
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, CheckpointSaver, ModelEmaV3, accuracy, dispatch_clip_grad

folder, out = sys.argv[1:3]
torch.manual_seed(0)
model = create_model("crossvit_arch", arch="crossvit_nano_16", num_classes=3, drop_path_rate=0.1)
model.set_grad_checkpointing(enable=True)
config = resolve_data_config({}, model=model)
wanted = {key: config[key] for key in ("input_size", "mean", "std", "interpolation")}
train, val = (
    create_loader(
        create_dataset("", root=folder, split=split, is_training=split == "train"), batch_size=12,
        is_training=split == "train", use_prefetcher=False, num_workers=0, device=torch.device("cpu"),
        crop_pct=config["crop_pct"], **wanted,
    )
    for split in ("train", "validation")
)
optimizer = create_optimizer_v2(model, "adamw", lr=3e-3, weight_decay=0.05, layer_decay=0.8)
scheduler, epochs = create_scheduler_v2(optimizer, "cosine", num_epochs=8, warmup_epochs=0)
ema, loss_of = ModelEmaV3(model, decay=0.5), LabelSmoothingCrossEntropy(0.1)
saver = CheckpointSaver(model, optimizer, model_ema=ema, checkpoint_dir=out, recovery_dir=out)
for epoch in range(epochs):
    model.train()
    for images, labels in train:
        optimizer.zero_grad()
        loss_of(model(images), labels).backward()
        dispatch_clip_grad(model.parameters(), 1.0)
        optimizer.step()
        ema.update(model)
    scheduler.step(epoch + 1)
    ema.eval()
    top1 = AverageMeter()
    with torch.no_grad():
        for images, labels in val:
            top1.update(accuracy(ema(images), labels)[0].item(), len(labels))
    saver.save_checkpoint(epoch, top1.avg)
print(top1.avg)
"""


@pytest.mark.slow
def test_timms_training_and_validation_loop_on_images_on_disk(tmp_path: Path) -> None:
    """Three colours, by timm's loaders, optimiser, schedule, averaging and checkpoints, in a process of its own."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 16), ("validation", 8)):
        for label in range(3):
            folder = tmp_path / "images" / split / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = generator.normal(90, 30, (20, 24, 3)) + 90 * np.eye(3)[label]
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index}.png")
    (tmp_path / "train.py").write_text(TRAINING, encoding="utf-8")
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-m", "crossvit_core.timm_entry", str(tmp_path / "train.py")]
    ran = subprocess.run(
        [*command, str(tmp_path / "images"), str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert float(ran.stdout.split()[-1]) > 90
    model = build_model(NANO.replace(num_classes=3))
    load_checkpoint(model, tmp_path / "out" / "last.pth.tar", ema=True)
    averaged = model.norm[0].weight.clone()
    load_checkpoint(model, tmp_path / "out" / "last.pth.tar")
    assert not torch.equal(model.norm[0].weight, averaged)


@pytest.mark.slow
def test_the_module_refuses_as_a_command() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "crossvit_core.timm_entry"], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (2, "") and ran.stderr.startswith("usage: ")
