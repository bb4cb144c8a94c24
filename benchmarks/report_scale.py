"""How long the commands that read a large study take, and how much memory: a synthetic ledger, the real commands.

    python benchmarks/report_scale.py --trials 100000
    python benchmarks/report_scale.py --trials 2000000 --architectures 1 [--commands report,status,select] [--keep DIR]

Prints the size of the ledger and, for every command in a process of its own, seconds by the clock and of the CPU, peak
memory and the last line that it said; at the end the sizes of the files of the report.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from results.records import Asked, Event, Finished, Rung, encode_event
from results.store import StudyStore

RUNGS = {3: 0.6, 7: 0.8, 15: 0.95}
"""Epochs, and the share of the final accuracy that is reached then."""

FUSIONS = ("none", "all_attention", "class_token", "pairwise", "cross_attention")
CHOICES: dict[str, tuple[Any, ...]] = {
    "num_encoders": (1, 2, 3),
    "branches.0.embed_dim": (8, 16, 24, 32, 48),
    "branches.1.embed_dim": (16, 32, 48, 64, 96),
    "branches.*.mlp_ratio": (1, 2, 4),
    "encoders.*.depths.1": (1, 2, 3, 4),
    "encoders.*.fusion": FUSIONS,
}


def synthetic_events(trials: int, architectures: int, seed: int = 0) -> Iterator[Event]:
    """A ledger of so many trials over so many architectures: most end well, some are stopped, infeasible or fail."""
    rng = random.Random(seed)
    known = [_draw_arch(rng) for _ in range(min(architectures, 4096))]
    clock = 1.7e9
    for trial in range(trials):
        number = trial % architectures
        arch = known[number % len(known)]
        about: dict[str, Any] = {"trial": trial, "arch_key": f"{number:012x}", "arch": arch, "seed": trial}
        yield Asked(**about, source="tpe", time=clock)
        clock += 2.0
        macs = _macs(arch) * rng.lognormvariate(0, 0.3 if architectures > 1 else 0.0)
        accuracy = min(0.999, max(0.05, 0.35 + 0.1 * (macs**0.12) + rng.gauss(0, 0.05)))
        for epoch, share in RUNGS.items():
            metrics = {"val_accuracy": round(accuracy * share, 6), "val_loss": 1.2 - share, "train_loss": 1.3 - share}
            yield Rung(trial=trial, epoch=epoch, metrics=metrics, decision="continue", time=clock)
        yield _end(rng, about, accuracy, macs, clock)


def write_ledger(study_dir: Path, trials: int, architectures: int) -> None:
    """A study's folder with a synthetic ledger, written at once and not event by event."""
    limits = {"macs": {"min": None, "max": 5e7}}
    space = {"name": "synthetic", "dimensions": {name: list(c) for name, c in CHOICES.items()}, "limits": limits}
    objectives = [{"metric": "val_accuracy"}, {"metric": "macs"}, {"metric": "throughput_ips"}]
    data = {"name": "synthetic", "splits": {"train": 45_000, "val": 5_000, "test": 10_000}}
    study = {"name": study_dir.name, "space": space, "objectives": objectives, "data": data, "trials": trials}
    StudyStore.create(study_dir, study).close()
    with open(study_dir / "ledger.jsonl", "w", encoding="utf-8") as file:
        for event in synthetic_events(trials, architectures):
            file.write(json.dumps(encode_event(event), separators=(",", ":")) + "\n")


def _draw_arch(rng: random.Random) -> dict[str, Any]:
    widths = rng.choice(CHOICES["branches.0.embed_dim"]), rng.choice(CHOICES["branches.1.embed_dim"])
    ratio, fusion = rng.choice(CHOICES["branches.*.mlp_ratio"]), rng.choice(FUSIONS)
    branches = [
        {"image_size": 32, "patch_size": patch, "embed_dim": width, "num_heads": 2, "mlp_ratio": ratio}
        for patch, width in zip((4, 8), widths)
    ]
    encoder = {"depths": [1, rng.choice(CHOICES["encoders.*.depths.1"])], "fusion": fusion}
    return {"image_size": 32, "branches": branches, "encoders": [encoder] * rng.choice(CHOICES["num_encoders"])}


def _macs(arch: dict[str, Any]) -> float:
    width = sum(branch["embed_dim"] ** 2 for branch in arch["branches"])
    return 40.0 * width * len(arch["encoders"]) * arch["encoders"][0]["depths"][1]


def _end(rng: random.Random, about: dict[str, Any], accuracy: float, macs: float, clock: float) -> Finished:
    """With every metric that a search on a CPU writes down."""
    status = rng.choices(("ok", "stopped", "infeasible", "failed"), (80, 15, 3, 2))[0]
    metrics = {
        "macs": round(macs),
        "params": round(macs / 40),
        "activations": round(macs / 300),
        "throughput_ips": 4e8 / macs * rng.uniform(0.9, 1.1),
        "throughput_iqr": 100.0 * rng.uniform(0.5, 2.0),
        "throughput_ratio": rng.uniform(0.9, 1.1),
        "throughput_ratio_iqr": rng.uniform(0.01, 0.1),
        "throughput_contention": 1.004,
        "throughput_flags": 0.0,
        "measure_seconds": round(rng.uniform(1.0, 2.0), 3),
        "train_loss": round(1.3 - accuracy, 6),
        "epochs": 30,
        "train_seconds": round(rng.uniform(8.0, 12.0), 3),
    }
    if status == "ok":
        metrics |= {"val_accuracy": round(accuracy, 6), "val_loss": round(1.2 - accuracy, 6)}
    error = rng.choice(("CUDA out of memory", "macs 60 M over 50 M")) if status in ("failed", "infeasible") else ""
    return Finished(**about, status=status, seconds=3.0, device="cpu", metrics=metrics, error=error, time=clock)  # type: ignore[arg-type]


def measure_command(command: str, study_dir: Path) -> str:
    """Run a command on the study; seconds, peak memory and its last line."""
    words = [
        str(Path(sys.executable).with_name("crossvit")),
        command,
        study_dir.name,
        "--runs-dir",
        str(study_dir.parent),
    ]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        process = subprocess.Popen(words, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        last = (said.read().strip().splitlines() or [""])[-1]
    seconds, cpu_seconds = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    memory = f"peak memory {usage.ru_maxrss / 1024:,.0f} MB"
    return f"{command}: {seconds:.1f} s ({cpu_seconds:.1f} s of CPU), {memory}, exit {process.returncode}: {last}"


def measure_commands(study_dir: Path, options: argparse.Namespace) -> None:
    ledger = study_dir / "ledger.jsonl"
    if not ledger.exists():
        write_ledger(study_dir, options.trials, options.architectures or options.trials)
    print(f"{options.trials:,} trials, ledger of {ledger.stat().st_size / 1e6:,.0f} MB", flush=True)
    for command in options.commands.split(","):
        print(measure_command(command, study_dir), flush=True)
    for path in sorted((study_dir / "report").glob("*")):
        print(f"  {path.name}: {path.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--architectures", type=int, default=0, help="different ones; as many as trials if not given")
    parser.add_argument("--commands", default="report,status,select")
    parser.add_argument("--keep", type=Path, help="a folder for the study, which is used again; it may be deleted")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure_commands((options.keep or Path(folder)) / "scale", options)


if __name__ == "__main__":
    main()
