"""What a worker does with a trial: count, build, measure, train, score. Nothing an architecture does makes it raise.

The cheap comes first. Every outcome is a record; the traceback of a failure is in the trial's log.
"""

from __future__ import annotations

import functools
import json
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from crossvit_core.atomic_file import write_atomically
from crossvit_core.branches import score_branches, share_initial_weights
from crossvit_core.checkpoint import CheckpointFolder
from crossvit_core.cost import count_cost
from crossvit_core.data import ImageData, open_cached
from crossvit_core.device_info import free_memory, pick_device
from crossvit_core.device_lock import DeviceLock
from crossvit_core.model import CrossViT, build_model
from crossvit_core.train import DivergedError, EpochResult, open_split, train_model
from crossvit_core.weights import save_weights
from results.records import Finished, Rung, Status
from results.store import CURVE_FILE, WEIGHTS_FILE
from search.measuring import Candidate, LimitBrokenError, measure
from search.outcomes import first_line, is_memory_error, make_outcome, memory_error
from search.plan import Plan
from search.trial import Trial


@dataclass
class _Progress:
    """What is known of a trial so far: kept when it fails half way."""

    metrics: dict[str, float]
    curve: list[dict[str, float]]
    notes: list[str]
    earlier_seconds: float = 0.0


def evaluate(trial: Trial, plan: Plan) -> Iterator[Rung | Finished]:
    """Yield a ``Rung`` at each of the plan's epochs and, last, the ``Finished``. Close it to stop a trial early."""
    start = time.perf_counter()
    device = pick_device(plan.device)
    progress = _Progress({}, [], [])
    status: Status = "ok"
    error, log = "", ""
    try:
        yield from _run(trial, plan, device, progress)
    except GeneratorExit:
        _keep_files(trial, plan, progress, log)  # stopped early: the curve so far was paid for
        raise
    except LimitBrokenError as broken:
        status, error = "infeasible", str(broken)
    except DivergedError as diverged:
        status, error = "failed", str(diverged)
    except Exception as defect:
        too_big = is_memory_error(defect)
        kind = memory_error(device, trial) if too_big else type(defect).__name__
        status, error = "failed", f"{kind}: {first_line(defect)}"
        log = "" if too_big else traceback.format_exc()
    if status == "failed":
        free_memory(device)  # not before here: an exception holds on to the tensors of its frames
    _keep_files(trial, plan, progress, log)
    seconds = progress.earlier_seconds + time.perf_counter() - start
    error = "; ".join(filter(None, [error, *progress.notes]))
    yield make_outcome(trial, status, seconds, progress.metrics, device=device, error=error)


@functools.lru_cache(maxsize=1)
def _open_data(path: Path) -> ImageData:
    return open_cached(path)


def _run(trial: Trial, plan: Plan, device: str, progress: _Progress) -> Iterator[Rung]:
    data = _open_data(plan.data_path)
    cost = count_cost(trial.arch)
    progress.metrics.update(macs=cost.macs, params=cost.params, activations=cost.activations)
    torch.manual_seed(trial.seed)
    model = build_model(trial.arch, drop_path_rate=plan.recipe.drop_path).to(device)
    if plan.share_weights_with is not None:
        share_initial_weights(model, plan.share_weights_with, trial.seed)
    lock = DeviceLock(device)
    checkpoints = _open_checkpoints(trial, plan, data, device, progress)
    if not _take_measured(checkpoints, progress):
        _measure(model, plan, device, lock, progress)
        _keep_measured(checkpoints, progress)
    for epoch in train_model(
        model, data, plan.recipe, seed=trial.seed, device=device, lock=lock, checkpoints=checkpoints
    ):
        progress.curve.append({key: round(value, 6) for key, value in epoch.to_dict().items()})
        if epoch.epoch in plan.rungs:
            known = {**progress.metrics, **_scores(epoch), **_seconds(epoch)}
            yield Rung(trial=trial.number, epoch=epoch.epoch, metrics=known, decision="continue")
    progress.metrics.update(_scores(epoch), epochs=epoch.epoch, **_seconds(epoch))
    if plan.score_branches:
        with lock.shared():
            progress.metrics.update(_branch_scores(model, data, plan, device))
    if plan.keep_weights and plan.trials_dir is not None:
        _keep_weights(model, trial, data, plan.trial_dir(trial.number), progress)


