"""Training one candidate: fit on the train split, score on the validation split after every epoch.

The test split is never touched here. On a CPU a seed reproduces every number bit for bit.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from crossvit_core.augment import augment, mixup, normalization, normalize
from crossvit_core.checkpoint import CheckpointFolder
from crossvit_core.data import ImageData
from crossvit_core.device_info import autocast
from crossvit_core.device_lock import DeviceLock
from crossvit_core.recipe import TrainRecipe
from crossvit_core.training_state import TrainingState

_EVAL_BATCH_SIZE = 512


class DivergedError(RuntimeError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class EpochResult:
    """What one epoch showed. ``val_accuracy`` is a fraction.

    ``seconds`` (wall) and ``cpu_seconds`` (of this process) count from the start of training, over all attempts, less
    what an attempt did after its last checkpoint.
    """

    epoch: int
    train_loss: float
    val_loss: float
    val_accuracy: float
    lr: float
    seconds: float
    cpu_seconds: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Split:
    """One split on the device that trains: ``images`` uint8 (N, H, W, C), ``labels`` int64 (N,), ``rows`` of both.

    ``scale`` and ``offset`` are what ``normalize`` takes.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor
    scale: Tensor
    offset: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (B, C, H, W) float32 and labels (B,) of some rows: one gather."""
        return normalize(self.images[rows], self.scale, self.offset), self.labels[rows]


def open_split(data: ImageData, name: str, device: torch.device | str) -> Split:
    """A split as tensors. On a CPU the images stay where they are (shared pages); a GPU gets one copy per process."""
    images, labels = _tensors_on(data, torch.device(device))
    rows = torch.from_numpy(np.array(data.splits[name], dtype=np.int64)).to(device)
    return Split(images, labels, rows, *normalization(data.mean, data.std, device))


def train_model(
    model: nn.Module,
    data: ImageData,
    recipe: TrainRecipe,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    lock: DeviceLock | None = None,
    checkpoints: CheckpointFolder | None = None,
) -> Iterator[EpochResult]:
    """Train ``model`` in place, one epoch a step of the iterator.

    ``lock`` is held shared while the device works, an epoch at a time, so that a measurement can have it to itself
    between epochs. With ``ema_decay`` the averaged weights are scored, and copied into ``model`` after the last epoch;
    with or without, that leaves it in evaluation mode.
    With ``checkpoints`` training goes on from what is found there (the epochs before are yielded again, as they were)
    and saves its state there after epochs that are due; on a CPU it ends bit for bit as a training in one go.

    Raises:
        DivergedError: the loss is not finite.
        torch.OutOfMemoryError: the device is too small.
    """
    device = torch.device(device)
    model.to(device)
    clock = _Clock()
    with _held(lock):
        trainer = _Trainer(model, open_split(data, "train", device), recipe, data.num_classes, seed, device)
        val = open_split(data, "val", device)
        curve = _go_on(trainer, checkpoints) if checkpoints is not None else []
    if curve:
        clock.set_back(curve[-1])
    yield from curve
    for epoch in range(len(curve) + 1, recipe.epochs + 1):
        with _held(lock):
            train_loss = trainer.run_epoch()
            val_loss, val_accuracy = score(trainer.scored_model, val, device=device, amp=recipe.amp)
        if not (math.isfinite(train_loss) and math.isfinite(val_loss)):
            raise DivergedError(f"the loss is {train_loss} in training and {val_loss} in validation at epoch {epoch}")
        curve.append(EpochResult(epoch, train_loss, val_loss, val_accuracy, trainer.lr, clock.wall, clock.cpu))
        if checkpoints is not None and checkpoints.is_due(epoch):
            _save(checkpoints, trainer, curve)
        if epoch == recipe.epochs:
            trainer.keep_scored_weights()
        yield curve[-1]


def _held(lock: DeviceLock | None) -> AbstractContextManager[object]:
    return lock.shared() if lock is not None else contextlib.nullcontext()


def _go_on(trainer: _Trainer, checkpoints: CheckpointFolder) -> list[EpochResult]:
    """Put the trainer where the checkpoint stands; the epochs that it has seen. Without one that fits, none."""
    found = checkpoints.take_found()
    if found is None:
        return []
    try:
        curve, step = [EpochResult(**epoch) for epoch in found.state["curve"]], int(found.state["step"])
        trainer.state.restore(found.tensors)
    except (KeyError, TypeError, ValueError) as error:
        checkpoints.note(f"started over: the checkpoint does not fit: {error}")
        return []
    trainer.step = step
    if len(curve) == trainer.recipe.epochs:
        trainer.keep_scored_weights()
    return curve


def _save(checkpoints: CheckpointFolder, trainer: _Trainer, curve: list[EpochResult]) -> None:
    state = {"step": trainer.step, "curve": [epoch.to_dict() for epoch in curve]}
    checkpoints.save(curve[-1].epoch, trainer.state.tensors(), state)


class _Clock:
    """Wall and processor seconds of a training, those of attempts before this one included."""

    def __init__(self) -> None:
        self._wall_start, self._cpu_start = time.perf_counter(), time.process_time()

    def set_back(self, epoch: EpochResult) -> None:
        """Go on from where an epoch of an earlier attempt ended."""
        self._wall_start -= epoch.seconds
        self._cpu_start -= epoch.cpu_seconds

    @property
    def wall(self) -> float:
        return time.perf_counter() - self._wall_start

    @property
    def cpu(self) -> float:
        return time.process_time() - self._cpu_start


@torch.inference_mode()
def score(model: nn.Module, split: Split, *, device: torch.device | str, amp: bool = True) -> tuple[float, float]:
    """Mean cross-entropy and top-1 accuracy (a fraction) over a split."""
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    for rows in split.rows.split(_EVAL_BATCH_SIZE):
        images, labels = split.batch(rows)
        with autocast(device, amp):
            logits = model(images).float()
        loss += F.cross_entropy(logits, labels, reduction="sum").double()
        correct += (logits.argmax(1) == labels).sum()
    return loss.item() / len(split), correct.item() / len(split)


class _Trainer:
    def __init__(
        self, model: nn.Module, train: Split, recipe: TrainRecipe, num_classes: int, seed: int, device: torch.device
    ) -> None:
        self.model, self.train, self.recipe, self.num_classes = model, train, recipe, num_classes
        self.device = device
        self.ema = _averaged(model, recipe.ema_decay) if recipe.ema_decay else None
        self.optimizer = _make_optimizer(model, recipe)
        self.generator = torch.Generator(device).manual_seed(seed)
        # Drop path draws from the global stream.
        torch.manual_seed(seed)
        self.step = 0
        self.batch_size = min(recipe.batch_size, len(train))
        self.steps_per_epoch = len(train) // self.batch_size
        self.total_steps = self.steps_per_epoch * recipe.epochs
        self.lr = 0.0

    @property
    def scored_model(self) -> nn.Module:
        return self.ema.module if self.ema is not None else self.model

    def keep_scored_weights(self) -> None:
        if self.ema is not None:
            self.model.load_state_dict(self.ema.module.state_dict())
        self.model.eval()  # as scoring leaves it, if it is this network that was scored

    @property
    def state(self) -> TrainingState:
        return TrainingState(self.model, self.ema, self.optimizer, self.generator, self.device)

    def run_epoch(self) -> float:
        """One pass over the training rows in a fresh order; the mean loss. A last partial batch is left out."""
        self.model.train()
        order = torch.randperm(len(self.train), generator=self.generator, device=self.device)
        rows = self.train.rows[order]
        total = torch.zeros((), device=self.device)
        for start in range(0, self.steps_per_epoch * self.batch_size, self.batch_size):
            total += self.run_step(rows[start : start + self.batch_size])
        return total.item() / self.steps_per_epoch

    def run_step(self, rows: Tensor) -> Tensor:
        self.lr = self.recipe.lr * _lr_factor(self.step, self.total_steps, self.recipe.warmup_fraction)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        images, labels = self.train.batch(rows)
        images = augment(images, self.recipe.augment, self.generator)
        targets: Tensor = labels
        if self.recipe.mixup:
            images, targets = mixup(images, labels, self.num_classes, self.recipe.mixup, self.generator)
        with autocast(self.device, self.recipe.amp):
            logits = self.model(images)
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=self.recipe.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.clip_grad:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        self.step += 1
        return loss.detach()


def _averaged(model: nn.Module, decay: float) -> AveragedModel:
    """The exponential moving average of the weights, updated after every step."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


