"""How far predictions survive a shift of the image: residual attention (ReViT) against the plain network.

The protocol is ours; the paper's is not public. Both networks are trained alike, over several seeds: same recipe, same
order of images, same initial weights wherever names agree. Images of a split are then shifted by (dx, dy) with dx, dy
in {0, +-s}, without (0, 0), borders reflected, for every size s. Of both networks and of their difference, per size:

- top-1 accuracy, and what of the accuracy on unshifted images is lost (the two may differ in that one already);
- consistency, the share of images whose prediction does not change.

Each difference has two 95 % intervals. That over images (a paired bootstrap; of one image the mean over seeds and
directions is drawn) holds for these very networks; that over seeds (paired t) for networks trained anew, and is the one
to judge ReViT by. The line to judge by is the last, all shifts together; the others explore. Shifts that are whole
patches of a branch are marked and summed up apart: s for the small patches, l for the large, - for neither. What the
paper says is that less is lost with residual attention, a negative difference there.

Last come each network's alpha, and the mean cosine similarity of its patch tokens by depth, in the last third of which
the paper's would be the lower. ``--out`` keeps it all, written anew after every seed: figures.csv, summary.csv,
networks.csv, similarity.csv and environment.json.

    python -m benchmarks.translation_robustness [--data digits] [--shifts 0,1,2,4] [--seeds 3] [--epochs 20]
        [--base crossvit_micro_16] [--depth 4] [--where 0,1] [--scope network] [--alpha-param shared] [--device cpu]
        [--augment none] [--split val] [--images train=6000,val=500,test=2000] [--out DIR]

The reference's shifts {0, 2, 4, 8, 12, 16, 24} are for 240 px; digits have 16, and by default proportionate ones.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.translation_summary import Outcome, Pair, group_of, show_similarities, show_summary, summary
from crossvit_core.branches import share_initial_weights
from crossvit_core.config import ArchConfig
from crossvit_core.data import ImageData, load_dataset
from crossvit_core.model import CrossViT, build_model
from crossvit_core.presets import PRESETS
from crossvit_core.recipe import AUGMENT_NAMES, TrainRecipe
from crossvit_core.residual_config import ResidualAttentionConfig
from crossvit_core.train import Split, open_split, train_model
from search.environment import describe_environment

BATCH_SIZE = 512
NETWORKS = ("plain", "residual")


def shifted(images: Tensor, dx: int, dy: int) -> Tensor:
    """(B, C, H, W) moved by dx to the right and dy down, borders reflected."""
    side = max(abs(dx), abs(dy))
    if side == 0:
        return images
    height, width = images.shape[-2:]
    padded = F.pad(images, (side,) * 4, mode="reflect")
    return padded[..., side - dy : side - dy + height, side - dx : side - dx + width]


def directions(size: int) -> list[tuple[int, int]]:
    """Every (dx, dy) of components 0 and +-size, without (0, 0)."""
    if size == 0:
        return [(0, 0)]
    steps = (-size, 0, size)
    return [(dx, dy) for dx, dy in itertools.product(steps, steps) if dx or dy]


@torch.inference_mode()
def predictions(model: CrossViT, split: Split, shift: tuple[int, int]) -> np.ndarray:
    model.eval()
    found = [model(shifted(split.batch(rows)[0], *shift)).argmax(1) for rows in split.rows.split(BATCH_SIZE)]
    return torch.cat(found).cpu().numpy()


def outcome(model: CrossViT, split: Split, size: int) -> Outcome:
    labels, unshifted = split.labels[split.rows].cpu().numpy(), predictions(model, split, (0, 0))
    each = [predictions(model, split, shift) for shift in directions(size)]
    return Outcome(np.mean([p == labels for p in each], axis=0), np.mean([p == unshifted for p in each], axis=0))


@torch.inference_mode()
def similarities(model: CrossViT, images: Tensor, branch: int) -> list[float]:
    """Mean cosine similarity of two patch tokens of one image, after every block of a branch."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: Tensor | tuple[Tensor, object]) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output)[:, 1:])

    blocks = [block for encoder in model.blocks for block in encoder.blocks[branch]]  # type: ignore[index]
    hooks = [block.register_forward_hook(keep) for block in blocks]
    model.eval().forward_intermediates(images)  # which computes every row of every block
    for hook in hooks:
        hook.remove()
    return [_similarity(F.normalize(tokens, dim=-1)) for tokens in seen]


def _similarity(units: Tensor) -> float:
    count = units.shape[1]
    return float(((units @ units.mT).sum((1, 2)) - count).mean() / (count * (count - 1)))


def train_pair(
    archs: Sequence[ArchConfig], data: ImageData, recipe: TrainRecipe, seed: int, device: str
) -> tuple[list[CrossViT], list[float]]:
    """One network of every architecture, trained from the initial weights of the first; validation accuracies."""
    models, accuracies = [], []
    for arch in archs:
        torch.manual_seed(seed)
        model = build_model(arch)
        share_initial_weights(model, archs[0], seed)
        *_, last = train_model(model, data, recipe, seed=seed, device=device)
        models.append(model)
        accuracies.append(last.val_accuracy)
    return models, accuracies


