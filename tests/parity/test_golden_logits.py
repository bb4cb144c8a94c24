"""Outputs for weights made from integers, written once by an independent implementation in double precision."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from crossvit_core.fusion import reference_form
from crossvit_core.model import CrossViT, build_model
from crossvit_core.presets import PRESETS

QUICK = ("crossvit_tiny_240", "crossvit_9_240", "crossvit_9_dagger_240")
SLOW = tuple(sorted(name for name in PRESETS if name.endswith(("_240", "_408")) and name not in QUICK))
INPUT_STREAM = 999983


def _uniform(shape: tuple[int, ...], stream: int) -> np.ndarray:
    """Numbers in (-1, 1) that are the same on every machine."""
    mask = np.uint64(0xFFFFFFFF)
    index = np.arange(math.prod(shape), dtype=np.uint64)
    with np.errstate(over="ignore"):
        h = (index * np.uint64(2654435761) + np.uint64(stream) * np.uint64(2246822519) + np.uint64(374761393)) & mask
        h ^= h >> np.uint64(15)
        h = (h * np.uint64(2246822519)) & mask
        h ^= h >> np.uint64(13)
        h = (h * np.uint64(3266489917)) & mask
        h ^= h >> np.uint64(16)
    return (2 * (h.astype(np.float64) + 0.5) / 2**32 - 1).reshape(shape)


def _golden_tensor(name: str, shape: tuple[int, ...], stream: int) -> np.ndarray:
    u = _uniform(shape, stream)
    if "pos_embed" in name or "cls_token" in name:
        return 0.5 * u
    if len(shape) == 1:
        return 1 + 0.2 * u if name.endswith(".weight") else 0.1 * u
    return u * math.sqrt(3 / math.prod(shape[1:]))


def _golden_model(name: str) -> CrossViT:
    with torch.device("meta"):
        model = build_model(PRESETS[name]).eval()
    shapes = {key: tuple(tensor.shape) for key, tensor in model.named_parameters()}
    tensors = {key: torch.from_numpy(_golden_tensor(key, shapes[key], q + 1)) for q, key in enumerate(sorted(shapes))}
    model.load_state_dict(tensors, assign=True)
    return model


def _expected(fixtures_dir: Path, name: str) -> dict[str, float]:
    with (fixtures_dir / "golden_logits.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if row["timm_model"] == name)
    return {key: float(value) for key, value in row.items() if key != "timm_model"}


def _outputs(model: CrossViT) -> dict[str, float]:
    images = torch.from_numpy(2 * _uniform((1, 3, *model.arch.size), INPUT_STREAM))
    with torch.inference_mode():
        features = model.forward_features(images)
        logits = model.forward_head(features)[0]
    found = {"argmax": logits.argmax(), "logit_sum": logits.sum(), "logit_std_pop": logits.std(correction=0)}
    for branch, feature in zip("SL", features):
        found |= {f"feat_sum_{branch}": feature.sum(), f"feat_abs_sum_{branch}": feature.abs().sum()}
    found |= {f"logit_{index}": logits[index] for index in range(8)}
    return {"input_size": model.arch.size[0], **{key: value.item() for key, value in found.items()}}


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_outputs_are_the_golden_ones(fixtures_dir: Path, name: str) -> None:
    model, expected = _golden_model(name), _expected(fixtures_dir, name)
    assert _outputs(model) == pytest.approx(expected, abs=1e-8)
    with reference_form(model):
        assert _outputs(model) == pytest.approx(expected, abs=1e-8)
