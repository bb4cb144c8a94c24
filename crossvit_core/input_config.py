"""How images should be prepared for a network, and what its first and last layers are called, as timm asks for it."""

from __future__ import annotations

from typing import Any

from crossvit_core.config import ArchConfig, BranchConfig
from crossvit_core.exshortcut_config import tap_name, taps_of
from crossvit_core.presets import PRESETS

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def input_config(arch: ArchConfig) -> dict[str, Any]:
    """timm's ``pretrained_cfg`` of an architecture; for the published models equal to timm's own.

    Three channels are normalised with ImageNet's mean and deviation, others with 0.5. The published networks for 240 px
    were evaluated on the central 0.875 of an image, the larger ones on all of it; so are our own.
    """
    rgb = arch.in_channels == 3
    return {
        "architecture": "crossvit_arch",
        "num_classes": arch.num_classes,
        "input_size": (arch.in_channels, *arch.size),
        "fixed_input_size": True,
        "interpolation": "bicubic",
        "crop_pct": 0.875 if arch.size == (240, 240) and arch in PRESETS.values() else 1.0,
        "crop_mode": "center",
        "mean": IMAGENET_MEAN if rgb else (0.5,) * arch.in_channels,
        "std": IMAGENET_STD if rgb else (0.5,) * arch.in_channels,
        "pool_size": None,
        "first_conv": tuple(name for index, branch in enumerate(arch.branches) for name in _first_convs(index, branch)),
        "classifier": tuple(f"head.{part}" for part in _classifiers(arch)),
    }


def _classifiers(arch: ArchConfig) -> list[str]:
    return [*map(str, range(len(arch.branches))), *(f"taps.{tap_name(tap)}" for tap in taps_of(arch))]


def _first_convs(index: int, branch: BranchConfig) -> list[str]:
    stem = f"patch_embed.{index}"
    if branch.stem == "reduction":
        return [f"{stem}.pyramid.convs.{number}" for number in range(len(branch.stem_dilations))]
    return [f"{stem}.proj.0" if branch.stem == "conv" else f"{stem}.proj"]
