"""How long the report of a large study takes, and how much memory: a synthetic ledger, through the real commands.

    python benchmarks/report_scale.py --trials 100000
    python benchmarks/report_scale.py --trials 100000 --architectures 1

Prints seconds by the clock and of the CPU, peak memory, and the sizes of the files.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from results.records import Asked, Event, Finished, Rung, encode_event
from results.report import write_report
from results.store import StudyStore

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
        macs = _macs(arch) * rng.lognormvariate(0, 0.3)
        accuracy = min(0.999, max(0.05, 0.35 + 0.1 * (macs**0.12) + rng.gauss(0, 0.05)))
        yield Rung(trial=trial, epoch=5, metrics={"val_accuracy": accuracy / 2}, decision="continue", time=clock)
        yield _end(rng, about, accuracy, macs, clock)


def write_ledger(study_dir: Path, trials: int, architectures: int) -> None:
    """A study's folder with a synthetic ledger, written at once and not event by event."""
    limits = {"macs": {"min": None, "max": 5e7}}
    space = {"name": "synthetic", "dimensions": {name: list(c) for name, c in CHOICES.items()}, "limits": limits}
    objectives = [{"metric": "val_accuracy"}, {"metric": "macs"}, {"metric": "throughput_ips"}]
    StudyStore.create(study_dir, {"name": study_dir.name, "space": space, "objectives": objectives}).close()
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
    status = rng.choices(("ok", "stopped", "infeasible", "failed"), (80, 15, 3, 2))[0]
    metrics = {"macs": round(macs), "params": round(macs / 40), "throughput_ips": 4e8 / macs, "throughput_iqr": 100.0}
    if status == "ok":
        metrics["val_accuracy"] = accuracy
    error = rng.choice(("CUDA out of memory", "macs 60 M over 50 M")) if status in ("failed", "infeasible") else ""
    return Finished(**about, status=status, seconds=3.0, device="cpu", metrics=metrics, error=error, time=clock)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--architectures", type=int, default=0, help="different ones; as many as trials if not given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        study_dir = Path(folder) / "scale"
        write_ledger(study_dir, options.trials, options.architectures or options.trials)
        start, cpu_start = time.perf_counter(), time.process_time()
        page = write_report(study_dir)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{options.trials:,} trials: {seconds:.1f} s ({cpu_seconds:.1f} s of CPU), peak memory {peak_mb:,.0f} MB")
        for path in sorted(page.parent.iterdir()):
            print(f"  {path.name}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