def _make_optimizer(model: nn.Module, recipe: TrainRecipe) -> torch.optim.Optimizer:
    """AdamW that decays matrices only: neither biases, norms, position embeddings nor class tokens."""
    list_exempt = getattr(model, "no_weight_decay", set)
    exempt: set[str] = list_exempt()
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (plain if parameter.ndim <= 1 or name in exempt else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, recipe.beta2), fused=True)


def _lr_factor(step: int, total_steps: int, warmup_fraction: float) -> float:
    """Share of the peak learning rate: a linear rise, then half a cosine that ends at zero."""
    warmup = round(total_steps * warmup_fraction)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))


def _tensors_on(data: ImageData, device: torch.device) -> tuple[Tensor, Tensor]:
    if device.type == "cpu":
        return _shared_tensor(data.images), _shared_tensor(data.labels)
    return _device_copy(data, device)


# One process trains on one dataset; its copy on a device outlives a trial and makes room for the next dataset.
_DEVICE_COPIES: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}


def _device_copy(data: ImageData, device: torch.device) -> tuple[Tensor, Tensor]:
    key = (data.fingerprint, str(device))
    if key not in _DEVICE_COPIES:
        _DEVICE_COPIES.clear()
        _DEVICE_COPIES[key] = (_shared_tensor(data.images).to(device), _shared_tensor(data.labels).to(device))
    return _DEVICE_COPIES[key]


def _shared_tensor(array: np.ndarray) -> Tensor:
    """A tensor over the array's own memory, which may be read-only pages that all workers share. Never written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array))
