"""Networks from elsewhere, trained by the recipe of a study on its data. What is killed goes on where it was."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from crossvit_core.checkpoint import CheckpointFolder
from crossvit_core.checkpoint_files import remove_checkpoints
from crossvit_core.data import ImageData
from crossvit_core.device_lock import DeviceLock
from crossvit_core.model import CrossViT
from crossvit_core.recipe import TrainRecipe
from crossvit_core.train import EpochResult, train_model
from results.baselines import accuracies_of
from results.store import StudyStore
from search.plan import geometric_rungs
from search.study_data import open_study_data
from search.trial import derive_seed

FOLDER = "baselines"  # in the study's folder, while a training is under way


@dataclass(frozen=True)
class Training:
    """The recipe, data and seed of a study, and how many runs each network is to have in all."""

    recipe: TrainRecipe
    data: ImageData
    study_dir: Path
    seed: int
    runs: int


@dataclass(frozen=True)
class BaselineEpoch:
    """Where the training of a network is: an epoch of run ``run``, counted from 1."""

    name: str
    run: int
    result: EpochResult


@dataclass(frozen=True)
class RunEnd:
    """The accuracies of all runs so far, the one that ended last, and what could not be read or kept on the way."""

    accuracies: tuple[float, ...]
    notes: tuple[str, ...]


def study_training(study_dir: Path, runs: int, moved_to: str | None = None) -> Training:
    """How a study trains; ``moved_to`` as in ``open_study_data``.

    Raises StoreError or DataError if its data is not what it was.
    """
    study = StudyStore.open_readonly(study_dir).study
    recipe = TrainRecipe.from_dict(study["recipe"])
    data = open_study_data(study_dir, moved_to)
    return Training(recipe, data, study_dir, int(study.get("seed", 0)), runs)


def train_runs(
    name: str, build: Callable[[], nn.Module], training: Training, device: str
) -> Iterator[BaselineEpoch | RunEnd]:
    """Train what the network called ``name`` in the study's baselines.csv still lacks, a ``RunEnd`` each.

    What is yielded is to be kept before the next is asked for: then a run's checkpoints go.
    """
    accuracies = accuracies_of(training.study_dir, name)
    lock = DeviceLock(device)
    while len(accuracies) < training.runs:
        run = len(accuracies)
        seed = derive_seed("baseline", training.seed, name, run)
        torch.manual_seed(seed)
        model = build()
        folder = _run_dir(training.study_dir, name, run)
        checkpoints = _open_checkpoints(folder, model, name, training, seed, device)
        for epoch in train_model(
            model, training.data, training.recipe, seed=seed, device=device, lock=lock, checkpoints=checkpoints
        ):
            yield BaselineEpoch(name, run + 1, epoch)
        accuracies.append(epoch.val_accuracy)
        yield RunEnd(tuple(accuracies), tuple(checkpoints.notes))
        _remove(folder)


def _run_dir(study_dir: Path, name: str, run: int) -> Path:
    """Names that differ only in signs share a folder; each leaves the other's checkpoints unused."""
    return study_dir / FOLDER / f"{re.sub(r'[^A-Za-z0-9.=-]+', '_', name)}-run{run + 1}"


def _open_checkpoints(
    folder: Path, model: nn.Module, name: str, training: Training, seed: int, device: str
) -> CheckpointFolder:
    identity = {
        "network": model.arch.key() if isinstance(model, CrossViT) else name,
        "seed": seed,
        "recipe": training.recipe.to_dict(),
        "data": training.data.fingerprint,
        "device": torch.device(device).type,
    }
    return CheckpointFolder(folder, identity, epochs=geometric_rungs(training.recipe.epochs))


def _remove(folder: Path) -> None:
    remove_checkpoints(folder)
    if folder.parent.is_dir() and not any(folder.parent.iterdir()):
        folder.parent.rmdir()
