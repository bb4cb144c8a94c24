"""Weights on disk: what is saved is what is loaded, and nothing else is taken for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from crossvit_core.fusion import reference_form
from crossvit_core.model import build_model
from crossvit_core.presets import PRESETS
from crossvit_core.weights import WeightsError, load_model, read_metadata, save_weights

NANO = PRESETS["crossvit_nano_16"]


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