def _take_measured(checkpoints: CheckpointFolder | None, progress: _Progress) -> bool:
    """What an earlier attempt measured stands; nothing measured is lost. False if there is none."""
    measured = checkpoints.extra.get("measured") if checkpoints is not None else None
    if measured is None:
        return False
    progress.metrics.update(measured)
    progress.earlier_seconds += measured.get("measure_seconds", 0.0)
    return True


def _keep_measured(checkpoints: CheckpointFolder | None, progress: _Progress) -> None:
    if checkpoints is not None:
        checkpoints.extra["measured"] = dict(progress.metrics)


def _measure(model: CrossViT, plan: Plan, device: str, lock: DeviceLock, progress: _Progress) -> None:
    for found in measure(Candidate(model, plan, device, lock)):
        progress.metrics.update(found)


def _scores(epoch: EpochResult) -> dict[str, float]:
    return {
        "val_accuracy": round(epoch.val_accuracy, 6),
        "val_loss": round(epoch.val_loss, 6),
        "train_loss": round(epoch.train_loss, 6),
    }


def _branch_scores(model: CrossViT, data: ImageData, plan: Plan, device: str) -> dict[str, float]:
    accuracies = score_branches(model, open_split(data, "val", device), device=device, amp=plan.recipe.amp)
    return {f"val_accuracy_branch_{index}": round(accuracy, 6) for index, accuracy in enumerate(accuracies)}


def _seconds(epoch: EpochResult) -> dict[str, float]:
    return {"train_seconds": round(epoch.seconds, 3), "train_cpu_seconds": round(epoch.cpu_seconds, 3)}


def _open_checkpoints(
    trial: Trial, plan: Plan, data: ImageData, device: str, progress: _Progress
) -> CheckpointFolder | None:
    """Where this trial saves its state, and what earlier attempts left; None for a plan that keeps no files."""
    if plan.trials_dir is None:
        return None
    identity = {
        "arch_key": trial.arch_key,
        "seed": trial.seed,
        "recipe": plan.recipe.to_dict(),
        "data": data.fingerprint,
        "device": torch.device(device).type,
    }
    folder = plan.trial_dir(trial.number)
    checkpoints = CheckpointFolder(folder, identity, attempt=trial.attempt, epochs=plan.rungs)
    if checkpoints.found is not None:
        progress.earlier_seconds = checkpoints.found.state["curve"][-1]["seconds"]
    progress.notes = checkpoints.notes
    return checkpoints


def _keep_weights(model: CrossViT, trial: Trial, data: ImageData, folder: Path, progress: _Progress) -> None:
    """A full disk costs the weights, not what was measured: that is in the ledger's hands."""
    about = {"arch_key": trial.arch_key, "mean": list(data.mean), "std": list(data.std)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(folder / WEIGHTS_FILE, model, metadata=about)
    except OSError as error:
        progress.notes.append(f"weights not kept: {error.strerror or error}")


def _keep_files(trial: Trial, plan: Plan, progress: _Progress, log: str) -> None:
    if plan.trials_dir is None:
        return
    folder = plan.trial_dir(trial.number)
    texts = {
        "arch.json": json.dumps(trial.arch.to_dict(), indent=1) + "\n",
        CURVE_FILE: "".join(json.dumps(epoch) + "\n" for epoch in progress.curve),
        "log.txt": log,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            if text:
                write_atomically(folder / name, text.encode())
    except OSError as error:
        progress.notes.append(f"files of the trial not kept: {error.strerror or error}")


def prepare_worker(threads: int) -> dict[str, Any]:
    """Call once per worker process, before its first trial. One thread each: workers fill the cores, not threads."""
    torch.set_num_threads(threads)
    return {"torch": torch.__version__}
