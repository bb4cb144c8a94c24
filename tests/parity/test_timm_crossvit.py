"""Our networks are timm's: same tensors under the same names, same logits."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from crossvit_core.fusion import reference_form
from crossvit_core.model import CrossViT, build_model
from crossvit_core.presets import PRESETS
from crossvit_core.weights import from_official

COMPARED = ("crossvit_tiny_240", "crossvit_9_240", "crossvit_small_240", "crossvit_9_dagger_240")


def _pair(name: str) -> tuple[torch.nn.Module, CrossViT]:
    """timm's network with weights drawn by it, biases and norms included, and ours with the same."""
    torch.manual_seed(1)
    theirs = timm.create_model(name, pretrained=False).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    with torch.device("meta"):
        ours = build_model(PRESETS[name]).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    return theirs, ours


def _difference(theirs: torch.nn.Module, ours: CrossViT, images: Tensor) -> float:
    with torch.inference_mode():
        expected, got = theirs(images), ours(images)
    assert expected.std() > 0.1  # logits that all vanish would agree with anything
    return float((expected - got).abs().max())


@pytest.mark.parametrize("name", COMPARED)
def test_logits_equal_timms(name: str) -> None:
    theirs, ours = _pair(name)
    assert _difference(theirs, ours, torch.randn(2, 3, 240, 240)) < 1e-4


@pytest.mark.parametrize("name", ["crossvit_tiny_240", "crossvit_9_dagger_240"])
def test_logits_equal_timms_in_double_precision(name: str) -> None:
    theirs, ours = (model.double() for model in _pair(name))
    images = torch.randn(2, 3, 240, 240, dtype=torch.float64)
    assert _difference(theirs, ours, images) < 1e-10
    with reference_form(ours):
        assert _difference(theirs, ours, images) < 1e-10


def test_features_before_the_logits_equal_timms() -> None:
    theirs, ours = _pair("crossvit_tiny_240")
    images = torch.randn(1, 3, 240, 240)
    with torch.inference_mode():
        expected = theirs.forward_head(theirs.forward_features(images), pre_logits=True)
        got = ours.forward_head(ours.forward_features(images), pre_logits=True)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_weight_decay_exemptions_equal_timms() -> None:
    theirs, ours = _pair("crossvit_tiny_240")
    assert ours.no_weight_decay() == theirs.no_weight_decay()


def _published_tensors(fixtures_dir: Path) -> dict[str, list[dict[str, str]]]:
    tensors: dict[str, list[dict[str, str]]] = {}
    with (fixtures_dir / "state_dict_keys.csv").open() as file:
        for row in csv.DictReader(file):
            tensors.setdefault(row["timm_model"], []).append(row)
    return tensors


def test_names_and_shapes_of_all_eleven_published_models(fixtures_dir: Path) -> None:
    published = _published_tensors(fixtures_dir)
    assert len(published) == 11
    for name, rows in published.items():
        with torch.device("meta"):
            ours = build_model(PRESETS[name]).state_dict()
        shapes = {key: "x".join(map(str, tensor.shape)) for key, tensor in ours.items()}
        assert shapes == {row["timm_key"]: row["shape"] for row in rows}, name


def test_official_names_become_ours(fixtures_dir: Path) -> None:
    for rows in _published_tensors(fixtures_dir).values():
        official = {row["official_key"]: row["timm_key"] for row in rows}
        renamed = from_official({"model": official})
        assert all(name == expected for name, expected in renamed.items())
        assert len(renamed) == len(rows)
