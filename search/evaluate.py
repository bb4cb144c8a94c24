"""What a worker does with a trial: count, build, measure, train, score. Nothing an architecture does makes it raise.

The cheap comes first. Every outcome is a record; the traceback of a failure is in the trial's log.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from crossvit_core.cost import count_cost
from crossvit_core.data import ImageData, open_cached
from crossvit_core.device_lock import DeviceLock
from crossvit_core.measure import measure_throughput
from crossvit_core.model import CrossViT, build_model
from crossvit_core.train import DivergedError, EpochResult, train_model
from crossvit_core.weights import save_weights
from results.records import Finished, Rung, Status
from search.plan import Plan
from search.trial import Trial


@dataclass
class _Progress:
    """What is known of a trial so far: kept when it fails half way."""

    metrics: dict[str, float]
    curve: list[dict[str, float]]
    notes: list[str]


def evaluate(trial: Trial, plan: Plan) -> Iterator[Rung | Finished]:
    """Yield a ``Rung`` at each of the plan's epochs and, last, the ``Finished``. Close it to stop a trial early."""
    start = time.perf_counter()
    device = pick_device(plan.device)
    progress = _Progress({}, [], [])
    status: Status = "ok"
    error, log = "", ""
    try:
        yield from _run(trial, plan, device, progress)
    except DivergedError as diverged:
        status, error = "failed", str(diverged)
    except (torch.OutOfMemoryError, MemoryError) as too_big:
        status, error = "failed", f"out of memory on {device}: {_first_line(too_big)}"
        _free_memory(device)
    except Exception as defect:
        status, error = "failed", f"{type(defect).__name__}: {_first_line(defect)}"
        log = traceback.format_exc()
    _keep_files(trial, plan, progress, log)
    yield Finished(
        trial=trial.number,
        status=status,
        arch_key=trial.arch_key,
        arch=trial.arch.to_dict(),
        seed=trial.seed,
        seconds=round(time.perf_counter() - start, 3),
        device=device,
        metrics=progress.metrics,
        error="; ".join(filter(None, [error, *progress.notes])),
    )


def pick_device(asked: str) -> str:
    """'auto' is the first GPU that this process sees, else the CPU."""
    if asked == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    return asked


@functools.lru_cache(maxsize=1)
def _open_data(path: Path) -> ImageData:
    return open_cached(path)


def _run(trial: Trial, plan: Plan, device: str, progress: _Progress) -> Iterator[Rung]:
    data = _open_data(plan.data_path)
    cost = count_cost(trial.arch)
    progress.metrics.update(macs=cost.macs, params=cost.params, activations=cost.activations)
    torch.manual_seed(trial.seed)
    model = build_model(trial.arch, drop_path_rate=plan.recipe.drop_path).to(device)
    lock = DeviceLock(device)
    _measure(model, trial, plan, device, lock, progress)
    # On a CPU a measurement stands load beside it (it compares CPU time), so training need not make room for it.
    training_lock = lock if device != "cpu" else None
    start, cpu_start = time.perf_counter(), time.process_time()
    for epoch in train_model(model, data, plan.recipe, seed=trial.seed, device=device, lock=training_lock):
        progress.curve.append({key: round(value, 6) for key, value in epoch.to_dict().items()})
        if epoch.epoch in plan.rungs:
            yield Rung(trial=trial.number, epoch=epoch.epoch, metrics=_scores(epoch), decision="continue")
    progress.metrics.update(_scores(epoch), epochs=epoch.epoch, train_seconds=round(time.perf_counter() - start, 3))
    progress.metrics.update(train_cpu_seconds=round(time.process_time() - cpu_start, 3))
    if plan.keep_weights and plan.trials_dir is not None:
        _keep_weights(model, trial, plan.trial_dir(trial.number), progress)


def _measure(model: CrossViT, trial: Trial, plan: Plan, device: str, lock: DeviceLock, progress: _Progress) -> None:
    start = time.perf_counter()
    throughput = measure_throughput(
        model,
        size=trial.arch.size,
        in_channels=trial.arch.in_channels,
        batch_size=plan.measure.batch_size,
        device=device,
        pairs=plan.measure.pairs,
        window_ms=plan.measure.window_ms,
        amp=plan.recipe.amp,
        lock=lock,
    )
    progress.metrics.update(throughput.metrics(), measure_seconds=round(time.perf_counter() - start, 3))


def _scores(epoch: EpochResult) -> dict[str, float]:
    return {
        "val_accuracy": round(epoch.val_accuracy, 6),
        "val_loss": round(epoch.val_loss, 6),
        "train_loss": round(epoch.train_loss, 6),
    }


def _keep_weights(model: CrossViT, trial: Trial, folder: Path, progress: _Progress) -> None:
    """A full disk costs the weights, not what was measured: that is in the ledger's hands."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(folder / "weights.safetensors", model, metadata={"arch_key": trial.arch_key})
    except OSError as error:
        progress.notes.append(f"weights not kept: {error.strerror or error}")


def _keep_files(trial: Trial, plan: Plan, progress: _Progress, log: str) -> None:
    if plan.trials_dir is None:
        return
    folder = plan.trial_dir(trial.number)
    texts = {
        "arch.json": json.dumps(trial.arch.to_dict(), indent=1) + "\n",
        "curve.jsonl": "".join(json.dumps(epoch) + "\n" for epoch in progress.curve),
        "log.txt": log,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            if text:
                _write_whole(folder / name, text)
    except OSError as error:
        progress.notes.append(f"files of the trial not kept: {error.strerror or error}")


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:300]


def _free_memory(device: str) -> None:
    if device.startswith("cuda"):
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()


def prepare_worker(threads: int) -> dict[str, Any]:
    """Call once per worker process, before its first trial. One thread each: workers fill the cores, not threads."""
    torch.set_num_threads(threads)
    return {"torch": torch.__version__}
