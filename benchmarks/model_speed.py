"""The speed of our CrossViT against timm's: the same weights, alternately in one process.

Loads timm's network and ours with equal weights, checks that the logits agree, then times them in short pairs whose
order changes (A B, B A, ...), so that a machine that changes its speed changes it for both. Prints per cell both times
and timm's over ours, the median of the pairs with their quartiles; above 1 is faster than timm.

    python benchmarks/model_speed.py [--models crossvit_tiny_240,...] [--batches 1,8,32] [--mode both] [--json out.json]

Modes: ``forward`` (evaluation, inference_mode), ``no-grad`` (the same under no_grad), ``train`` (forward,
cross-entropy, backward, AdamW), ``both`` (forward and train), ``all``. On a GPU the device's events are timed, on a CPU
the wall clock or, for one thread beside other work, the process's CPU time.

Every cell is measured in a fresh process, as whoever runs one network at one batch size has it. ``--one-process``
measures all in one: what the earlier cells have freed changes from when on the C library hands memory back to the
system, which takes it from the later cells in page faults, or spares them those.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.figures import write_figures
from crossvit_core.model import build_model
from crossvit_core.presets import PRESETS

MODELS = "crossvit_tiny_240,crossvit_9_240,crossvit_small_240,crossvit_9_dagger_240"
HEADER = "model                    batch  mode       timm ms   ours ms   ratio  (quartiles)   logits differ by"
TOLERANCE = 1e-4  # largest difference of logits in float32
WARM_UPS = 3

Work = Callable[[], object]


@dataclass(frozen=True)
class Cell:
    """One model at one batch size in one mode. ``ratio``: timm's time over ours, median and quartiles over pairs."""

    model: str
    batch: int
    mode: str
    timm_ms: float
    ours_ms: float
    ratio: float
    ratio_q1: float
    ratio_q3: float
    pairs: int
    max_logit_difference: float


class InputError(ValueError):
    """What was asked for cannot be measured."""


def build_pair(name: str, device: str) -> tuple[nn.Module, nn.Module]:
    """timm's network and ours with its weights, biases and norms moved off their start values."""
    theirs = timm.create_model(name, pretrained=False)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    ours = build_model(PRESETS[name])
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs.to(device), ours.to(device)


@torch.inference_mode()
def logit_difference(theirs: nn.Module, ours: nn.Module, images: Tensor) -> float:
    """Largest difference of the logits in float32, evaluation mode. Raises InputError above ``TOLERANCE``."""
    difference = float((theirs.eval()(images) - ours.eval()(images)).abs().max())
    if not difference < TOLERANCE:
        raise InputError(f"logits differ by {difference:.2e}, more than {TOLERANCE}: the networks are not the same")
    return difference


def forward_work(model: nn.Module, images: Tensor, options: argparse.Namespace) -> Work:
    return _evaluation(model, images, options, torch.inference_mode)


def no_grad_work(model: nn.Module, images: Tensor, options: argparse.Namespace) -> Work:
    return _evaluation(model, images, options, torch.no_grad)


def _evaluation(
    model: nn.Module, images: Tensor, options: argparse.Namespace, without_grad: Callable[[], object]
) -> Work:
    model.eval()

    def work() -> None:
        with without_grad(), _autocast(options):  # type: ignore[attr-defined]
            model(images)

    return work


def train_work(model: nn.Module, images: Tensor, options: argparse.Namespace) -> Work:
    """Forward, cross-entropy, backward and, unless left out, AdamW."""
    model.train()
    labels = torch.arange(len(images), device=images.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def work() -> None:
        optimizer.zero_grad(set_to_none=True)
        with _autocast(options):
            logits = model(images)
        F.cross_entropy(logits.float(), labels).backward()
        if options.optimizer:
            optimizer.step()

    return work


def _autocast(options: argparse.Namespace) -> torch.autocast:
    return torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=options.dtype == "bfloat16")


def time_ms(work: Work, repeats: int, options: argparse.Namespace) -> float:
    """Milliseconds per call."""
    if torch.device(options.device).type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.device(options.device):  # events are recorded on the current one
            start.record()
            for _ in range(repeats):
                work()
            end.record()
        end.synchronize()
        return start.elapsed_time(end) / repeats
    clock = CLOCKS[options.clock]
    begin = clock()
    for _ in range(repeats):
        work()
    return (clock() - begin) / repeats * 1000


