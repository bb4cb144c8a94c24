"""How far predictions survive a shift of the image: residual attention (ReViT) against the plain network.

The protocol is ours; the paper's is not public. Both networks are trained alike, over several seeds: same recipe, same
initial weights wherever names agree. Images of a split are then shifted by (dx, dy) with dx, dy in {0, +-s}, without
(0, 0), borders reflected, for every size s. Printed per size: top-1 accuracy, and consistency, the share of images
whose prediction does not change; for both networks, and their difference with a paired bootstrap interval over images
(the mean over seeds and directions of one image is what is drawn). Shifts that are whole patches of a branch are
marked: s for the small patches, l for the large, - for neither. A positive difference is what the paper says.

Last come each network's alphas, and the mean cosine similarity of its patch tokens by depth, in the last third of which
the paper's would be the lower.

    python benchmarks/translation_robustness.py [--data digits] [--shifts 0,1,2,4] [--seeds 3] [--epochs 20]
        [--base crossvit_micro_16] [--depth 4] [--where 0,1] [--scope network] [--alpha-param shared] [--device cpu]

The reference's shifts {0, 2, 4, 8, 12, 16, 24} are for 240 px; digits have 16, and by default proportionate ones.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossvit_core.branches import share_initial_weights
from crossvit_core.config import ArchConfig
from crossvit_core.data import ImageData, load_dataset
from crossvit_core.model import CrossViT, build_model
from crossvit_core.presets import PRESETS
from crossvit_core.recipe import TrainRecipe
from crossvit_core.residual_config import ResidualAttentionConfig
from crossvit_core.train import Split, open_split, train_model

RESAMPLES = 2000
BATCH_SIZE = 512


@dataclass(frozen=True)
class Outcome:
    """Of one network, by image: shares of the directions of one shift in which it is right, and in which it stays."""

    right: np.ndarray
    stays: np.ndarray


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
    return [shift for shift in itertools.product((-size, 0, size), repeat=2) if any(shift)]


@torch.inference_mode()
def predictions(model: CrossViT, split: Split, shift: tuple[int, int]) -> np.ndarray:
    model.eval()
    found = [model(shifted(split.batch(rows)[0], *shift)).argmax(1) for rows in split.rows.split(BATCH_SIZE)]
    return torch.cat(found).cpu().numpy()


def outcome(model: CrossViT, split: Split, size: int) -> Outcome:
    labels, unshifted = split.labels[split.rows].cpu().numpy(), predictions(model, split, (0, 0))
    each = [predictions(model, split, shift) for shift in directions(size)]
    return Outcome(np.mean([p == labels for p in each], axis=0), np.mean([p == unshifted for p in each], axis=0))


def bootstrap(difference: np.ndarray) -> tuple[float, float, float]:
    """Mean of a paired difference over images, and its 95 % interval."""
    rng = np.random.default_rng(0)
    means = [difference[rng.integers(len(difference), size=len(difference))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(difference.mean()), float(low), float(high)


@torch.inference_mode()
def similarities(model: CrossViT, images: Tensor, branch: int) -> list[float]:
    """Mean cosine similarity of two patch tokens of one image, after every block of a branch."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: Tensor | tuple[Tensor, object]) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output)[:, 1:])

    blocks = [block for encoder in model.blocks for block in encoder.blocks[branch]]  # type: ignore[union-attr, index]
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
) -> list[CrossViT]:
    """One network of every architecture, trained from the initial weights of the first."""
    models = []
    for arch in archs:
        torch.manual_seed(seed)
        model = build_model(arch)
        share_initial_weights(model, archs[0], seed)
        *_, last = train_model(model, data, recipe, seed=seed, device=device)
        alphas = model.residual_attention.values() if model.residual_attention is not None else {}
        print(f"seed {seed}: validation accuracy {last.val_accuracy:.4f}  alphas {alphas}", flush=True)
        models.append(model)
    return models


def group_of(size: int, arch: ArchConfig) -> str:
    """Which branches a shift moves by whole patches: 's', 'l', 'sl' or '-'."""
    whole = [size * b.size[0] / arch.size[0] % b.patch_size == 0 for b in arch.branches]
    return "".join(name for name, is_whole in zip("sl", whole) if is_whole) or "-"


def print_shifts(pairs: list[list[CrossViT]], split: Split, sizes: list[int]) -> None:
    print("shift  patches  plain top-1  residual  difference (95 %)            plain same  residual  difference (95 %)")
    for size in sizes:
        plain, residual = ([outcome(pair[index], split, size) for pair in pairs] for index in (0, 1))
        cells = []
        for name in ("right", "stays"):
            ours, theirs = (np.mean([getattr(o, name) for o in outcomes], axis=0) for outcomes in (residual, plain))
            mean, low, high = bootstrap(ours - theirs)
            cells.append(f"{theirs.mean():11.4f} {ours.mean():9.4f}  {mean:+.4f} ({low:+.4f} to {high:+.4f})")
        print(f"{size:5d}  {group_of(size, pairs[0][0].arch):>7}  {'  '.join(cells)}", flush=True)


def print_similarities(pairs: list[list[CrossViT]], images: Tensor) -> None:
    print("mean cosine similarity of patch tokens after every block, mean over seeds")
    for branch in range(len(pairs[0][0].arch.branches)):
        for index, name in enumerate(("plain", "residual")):
            mean = np.mean([similarities(pair[index], images, branch) for pair in pairs], axis=0)
            print(f"  branch {branch} {name:9}" + " ".join(f"{value:+.3f}" for value in mean))


def architectures(options: argparse.Namespace, data: ImageData) -> list[ArchConfig]:
    """The plain network and the one with residual attention."""
    base = PRESETS[options.base]
    encoders = tuple(replace(encoder, depths=(options.depth,) * len(base.branches)) for encoder in base.encoders)
    plain = base.replace(encoders=encoders, num_classes=data.num_classes, in_channels=data.images.shape[-1])
    where = tuple(int(index) for index in options.where.split(","))
    residual = ResidualAttentionConfig(where=where, scope=options.scope, alpha_param=options.alpha_param)
    return [plain, plain.replace(residual_attention=residual).check()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--base", default="crossvit_micro_16", choices=sorted(PRESETS), metavar="PRESET")
    parser.add_argument("--depth", type=int, default=4, help="blocks of every branch in every encoder")
    parser.add_argument("--where", default="0,1", help="branches with residual attention")
    parser.add_argument("--scope", default="network")
    parser.add_argument("--alpha-param", default="shared")
    parser.add_argument("--split", default="val", choices=("val", "test"), help="test is for finalists")
    parser.add_argument("--shifts", default="0,1,2,4", help="pixels")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    data = load_dataset(options.data, image_size=PRESETS[options.base].size)
    archs = architectures(options, data)
    recipe = TrainRecipe(epochs=options.epochs)
    pairs = [train_pair(archs, data, recipe, seed, options.device) for seed in range(options.seeds)]
    split = open_split(data, options.split, options.device)
    print_shifts(pairs, split, [int(size) for size in options.shifts.split(",")])
    print_similarities(pairs, split.batch(split.rows[:BATCH_SIZE])[0])


if __name__ == "__main__":
    main()
