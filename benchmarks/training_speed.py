"""How fast candidates are trained: this suite's loop against the plain one and against timm's parts, the same losses.

    python benchmarks/training_speed.py                                            # the embedded digits
    python benchmarks/training_speed.py --data path/to/cifar10 --models crossvit_nano_32,crossvit_micro_32 --limit 6000

Three loops train the same network from the same weights, an epoch each in turn, and score the validation images:

- ``ours``: ``crossvit_core.train``: images as one uint8 tensor, a gather per batch, augmentation of whole batches.
- ``plain``: as tutorials have it: a DataLoader over images, torchvision's transforms one image at a time, AdamW.
- ``timm``: timm's loader, transforms, optimizer factory and loss in the loop of its training script.

First without augmentation and in one order of images, where the losses of all three must agree over the first epoch
(later, rounding has grown); then each with its own augmentation (shift and flip; random crop and flip; timm's random
resized crop and flip), where they cannot. Seconds are the process's CPU time on a CPU (one thread unless
``--threads``), the wall clock on a GPU. A ratio is a loop's seconds over those of ``ours``, the median over epochs with
quartiles: above 1, ours is faster. ``a minute`` is per process, of trainings of the recipe's default number of epochs.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.utils import AverageMeter, accuracy
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.figures import write_figures
from crossvit_core.cost import count_cost
from crossvit_core.data import ImageData, load_dataset
from crossvit_core.device_info import autocast
from crossvit_core.model import build_model
from crossvit_core.presets import PRESETS
from crossvit_core.recipe import TrainRecipe
from crossvit_core.train import train_model

# Of the first epoch's mean loss: rounding differs, and grows from step to step; bfloat16 keeps eight bits.
TOLERANCE = {"cpu": 1e-3, "cuda": 1e-2}
SCORE_BATCH = 512
Epochs = Iterator[float]  # each step trains one epoch, scores the validation images, and gives the mean training loss


@dataclass(frozen=True)
class Row:
    """One loop on one network. ``ratio``: its seconds over those of ``ours``, median and quartiles over epochs."""

    model: str
    macs: int
    loop: str
    augmented: bool
    seconds_per_epoch: float
    images_per_s: float
    candidates_per_minute: float
    ratio: float
    ratio_q1: float
    ratio_q3: float
    first_epoch_loss_difference: float | None


class Pictures(Dataset[tuple[Any, int]]):
    """Images as PIL, as an image folder gives them; ``order`` says which comes when, and may change between epochs."""

    def __init__(self, data: ImageData, rows: np.ndarray, transform: Callable[[Any], Any] | None = None) -> None:
        self.pictures = [
            Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image) for image in data.images[rows]
        ]
        self.labels = data.labels[rows].tolist()
        self.order = list(range(len(rows)))
        self.transform = transform

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        picture, label = self.pictures[self.order[index]], self.labels[self.order[index]]
        return (picture if self.transform is None else self.transform(picture)), label


class Order:
    """The orders of images that a seed gives, whole batches only: the same ones that ``train_model`` draws."""

    def __init__(self, images: int, batch_size: int, seed: int, device: torch.device) -> None:
        self.images, self.kept = images, images // batch_size * batch_size
        self.generator = torch.Generator(device).manual_seed(seed)  # a GPU's stream is another one

    def draw(self) -> list[int]:
        order = torch.randperm(self.images, generator=self.generator, device=self.generator.device)
        return order[: self.kept].tolist()


def ours(model: nn.Module, data: ImageData, recipe: TrainRecipe, options: argparse.Namespace) -> Epochs:
    for epoch in train_model(model, data, recipe, seed=options.seed, device=options.device):
        yield epoch.train_loss


def plain(model: nn.Module, data: ImageData, recipe: TrainRecipe, options: argparse.Namespace) -> Epochs:
    height, width = data.image_size
    to_tensor = [transforms.ToTensor(), transforms.Normalize(data.mean, data.std)]
    moved = [transforms.RandomCrop((height, width), padding=height // 8), transforms.RandomHorizontalFlip()]
    augmented = recipe.augment != "none"
    train = Pictures(data, data.splits["train"], transforms.Compose((moved if augmented else []) + to_tensor))
    val = Pictures(data, data.splits["val"], transforms.Compose(to_tensor))
    loader = DataLoader(train, recipe.batch_size, shuffle=augmented, drop_last=True)
    optimizer = torch.optim.AdamW(_groups(model, recipe), lr=recipe.lr, betas=(0.9, recipe.beta2))
    criterion = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    return _loop(model, train, loader, DataLoader(val, SCORE_BATCH), optimizer, criterion, recipe, options)


def timms(model: nn.Module, data: ImageData, recipe: TrainRecipe, options: argparse.Namespace) -> Epochs:
    augmented = recipe.augment != "none"
    # Any dataset whose transform can be set will do, whatever the annotation says.
    train, val = cast(Any, Pictures(data, data.splits["train"])), cast(Any, Pictures(data, data.splits["val"]))
    common: dict[str, Any] = {
        "input_size": (data.in_channels, *data.image_size),
        "use_prefetcher": False,
        "mean": data.mean,
        "std": data.std,
        "num_workers": 0,
        "crop_pct": 1.0,
        "persistent_workers": False,
    }
    # Its training loader cannot be told an order; without augmentation its other one does the same work in ours.
    loader = create_loader(train, batch_size=recipe.batch_size, is_training=augmented, **common)
    scored = create_loader(val, batch_size=SCORE_BATCH, is_training=False, **common)
    optimizer = create_optimizer_v2(
        model, "adamw", lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, recipe.beta2)
    )
    criterion = LabelSmoothingCrossEntropy(recipe.label_smoothing)
    return _loop(model, train, loader, scored, optimizer, criterion, recipe, options)


def _loop(
    model: nn.Module,
    train: Pictures,
    loader: DataLoader[Any],
    scored: DataLoader[Any],
    optimizer: torch.optim.Optimizer,
    criterion: nn.Module,
    recipe: TrainRecipe,
    options: argparse.Namespace,
) -> Epochs:
    """Train and score as training scripts do, a reading of the loss at every step included."""
    device = torch.device(options.device)
    order = Order(len(train), recipe.batch_size, options.seed, device)
    model.to(device)
    torch.manual_seed(options.seed)
    steps = order.kept // recipe.batch_size
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps * recipe.epochs, recipe))
    for _ in range(recipe.epochs):
        train.order = order.draw()
        losses = AverageMeter()
        model.train()
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            with autocast(device, recipe.amp):
                logits = model(images)
            loss = criterion(logits.float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            losses.update(loss.item(), len(images))
        _score(model, scored, device, recipe.amp)
        yield losses.avg


@torch.no_grad()
def _score(model: nn.Module, loader: DataLoader[Any], device: torch.device, amp: bool) -> float:
    model.eval()
    found = AverageMeter()
    for images, labels in loader:
        with autocast(device, amp):
            logits = model(images.to(device)).float()
        F.cross_entropy(logits, labels.to(device))
        found.update(accuracy(logits, labels.to(device))[0].item(), len(images))
    return float(found.avg)


def _rate(step: int, total: int, recipe: TrainRecipe) -> float:
    """The recipe's learning rate, written down again: a linear rise, then half a cosine to zero."""
    warmup = round(total * recipe.warmup_fraction)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _groups(model: nn.Module, recipe: TrainRecipe) -> list[dict[str, Any]]:
    exempt: set[str] = model.no_weight_decay()  # type: ignore[operator]
    named = list(model.named_parameters())
    decayed = [parameter for name, parameter in named if parameter.ndim > 1 and name not in exempt]
    others = [parameter for name, parameter in named if parameter.ndim <= 1 or name in exempt]
    return [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]


