"""Weights on disk: what is saved is what is loaded, and nothing else is taken for it."""

from __future__ import annotations

import argparse
import os
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from crossvit_core.config import EncoderConfig
from crossvit_core.fusion import reference_form
from crossvit_core.model import CrossViT, build_model
from crossvit_core.positions import resize_model
from crossvit_core.presets import PRESETS
from crossvit_core.weights import (
    WeightsError,
    load_checkpoint,
    load_model,
    read_architecture,
    read_metadata,
    save_weights,
)

NANO = PRESETS["crossvit_nano_16"]
WITH_CONVOLUTIONS = NANO.replace(
    branches=tuple(replace(branch, conv_path=True) for branch in NANO.branches),
    encoders=(EncoderConfig(depths=(2, 1), fusion="none"),),
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_saved_network_computes_the_same(tmp_path: Path, dtype: torch.dtype) -> None:
    model, images = build_model(NANO).to(dtype).eval(), torch.randn(2, 3, 16, 16, dtype=dtype)
    save_weights(tmp_path / "w.safetensors", model)
    loaded = load_model(tmp_path / "w.safetensors", NANO)
    assert loaded.arch == NANO and not loaded.training
    assert next(loaded.parameters()).dtype == dtype
    with torch.inference_mode():
        assert torch.equal(loaded(images), model(images))


def test_a_loaded_network_can_be_trained_further(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", build_model(NANO))
    loaded = load_model(tmp_path / "w.safetensors").train()
    loaded(torch.randn(2, 3, 16, 16)).sum().backward()
    assert loaded.head[0].weight.grad is not None
    assert all((parameter.grad is not None) is parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("load", [load_model, lambda path: _loaded(path)], ids=["load_model", "load_checkpoint"])
def test_convolutions_that_nothing_reads_are_left_out(tmp_path: Path, load: Callable[[Path], CrossViT]) -> None:
    """As earlier versions built, trained and saved them in the last blocks of branches."""
    path = tmp_path / "w.safetensors"
    model = build_model(WITH_CONVOLUTIONS).eval()
    save_weights(path, model)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    unread = {f"blocks.0.blocks.1.0.conv_path.convs.0.{name}": torch.ones(3) for name in ("weight", "bias")}
    save_file({**load_file(path), **unread}, path, header)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(load(path).eval()(images), model(images))


def _loaded(path: Path) -> CrossViT:
    model = build_model(WITH_CONVOLUTIONS)
    load_checkpoint(model, path)
    return model


def test_metadata_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, build_model(NANO), metadata={"epoch": 3, "normalisation": {"mean": [0.5]}})
    assert read_metadata(path) == {"epoch": 3, "normalisation": {"mean": [0.5]}}


def test_saving_replaces_the_whole_file_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, build_model(NANO))
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_weights(path, build_model(NANO), metadata={"not json": object()})
    assert path.read_bytes() == before
    save_weights(path, build_model(PRESETS["crossvit_nano_32"]))
    assert load_model(path).arch == PRESETS["crossvit_nano_32"]
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, build_model(NANO))
    with pytest.raises(WeightsError, match=f"holds architecture {NANO.key()}, not"):
        load_model(path, PRESETS["crossvit_nano_32"])


def test_tensors_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    model = build_model(NANO)
    model.arch = PRESETS["crossvit_nano_32"]
    save_weights(path, model)
    with pytest.raises(WeightsError, match="do not fit the architecture it names"):
        load_model(path)


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="has format None, not 'crossvit-weights-1'"):
        load_model(path)
    torch.save(build_model(NANO).state_dict(), path)
    with pytest.raises(WeightsError, match="no safetensors file"):
        load_model(path)
    with pytest.raises(FileNotFoundError, match="no weights file"):
        load_model(tmp_path / "absent")


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, build_model(NANO))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="damaged"):
        load_model(path)


@pytest.mark.parametrize("architecture", ["{}", "not json", '{"image_size": 16, "branches": [], "encoders": []}'])
def test_an_architecture_that_is_none_is_refused(tmp_path: Path, architecture: str) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, build_model(NANO))
    save_file(load_file(path), path, {"format": "crossvit-weights-1", "architecture": architecture})
    with pytest.raises(WeightsError, match="names no architecture that can be built"):
        load_model(path)


def test_the_form_of_computing_is_not_saved(tmp_path: Path) -> None:
    model = build_model(NANO)
    with reference_form(model):
        save_weights(tmp_path / "w.safetensors", model)
    assert not any(encoder.reference for encoder in load_model(tmp_path / "w.safetensors").blocks)
    assert not any(encoder.reference for encoder in model.blocks)


