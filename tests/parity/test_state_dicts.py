"""The eleven released models: every state dict loads strictly, by timm's names and by the authors'."""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from crossvit_core.model import CrossViT, build_model
from crossvit_core.presets import PRESETS
from crossvit_core.state_dicts import differences, fitting_presets, from_official, read_state_dict
from crossvit_core.weights import load_checkpoint

RELEASED = tuple(timm.list_models("crossvit_*_[0-9]*", include_tags=False))


@lru_cache
def _rows(path: Path) -> dict[str, list[dict[str, str]]]:
    tensors: dict[str, list[dict[str, str]]] = {}
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            tensors.setdefault(row["timm_model"], []).append(row)
    return tensors


def _published(fixtures_dir: Path, name: str, key: str) -> dict[str, Tensor]:
    """The tensors of a release, by ``key``, without their numbers."""
    rows = _rows(fixtures_dir / "state_dict_keys.csv")[name]
    return {row[key]: torch.empty([int(n) for n in row["shape"].split("x")], device="meta") for row in rows}


def _on_meta(name: str) -> CrossViT:
    with torch.device("meta"):
        return build_model(PRESETS[name])


def test_there_are_eleven(fixtures_dir: Path) -> None:
    assert set(RELEASED) == set(_rows(fixtures_dir / "state_dict_keys.csv")) and len(RELEASED) == 11


@pytest.mark.parametrize("name", RELEASED)
def test_both_namings_load_strictly(fixtures_dir: Path, name: str) -> None:
    timms, authors = (_published(fixtures_dir, name, key) for key in ("timm_key", "official_key"))
    assert timms.keys() != authors.keys()
    for tensors in (timms, from_official(authors), from_official({"model": authors})):
        model = _on_meta(name)
        assert list(tensors) == list(model.state_dict())
        model.load_state_dict(tensors, strict=True, assign=True)


@pytest.mark.parametrize("name", RELEASED)
def test_names_lead_back_to_the_authors(fixtures_dir: Path, name: str) -> None:
    """No two of the authors' tensors become one of ours."""
    rows = _rows(fixtures_dir / "state_dict_keys.csv")[name]
    back = {ours: official for official, ours in ((row["official_key"], row["timm_key"]) for row in rows)}
    renamed = from_official({row["official_key"]: torch.empty(0) for row in rows})
    assert {back[ours] for ours in renamed} == {row["official_key"] for row in rows}


@pytest.mark.parametrize("name", RELEASED)
def test_a_release_is_known_by_its_tensors(fixtures_dir: Path, name: str) -> None:
    assert fitting_presets(_published(fixtures_dir, name, "timm_key")) == [name]


def test_no_two_presets_are_taken_for_each_other() -> None:
    for name in PRESETS:
        with torch.device("meta"):
            tensors = build_model(PRESETS[name].replace(num_classes=7, in_channels=1)).state_dict()
        assert fitting_presets(tensors) == [name]


@pytest.mark.parametrize(
    ("naming", "wrapper"), [("timm_key", None), ("timm_key", "state_dict"), ("official_key", "model")]
)
def test_a_file_of_a_release_loads(fixtures_dir: Path, tmp_path: Path, naming: str, wrapper: str | None) -> None:
    """Tiny, the smallest, with numbers drawn by timm's network, in both namings, bare or wrapped."""
    name, path = "crossvit_tiny_240", tmp_path / "released.pth"
    torch.manual_seed(0)
    theirs = timm.create_model(name, pretrained=False).eval()
    official = dict(zip(_published(fixtures_dir, name, "timm_key"), _published(fixtures_dir, name, naming)))
    tensors = {official[key]: tensor for key, tensor in theirs.state_dict().items()}
    torch.save({wrapper: tensors, "epoch": 300} if wrapper else tensors, path)
    ours = build_model(PRESETS[name]).eval()
    load_checkpoint(ours, path)
    assert not differences(read_state_dict(path), theirs.state_dict())
    assert all(torch.equal(tensor, theirs.state_dict()[key]) for key, tensor in ours.state_dict().items())