def time_pairs(theirs: Work, ours: Work, options: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Milliseconds of both, pair by pair; each window lasts ``window_ms`` or one call."""
    for _ in range(WARM_UPS):
        theirs(), ours()
    repeats = max(1, math.ceil(options.window_ms / time_ms(theirs, 1, options)))
    pairs: list[tuple[float, float]] = []
    for index in range(options.pairs):
        order = (theirs, ours) if index % 2 == 0 else (ours, theirs)
        first, second = (time_ms(work, repeats, options) for work in order)
        pairs.append((first, second) if index % 2 == 0 else (second, first))
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def measure_cell(name: str, batch: int, mode: str, options: argparse.Namespace) -> Cell:
    """One cell, with fresh networks. Raises InputError if the logits differ."""
    torch.manual_seed(options.seed)
    theirs, ours = build_pair(name, options.device)
    images = torch.randn(batch, 3, *PRESETS[name].size, device=options.device)
    difference = logit_difference(theirs, ours, images)
    if options.compile:
        theirs, ours = torch.compile(theirs), torch.compile(ours)  # type: ignore[assignment]
    works = [MODES[mode](model, images, options) for model in (theirs, ours)]
    timm_ms, ours_ms = time_pairs(works[0], works[1], options)
    q1, ratio, q3 = statistics.quantiles([a / b for a, b in zip(timm_ms, ours_ms)], n=4, method="inclusive")
    return Cell(
        name, batch, mode, statistics.median(timm_ms), statistics.median(ours_ms), ratio, q1, q3, options.pairs,
        difference,
    )  # fmt: skip


def measure_cell_apart(name: str, batch: int, mode: str, options: argparse.Namespace) -> Cell:
    """``measure_cell`` in a process of its own, with this one's number of threads."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), set_threads, (options.threads,)) as process:
        return process.submit(measure_cell, name, batch, mode, options).result()


def set_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


def print_cell(cell: Cell) -> None:
    print(
        f"{cell.model:<24}{cell.batch:>6}  {cell.mode:<8}{cell.timm_ms:>10.2f}{cell.ours_ms:>10.2f}{cell.ratio:>8.3f}"
        f"  ({cell.ratio_q1:.3f} to {cell.ratio_q3:.3f}){cell.max_logit_difference:>12.1e}",
        flush=True,
    )


def print_summary(cells: list[Cell]) -> None:
    """The median and the smallest ratio of each mode."""
    for mode in dict.fromkeys(cell.mode for cell in cells):
        ratios = [cell.ratio for cell in cells if cell.mode == mode]
        print(f"{mode}: median ratio {statistics.median(ratios):.3f}, smallest {min(ratios):.3f}, {len(ratios)} cells")


def write_json(path: Path, cells: list[Cell], options: argparse.Namespace) -> None:
    """The cells, and what they depend on."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    write_figures(path, options, {"cells": [asdict(cell) for cell in cells]}, {"load_average": load})


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=MODELS, help="presets that timm has too, with commas between")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--mode", choices=[*MODES, *SEVERAL], default="both")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--window-ms", type=float, default=20.0, help="least time of one half of a pair")
    parser.add_argument("--threads", type=int, help="default: torch's")
    parser.add_argument("--clock", choices=[*CLOCKS], default="wall", help="cpu: steadier beside other work")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="bfloat16 is autocast")
    parser.add_argument("--compile", action="store_true", help="torch.compile both")
    parser.add_argument("--one-process", action="store_true", help="all cells in one process, one after the other")
    parser.add_argument("--no-optimizer", dest="optimizer", action="store_false", help="train without AdamW's step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    try:
        _check(options)
    except (InputError, ValueError, RuntimeError) as error:
        parser.error(str(error))
    return options


def _check(options: argparse.Namespace) -> None:
    known = [name for name in PRESETS if timm.is_model(name)]
    for name in options.models.split(","):
        if name not in known:
            raise InputError(f"--models: {name!r} is not a preset that timm has; use some of {', '.join(known)}")
    batches = options.batches.split(",")
    for value in batches:
        if not value.isdigit() or int(value) < 1:
            raise InputError(f"--batches: {value!r} is not a batch size; use whole numbers above 0, as 1,8,32")
    if options.pairs < 2:
        raise InputError(f"--pairs: {options.pairs} is too few; use at least 2")
    if options.threads is not None and options.threads < 1:
        raise InputError(f"--threads: {options.threads} is too few; use at least 1")
    if options.clock == "cpu" and options.threads != 1:
        raise InputError("--clock cpu: several threads wait for each other on the processor; use --threads 1")
    if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        raise InputError("--device: no CUDA device here; use cpu")


def main() -> None:
    options = read_options()
    set_threads(options.threads)
    measure = measure_cell if options.one_process else measure_cell_apart
    print(HEADER)
    cells: list[Cell] = []
    for mode in SEVERAL.get(options.mode, (options.mode,)):
        for name in options.models.split(","):
            for batch in options.batches.split(","):
                cells.append(measure(name, int(batch), mode, options))
                print_cell(cells[-1])
                if options.json is not None:
                    write_json(options.json, cells, options)  # after every cell: what is measured is kept
    print_summary(cells)


MODES: dict[str, Callable[[nn.Module, Tensor, argparse.Namespace], Work]] = {
    "forward": forward_work,
    "no-grad": no_grad_work,
    "train": train_work,
}
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
SEVERAL = {"both": ("forward", "train"), "all": tuple(MODES)}

if __name__ == "__main__":
    main()