def test_the_architecture_of_a_file_is_read_without_its_weights(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", build_model(NANO))
    assert read_architecture(tmp_path / "w.safetensors") == NANO


def test_a_network_without_classifier_is_not_saved(tmp_path: Path) -> None:
    model = build_model(NANO)
    model.reset_classifier(0)
    with pytest.raises(WeightsError, match=r"without classifier \(num_classes 0\) cannot be saved"):
        save_weights(tmp_path / "w.safetensors", model)
    model.reset_classifier(4)
    save_weights(tmp_path / "w.safetensors", model)
    assert load_model(tmp_path / "w.safetensors").arch == NANO.replace(num_classes=4)


# Files of others -----------------------------------------------------------------------------------------------------


def _official(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {name: re.sub(r"^(pos_embed|cls_token)_(\d)$", r"\1.\2", name) for name in tensors}
    assert sum(new != name for name, new in names.items()) == 4
    return {names[name]: tensor for name, tensor in tensors.items()}


WRITERS: dict[str, Callable[[dict[str, Tensor], Path], None]] = {
    "bare.pth": lambda tensors, path: torch.save(tensors, path),
    "bare.safetensors": lambda tensors, path: save_file(tensors, path),
    "official.pth": lambda tensors, path: torch.save({"model": _official(tensors), "epoch": 3, "scaler": None}, path),
    "official.safetensors": lambda tensors, path: save_file(_official(tensors), path),
    "timm.pth.tar": lambda tensors, path: torch.save(
        {"state_dict": tensors, "optimizer": {}, "args": argparse.Namespace(model="x"), "version": 2}, path
    ),
    "parallel.pt": lambda tensors, path: torch.save({f"module.{name}": t for name, t in tensors.items()}, path),
    "compiled.pt": lambda tensors, path: torch.save(
        {"state_dict": {f"_orig_mod.module.{name}": t for name, t in tensors.items()}}, path
    ),
    "old_format.pth": lambda tensors, path: torch.save(tensors, path, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("name", WRITERS)
def test_weights_of_others_compute_the_same(tmp_path: Path, name: str) -> None:
    theirs, ours = build_model(NANO).eval(), build_model(NANO)
    WRITERS[name](theirs.state_dict(), tmp_path / name)
    load_checkpoint(ours, tmp_path / name)
    assert ours.training
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(ours.eval()(images), theirs(images))


def test_averaged_weights_are_taken_when_asked_for(tmp_path: Path) -> None:
    last, averaged, ours = (build_model(NANO) for _ in range(3))
    path = tmp_path / "last.pth.tar"
    torch.save({"state_dict": last.state_dict(), "state_dict_ema": averaged.state_dict()}, path)
    for ema, expected in ((False, last), (True, averaged)):
        load_checkpoint(ours, path, ema=ema)
        assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), expected.state_dict().values()))
    torch.save(last.state_dict(), path)
    with pytest.raises(WeightsError, match=r"holds no averaged weights \(state_dict_ema or model_ema\)"):
        load_checkpoint(ours, path, ema=True)


class _Malicious:
    """Unpickled, it would make a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.proof),))


@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickle_is_never_executed(tmp_path: Path, new_format: bool) -> None:
    proof, path = tmp_path / "executed", tmp_path / "w.pth"
    content = {"model": build_model(NANO).state_dict(), "extra": _Malicious(proof)}
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(WeightsError, match=r"holds more than tensors, and was not loaded"):
        load_checkpoint(build_model(NANO), path)
    path.write_bytes(pickle.dumps(content["extra"]))
    with pytest.raises(WeightsError, match="was not loaded"):
        load_checkpoint(build_model(NANO), path)
    assert not proof.exists()
    pickle.loads(path.read_bytes())
    assert proof.exists()  # the file was dangerous


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pth", b"", "damaged"),
        ("w.pth", b"PK\x03\x04 half an archive", "damaged"),
        ("w.safetensors", b"\x00" * 40, "damaged"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        load_checkpoint(build_model(NANO), tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, not a mapping of tensors by name"),
        ({"weights": {"a": torch.zeros(1)}}, "holds 'weights', a dict, among its tensors"),
        ({"epoch": 3}, "holds 'epoch', a int, among its tensors"),
        ({}, "cls_token_0 is absent in the file"),
    ],
)
def test_what_holds_no_tensors_is_refused(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=message):
        load_checkpoint(build_model(NANO), tmp_path / "w.pth")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weights file .*absent\.pth"):
        load_checkpoint(build_model(NANO), tmp_path / "absent.pth")


def _refused(model: CrossViT, path: Path, **options: bool) -> str:
    """What is said; the model must be as before."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    arch = model.arch
    with pytest.raises(WeightsError) as raised:
        load_checkpoint(model, path, **options)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.arch == arch
    return str(raised.value).removeprefix(f"{path} ")


def test_another_architecture_is_told_by_its_first_tensors_and_its_preset(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(build_model(PRESETS["crossvit_nano_32"]).state_dict(), path)
    assert _refused(build_model(NANO), path, resize=True, reset_head=True) == (
        "holds another architecture: pos_embed_0 is (1, 65, 32) in the file, (1, 17, 16) in the network; "
        "cls_token_0 is (1, 1, 32) in the file, (1, 1, 16) in the network; "
        "pos_embed_1 is (1, 17, 64) in the file, (1, 5, 32) in the network and 83 more "
        "(the file fits preset crossvit_nano_32)"
    )


def test_missing_and_surplus_tensors_are_both_told(tmp_path: Path) -> None:
    tensors = build_model(NANO).state_dict()
    tensors["norm.9.weight"] = tensors.pop("norm.1.weight")
    torch.save(tensors, tmp_path / "w.pth")
    assert _refused(build_model(NANO), tmp_path / "w.pth") == (
        "holds another architecture: norm.1.weight is absent in the file, (32,) in the network; "
        "norm.9.weight is (32,) in the file, absent in the network"
    )


def test_another_image_size_is_interpolated_only_when_asked_for(tmp_path: Path) -> None:
    path, larger = tmp_path / "w.pth", resize_model(build_model(NANO), 24)
    torch.save(larger.state_dict(), path)
    model = build_model(NANO)
    assert _refused(model, path) == (
        "has another image size (use resize=True to interpolate its positions): "
        "pos_embed_0 is (1, 37, 16) in the file, (1, 17, 16) in the network; "
        "pos_embed_1 is (1, 10, 32) in the file, (1, 5, 32) in the network"
    )
    load_checkpoint(model, path, resize=True)
    expected = resize_model(larger, 16).state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in model.state_dict().items())


def test_another_classifier_is_left_out_only_when_asked_for(tmp_path: Path) -> None:
    path, theirs = tmp_path / "w.pth", build_model(NANO.replace(num_classes=4))
    torch.save(theirs.state_dict(), path)
    model = build_model(NANO)
    assert _refused(model, path, resize=True) == (
        "has another classifier (use reset_head=True to start with a new one): "
        "head.0.weight is (4, 16) in the file, (10, 16) in the network; "
        "head.0.bias is (4,) in the file, (10,) in the network; "
        "head.1.weight is (4, 32) in the file, (10, 32) in the network and 1 more"
        " (the file fits preset crossvit_nano_16)"
    )
    before = model.head[0].weight.clone()
    load_checkpoint(model, path, reset_head=True)
    assert torch.equal(model.norm[1].weight, theirs.norm[1].weight)
    assert torch.equal(model.pos_embed_0, theirs.pos_embed_0)
    assert model.head[0].weight.shape == before.shape and not torch.equal(model.head[0].weight, before)
    assert not model.head[0].bias.any()


def test_both_are_told_at_once_and_done_at_once(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(resize_model(build_model(NANO.replace(num_classes=4)), 24).state_dict(), path)
    model = build_model(NANO)
    assert re.search("resize=True .* and another classifier .*reset_head=True", _refused(model, path))
    load_checkpoint(model, path, resize=True, reset_head=True)
    assert model(torch.randn(1, 3, 16, 16)).shape == (1, 10)


def test_features_can_be_loaded_without_the_classifier(tmp_path: Path) -> None:
    path, theirs, model = tmp_path / "w.pth", build_model(NANO).eval(), build_model(NANO).eval()
    torch.save(theirs.state_dict(), path)
    model.reset_classifier(0)
    assert "another classifier" in _refused(model, path)
    load_checkpoint(model, path, reset_head=True)
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(model(images), theirs.forward_head(theirs.forward_features(images), pre_logits=True))


def test_a_turned_image_is_another_size_though_it_has_as_many_patches(tmp_path: Path) -> None:
    wide, path = resize_model(build_model(NANO), (16, 32)), tmp_path / "w.safetensors"
    save_weights(path, wide)
    tall = resize_model(build_model(NANO), (32, 16))
    assert _refused(tall, path) == (
        "has another image size (use resize=True to interpolate its positions): "
        "as many patches, in other rows and columns"
    )
    load_checkpoint(tall, path, resize=True)
    expected = resize_model(wide, (32, 16)).state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in tall.state_dict().items())


def test_positions_that_make_no_grid_are_refused(tmp_path: Path) -> None:
    tensors = build_model(NANO).state_dict()
    tensors["pos_embed_0"] = torch.zeros(1, 8, 16)
    torch.save(tensors, tmp_path / "w.pth")
    assert "pos_embed_0 holds 7 patches, which make neither a square grid nor one of the proportions of (4, 4)" in (
        _refused(build_model(NANO), tmp_path / "w.pth", resize=True)
    )
