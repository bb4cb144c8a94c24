"""The weights that come with the package: whole, of the architectures that their names promise, and taken by timm."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import timm
import torch

from crossvit_core import timm_entry  # noqa: F401  registers crossvit_arch
from crossvit_core.config import ArchError
from crossvit_core.presets import PRESETS
from crossvit_core.pretrained import pretrained_file, pretrained_names
from crossvit_core.weights import load_model, read_metadata

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "results" / "reference" / "cifar10_cpu_all" / "presets.csv"
NAMES = ("crossvit_cifar_l", "crossvit_cifar_m", "crossvit_cifar_s")
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_three_presets_have_weights_and_figures() -> None:
    assert tuple(pretrained_names()) == NAMES
    with FIGURES.open(encoding="utf-8") as file:
        assert tuple(sorted(row["name"] for row in csv.DictReader(file))) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_are_those_of_the_preset_and_small_enough_to_keep(name: str) -> None:
    path = pretrained_file(name)
    model, about = load_model(path, PRESETS[name]), read_metadata(path)
    assert path.stat().st_size < 5e6
    assert len(about["class_names"]) == model(IMAGES).shape[1] == 10
    assert all(0.4 < value < 0.55 for value in about["mean"])  # of CIFAR-10's channels, not ImageNet's default alone


@pytest.mark.parametrize("name", NAMES)
def test_timm_takes_them_with_the_statistics_they_were_trained_on(name: str) -> None:
    model = timm.create_model("crossvit_arch", arch=name, pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(model(IMAGES), load_model(pretrained_file(name))(IMAGES))
    assert model.pretrained_cfg["mean"] == tuple(read_metadata(pretrained_file(name))["mean"])


def test_without_pretrained_timm_starts_from_nothing() -> None:
    model = timm.create_model("crossvit_arch", arch=NAMES[-1]).eval()
    with torch.no_grad():
        assert not torch.allclose(model(IMAGES), load_model(pretrained_file(NAMES[-1]))(IMAGES))


def test_a_name_without_weights_is_answered_with_the_nearest_that_has_some() -> None:
    with pytest.raises(ArchError, match=r"no weights come with 'crossvit_cifar_x'; did you mean 'crossvit_cifar_"):
        pretrained_file("crossvit_cifar_x")
