"""What later options leave untouched: keys, counts, tensors and logits recorded before any of them existed."""

from __future__ import annotations

import csv
import hashlib
import random
from pathlib import Path

import pytest
import torch

from crossvit_core.config import ArchConfig, BranchConfig, EncoderConfig
from crossvit_core.cost import count_cost
from crossvit_core.model import build_model
from crossvit_core.presets import PRESETS

FILE = "options_off.csv"
RANDOM_ARCHITECTURES = 200
WITH_LOGITS = 20


def random_arch(seed: int) -> ArchConfig:
    """A small architecture of the fields that there were from the start."""
    rng = random.Random(seed)
    branches = []
    for _ in range(rng.choice((1, 2, 2, 2, 3))):
        patch, heads = rng.choice((2, 3, 4, 6)), rng.randint(1, 3)
        size = (rng.randint(1, 4) * patch, rng.randint(1, 4) * patch)
        width, ratio, stem = heads * rng.choice((4, 8)), rng.choice((0.5, 1, 2.5, 4)), rng.choice(("linear", "conv"))
        branches.append(
            BranchConfig(
                image_size=size, patch_size=patch, embed_dim=width, num_heads=heads, mlp_ratio=ratio, stem=stem
            )
        )
    fusions = ("none", "all_attention", "class_token", "pairwise", "cross_attention")
    encoders = tuple(
        EncoderConfig(
            depths=tuple(rng.randint(0, 2) for _ in branches),
            fusion=rng.choice(fusions) if len(branches) > 1 else "none",
            fusion_depth=rng.randint(1, 3),
            fusion_reading=rng.choice(("published", "patches")),
            identity_maps=rng.random() < 0.5,
        )
        for _ in range(rng.randint(1, 3))
    )
    return ArchConfig(
        image_size=(rng.randint(4, 12), rng.randint(4, 12)),
        in_channels=rng.randint(1, 3),
        num_classes=rng.randint(1, 10),
        branches=tuple(branches),
        encoders=encoders,
    )


def recorded(fixtures_dir: Path) -> dict[str, dict[str, str]]:
    with open(fixtures_dir / FILE, newline="", encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def cases() -> dict[str, ArchConfig]:
    drawn = {f"random {seed}": random_arch(seed) for seed in range(RANDOM_ARCHITECTURES)}
    return {**PRESETS, **drawn}


def counts(arch: ArchConfig) -> dict[str, str]:
    """Key and counts."""
    cost = count_cost(arch)
    return {
        "key": arch.key(),
        "params": str(cost.params),
        "macs": str(cost.macs),
        "executed_macs": str(cost.executed_macs),
        "activations": str(cost.activations),
    }


def digest_of_tensors(arch: ArchConfig) -> str:
    """Of the names and shapes of all tensors."""
    with torch.device("meta"):
        tensors = build_model(arch).state_dict()
    names = ";".join(f"{name}{tuple(tensor.shape)}" for name, tensor in tensors.items())
    return hashlib.sha256(names.encode()).hexdigest()[:16]


def logits(seed: int) -> list[float]:
    """Of an initialised network in double precision, for one image."""
    arch = random_arch(seed)
    torch.manual_seed(seed)
    model = build_model(arch).double().eval()
    image = torch.randn(1, arch.in_channels, *arch.size, dtype=torch.float64)
    with torch.inference_mode():
        values: list[float] = model(image)[0].tolist()
    return values


def test_keys_and_counts_are_the_recorded_ones(fixtures_dir: Path) -> None:
    rows, known = recorded(fixtures_dir), cases()
    assert len(rows) > RANDOM_ARCHITECTURES
    for name, row in rows.items():
        assert counts(known[name]) == {field: row[field] for field in counts(known[name])}, name


def test_tensors_have_the_recorded_names_and_shapes(fixtures_dir: Path) -> None:
    rows, known = recorded(fixtures_dir), cases()
    for name in list(rows)[::5]:
        assert digest_of_tensors(known[name]) == rows[name]["tensors"], name


@pytest.mark.parametrize("seed", range(WITH_LOGITS))
def test_logits_are_the_recorded_ones(seed: int, fixtures_dir: Path) -> None:
    """To rounding: matrix products may sum in another order on another processor."""
    expected = [float(value) for value in recorded(fixtures_dir)[f"random {seed}"]["logits"].split()]
    assert logits(seed) == pytest.approx(expected, rel=1e-10, abs=1e-12)