def architectures(options: argparse.Namespace, data: ImageData) -> list[ArchConfig]:
    """The plain network and the one with residual attention."""
    base = PRESETS[options.base]
    encoders = tuple(replace(encoder, depths=(options.depth,) * len(base.branches)) for encoder in base.encoders)
    plain = base.replace(encoders=encoders, num_classes=data.num_classes, in_channels=data.images.shape[-1])
    where = tuple(int(index) for index in options.where.split(","))
    residual = ResidualAttentionConfig(where=where, scope=options.scope, alpha_param=options.alpha_param)
    return [plain, plain.replace(residual_attention=residual).check()]


def figures(seed: int, pair: Pair, arch: ArchConfig) -> list[dict[str, Any]]:
    """What each network of a seed shows at each size of shift."""
    return [
        {
            "seed": seed,
            "network": name,
            "shift_px": size,
            "patches": group_of(size, arch),
            "top1": outcome.right.mean(),
            "same": outcome.stays.mean(),
        }
        for name, outcomes in zip(NETWORKS, pair)
        for size, outcome in outcomes.items()
    ]


def describe_networks(seed: int, models: Sequence[CrossViT], accuracies: Sequence[float]) -> list[dict[str, Any]]:
    """Validation accuracy and alphas of each network."""
    alphas = [model.residual_attention.values() if model.residual_attention is not None else {} for model in models]
    return [
        {"seed": seed, "network": name, "val_accuracy": accuracy, "alpha": json.dumps(alpha)}
        for name, accuracy, alpha in zip(NETWORKS, accuracies, alphas)
    ]


def describe_similarities(seed: int, models: Sequence[CrossViT], images: Tensor) -> list[dict[str, Any]]:
    """See ``similarities``: of every block of each network."""
    return [
        {"seed": seed, "network": name, "branch": branch, "block": block, "similarity": value}
        for name, model in zip(NETWORKS, models)
        for branch in range(len(model.arch.branches))
        for block, value in enumerate(similarities(model, images, branch))
    ]


def describe_run() -> dict[str, Any]:
    """Asked at the start: hours later the checkout may be another."""
    command = shlex.join(["python", "-m", "benchmarks.translation_robustness", *sys.argv[1:]])
    return {**describe_environment(), "command": command, "threads": torch.get_num_threads()}


def keep(folder: Path | None, tables: dict[str, pd.DataFrame], about: dict[str, Any]) -> None:
    """Called after every seed: what is measured is kept."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
    (folder / "environment.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def with_images(data: ImageData, asked: str) -> ImageData:
    """The data with so many images of a split, drawn at random, as 'train=6000,test=2000'."""
    sizes = {name: int(count) for name, _, count in (part.partition("=") for part in asked.split(",") if part)}
    rng = np.random.default_rng(0)
    chosen = {name: np.sort(rng.permutation(data.splits[name])[:count]) for name, count in sizes.items()}
    return dataclasses.replace(data, splits={**data.splits, **chosen}, cache_path=None)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--base", default="crossvit_micro_16", choices=sorted(PRESETS), metavar="PRESET")
    parser.add_argument("--depth", type=int, default=4, help="blocks of every branch in every encoder")
    parser.add_argument("--where", default="0,1", help="branches with residual attention")
    parser.add_argument("--scope", default="network")
    parser.add_argument("--alpha-param", default="shared")
    parser.add_argument("--split", default="val", choices=("val", "test"), help="whose images are shifted")
    parser.add_argument("--images", default="", help="how many of a split, as train=6000,test=2000; all of them")
    parser.add_argument("--shifts", default="0,1,2,4", help="pixels")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--augment", default="none", choices=AUGMENT_NAMES, help="none and flip show no shifts")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="folder for the tables and environment.json")
    return parser.parse_args()


def main() -> None:
    options, about = read_options(), describe_run()
    data = with_images(load_dataset(options.data, image_size=PRESETS[options.base].size), options.images)
    archs = architectures(options, data)
    recipe = TrainRecipe(epochs=options.epochs, augment=options.augment)
    split = open_split(data, options.split, options.device)
    sizes = sorted({0, *(int(size) for size in options.shifts.split(","))})
    pairs: list[Pair] = []
    found: dict[str, list[dict[str, Any]]] = {"figures": [], "networks": [], "similarity": []}
    for seed in range(options.seeds):
        models, accuracies = train_pair(archs, data, recipe, seed, options.device)
        plain, residual = ({size: outcome(model, split, size) for size in sizes} for model in models)
        pairs.append((plain, residual))
        found["figures"] += figures(seed, pairs[-1], archs[0])
        found["networks"] += describe_networks(seed, models, accuracies)
        found["similarity"] += describe_similarities(seed, models, split.batch(split.rows[:BATCH_SIZE])[0])
        tables = {"summary": summary(pairs, archs[0]), **{name: pd.DataFrame(rows) for name, rows in found.items()}}
        keep(options.out, tables, about)
        print(pd.DataFrame(found["networks"][-2:]).to_string(header=seed == 0, index=False), flush=True)
    show_summary(tables["summary"])
    show_similarities(tables["similarity"])


if __name__ == "__main__":
    main()