def measure(name: str, data: ImageData, augmented: bool, options: argparse.Namespace) -> list[Row]:
    """All loops on one network, an epoch in turn. Raises ValueError if losses that should agree do not."""
    recipe = TrainRecipe(
        epochs=options.epochs, batch_size=options.batch_size, augment="shift_flip" if augmented else "none"
    )
    arch = PRESETS[name].replace(image_size=data.image_size, in_channels=data.in_channels, num_classes=data.num_classes)
    torch.manual_seed(options.seed)
    start = build_model(arch)
    running = {loop: run(copy.deepcopy(start), data, recipe, options) for loop, run in LOOPS.items()}
    seconds: dict[str, list[float]] = {loop: [] for loop in LOOPS}
    losses: dict[str, list[float]] = {loop: [] for loop in LOOPS}
    for epoch in range(recipe.epochs):
        names = list(LOOPS)[epoch % len(LOOPS) :] + list(LOOPS)[: epoch % len(LOOPS)]
        for loop in names:
            began = _now(options.device)
            losses[loop].append(next(running[loop]))
            seconds[loop].append(_now(options.device) - began)
    return [_row(name, arch, loop, augmented, data, recipe, seconds, losses, options.device) for loop in LOOPS]


def _row(
    name: str,
    arch: Any,
    loop: str,
    augmented: bool,
    data: ImageData,
    recipe: TrainRecipe,
    seconds: dict[str, list[float]],
    losses: dict[str, list[float]],
    device: str,
) -> Row:
    # The first epoch warms caches and allocators up, for all of them.
    ratios = [other / own for other, own in zip(seconds[loop][1:], seconds["ours"][1:])]
    q1, ratio, q3 = statistics.quantiles(ratios, n=4, method="inclusive")
    difference = None if augmented else abs(losses[loop][0] - losses["ours"][0])
    if difference is not None and not difference < TOLERANCE[torch.device(device).type]:
        raise ValueError(f"{name}: losses of {loop} and ours differ by {difference:.2e}: not the same training")
    each = statistics.median(seconds[loop][1:])
    images = len(data.splits["train"]) // recipe.batch_size * recipe.batch_size
    candidates = 60 / (each * TrainRecipe().epochs)  # of the epochs that a recipe has by default
    speed = (each, images / each, candidates, ratio, q1, q3)
    return Row(name, count_cost(arch).macs, loop, augmented, *speed, difference)


