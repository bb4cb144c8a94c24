"""The networks that a search on 32 px has to beat: a family scaled by hand, and plain ViTs of one branch.

    python benchmarks/cifar_study/networks.py path/to/write --max-flops 6M

The family carries the paper's CrossViT-Ti to 32 pixels: K = 3, (N, M) = (1, 4), L = 1, three heads, FFN ratio 4, the
large branch twice as wide, cross-attention; only the width grows. The ViTs have the proportions of the public one of
6.3 M parameters: seven blocks, patches of 4 px, FFN ratio 1, heads of 32. Writes one JSON file a network, which
``crossvit bench --baselines`` and ``crossvit count`` read, and prints their names with commas between; and five
besides, whatever the limit: ``nano_32_half.json``, a base for ablations, ``vit_w384.json``, the control at its full
width, ``one_branch_16_w128.json``, what is left of a searched network whose other branch nothing read, and
``family_4_16_w36.json`` and ``vit_w48.json``, which come nearest to ``crossvit_cifar_l`` from below.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from crossvit_core.config import ArchConfig, BranchConfig, EncoderConfig
from crossvit_core.cost import count_cost
from crossvit_core.presets import PRESETS
from results.units import human_count

PATCHES = ((2, 4), (4, 8), (4, 16))
FAMILY_WIDTHS = (6, 9, 12, 15, 18, 24, 30, 36, 48, 60, 72, 96)  # of the small branch; three heads divide them
FAMILY_SIZES = 5
CONTROL_WIDTH = 384  # 90.9 % after 200 epochs, as others report it
VIT_WIDTHS = (16, 32, 48, 64, 96, 128, 192, CONTROL_WIDTH)
_SIDE, _CLASSES = 32, 10


def family(patches: tuple[int, int], width: int) -> ArchConfig:
    """The paper's CrossViT-Ti with other patches and widths."""
    branches = tuple(
        BranchConfig(image_size=_SIDE, patch_size=patch, embed_dim=dim, num_heads=3)
        for patch, dim in zip(patches, (width, 2 * width))
    )
    encoders = (EncoderConfig(depths=(1, 4)),) * 3
    return ArchConfig(image_size=_SIDE, num_classes=_CLASSES, branches=branches, encoders=encoders)


def plain_vit(width: int) -> ArchConfig:
    """One branch, seven blocks; 384 wide it has 6.27 M parameters."""
    heads = max(1, width // 32)
    branch = BranchConfig(image_size=_SIDE, patch_size=4, embed_dim=width, num_heads=heads, mlp_ratio=1)
    return ArchConfig(
        image_size=_SIDE,
        num_classes=_CLASSES,
        branches=(branch,),
        encoders=(EncoderConfig(depths=(7,), fusion="none"),),
    )


def chosen_networks(max_macs: float) -> dict[str, ArchConfig]:
    """By name; of each patch pair at most ``FAMILY_SIZES`` under the limit, spread over the widths that fit."""
    networks: dict[str, ArchConfig] = {}
    for patches in PATCHES:
        fitting = [width for width in FAMILY_WIDTHS if count_cost(family(patches, width)).macs <= max_macs]
        for width in _spread(fitting, FAMILY_SIZES):
            networks[f"family_{patches[0]}_{patches[1]}_w{width}"] = family(patches, width)
    for width in VIT_WIDTHS:
        if count_cost(plain_vit(width)).macs <= max_macs:
            networks[f"vit_w{width}"] = plain_vit(width)
    return networks


def half_nano() -> ArchConfig:
    """``crossvit_nano_32`` at half its widths: the smaller base of the fusion ablation."""
    nano = PRESETS["crossvit_nano_32"]
    return nano.replace(branches=tuple(replace(branch, embed_dim=branch.embed_dim // 2) for branch in nano.branches))


def one_branch() -> ArchConfig:
    """The larger branch alone of a network that the search on all images found."""
    branch = BranchConfig(image_size=_SIDE, patch_size=16, embed_dim=128, num_heads=4, mlp_ratio=2, stem="conv")
    alone = EncoderConfig(depths=(1,), fusion="none")
    return ArchConfig(image_size=_SIDE, num_classes=_CLASSES, branches=(branch,), encoders=(alone,))


def _spread(widths: list[int], count: int) -> list[int]:
    """At most ``count`` of them, first and last among them, as evenly as they lie."""
    if len(widths) <= count:
        return widths
    return [widths[round(index * (len(widths) - 1) / (count - 1))] for index in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path)
    parser.add_argument("--max-flops", default="200M", help="multiply-adds, as 6M")
    options = parser.parse_args()
    networks = chosen_networks(float(options.max_flops.removesuffix("M")) * 1e6)
    options.target.mkdir(parents=True, exist_ok=True)
    others = {
        "nano_32_half": half_nano(),
        "vit_w384": plain_vit(CONTROL_WIDTH),
        "one_branch_16_w128": one_branch(),
        "family_4_16_w36": family((4, 16), 36),
        "vit_w48": plain_vit(48),
    }
    for name, arch in {**networks, **others}.items():
        (options.target / f"{name}.json").write_text(json.dumps(arch.to_dict(), indent=1) + "\n", encoding="utf-8")
        cost = count_cost(arch)
        print(f"{name:<20} {human_count(cost.macs):>8} FLOPs  {human_count(cost.params):>8} parameters")
    print(",".join(str(options.target / f"{name}.json") for name in networks))


if __name__ == "__main__":
    main()