def _now(device: str) -> float:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def print_row(row: Row) -> None:
    difference = (
        "" if row.first_epoch_loss_difference is None else f"  losses within {row.first_epoch_loss_difference:.1e}"
    )
    kind = "augmented" if row.augmented else "as they are"
    print(
        f"{row.model:<20}{row.loop:<7}{kind:<13}{row.images_per_s:>8.0f} img/s"
        f"{row.candidates_per_minute:>8.2f} a minute"
        f"  {row.ratio:.2f} ({row.ratio_q1:.2f} to {row.ratio_q3:.2f}){difference}",
        flush=True,
    )


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--limit", type=int, help="use about so many images of the data")
    parser.add_argument("--models", default="crossvit_nano_16,crossvit_micro_16")
    parser.add_argument("--epochs", type=int, default=7, help="at least 3; the first warms up")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    for name in options.models.split(","):
        if name not in PRESETS:
            parser.error(f"--models: {name!r} is no preset; use some of {', '.join(PRESETS)}")
    if options.epochs < 3:
        parser.error(f"--epochs {options.epochs} is too few; the first warms up and two make a spread: use at least 3")
    return options


def main() -> int:
    options = read_options()
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    for name in options.models.split(","):
        side = PRESETS[name].size
        data = load_dataset(options.data, image_size=side, limit=options.limit)
        for augmented in (False, True):
            found = measure(name, data, augmented, options)
            rows += found
            for row in found:
                print_row(row)
            if options.json is not None:
                write_figures(options.json, options, {"rows": [asdict(row) for row in rows]})
    return 0


LOOPS: dict[str, Callable[[nn.Module, ImageData, TrainRecipe, argparse.Namespace], Epochs]] = {
    "ours": ours,
    "plain": plain,
    "timm": timms,
}

if __name__ == "__main__":
    sys.exit(main())
