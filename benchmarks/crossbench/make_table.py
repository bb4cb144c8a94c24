"""Make the table of CrossBench: train every architecture of the space ``bench`` with each seed, then write one file.

The studies are ordinary ones (``crossbench-0``, ``crossbench-1``, ... in the folder of runs), so a kill loses nothing:
repeat the command and it goes on. Two seeds take some hours on two cores.

    python benchmarks/crossbench/make_table.py [--seeds 2] [--workers 2] [--partial]

Columns: arch_key, arch (JSON), vector (choice indices) and one column a dimension, seed (the study's), train_seed,
trial, status, error, device, every metric of the finished training (val_accuracy, val_loss, macs, params, activations,
throughput_ips, throughput_ratio, train_cpu_seconds, measure_seconds, ...), and curve_val_accuracy, curve_val_loss,
curve_train_loss with one value an epoch. Where it comes from is in the file's metadata.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.crossbench.table import CURVES, DEFAULT_PATH, Table, TableError
from crossvit_core.config import ArchConfig
from results.records import Event, Finished
from results.store import CURVE_FILE, DEFAULT_RUNS_DIR, StoreError, StudyStore
from search.executors.sizing import make_executor
from search.study import Study, resolve_study, run_study
from search.study_config import StudyConfig
from space import Space

SPACE = "bench"


def study_config(seed: int, workers: int, runs_dir: Path) -> StudyConfig:
    """The study that trains every architecture with one seed."""
    return StudyConfig(
        space=SPACE,
        name=f"crossbench-{seed}",
        seed=seed,
        sampler="brute_force",
        executor="local",
        workers=workers,
        runs_dir=runs_dir,
        keep_weights=False,
    )


def train_all(study: Study, config: StudyConfig) -> None:
    """Run or go on with one study, a line for every twentieth training."""
    print(f"{study.name}: training every architecture of {study.space.name!r}", flush=True)
    run_study(study, make_executor(config), listeners=[_Counter(study.name)])


def build_table(studies: list[Study], command: str) -> Table:
    """What is finished of the studies, as a table. Raises TableError if nothing is."""
    rows = [row for study in studies if StudyStore.exists(study.path) for row in _study_rows(study)]
    if not rows:
        raise TableError(f"nothing is trained yet in {studies[0].path.parent}; leave --partial away to begin")
    frame = pd.DataFrame(rows).sort_values(["seed", "arch_key"], ignore_index=True)
    return Table(frame, _provenance(studies[0], frame, command))


def is_complete(table: Table, seeds: int) -> bool:
    """Whether every architecture of the space is there with every seed."""
    return len(table.frame) == seeds * table.provenance["num_archs"]


def _study_rows(study: Study) -> Iterator[dict[str, Any]]:
    store = StudyStore.open_readonly(study.path)
    for event in store.events():
        if isinstance(event, Finished):
            yield {
                **_arch_columns(study.space, event.arch),
                "arch_key": event.arch_key,
                "arch": json.dumps(event.arch),
                "seed": study.seed,
                "train_seed": event.seed,
                "trial": event.trial,
                "status": event.status,
                "error": event.error,
                "device": event.device,
                **event.metrics,
                **curve_columns(store.trial_dir(event.trial) / CURVE_FILE),
            }


def _arch_columns(space: Space, arch: dict[str, Any]) -> dict[str, Any]:
    vector = space.encode(ArchConfig.from_dict(arch))
    choices = {d.path: d.choices[index] for d, index in zip(space.dimensions, vector)}
    return {**choices, "vector": list(vector)}


def curve_columns(path: Path) -> dict[str, list[float]]:
    """A trial's curve.jsonl, an entry an epoch; empty where it is gone."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    epochs = [json.loads(line) for line in lines]
    return {f"curve_{name}": [epoch[name] for epoch in epochs] for name in CURVES}


def _provenance(study: Study, frame: pd.DataFrame, command: str) -> dict[str, Any]:
    about = ("arch", "seed", "train_seed", "trial")
    metrics = [name for name in frame.select_dtypes("number").columns if name not in (*about, *_paths(study.space))]
    environment = StudyStore.open_readonly(study.path).environment
    macs_limit = next(limit.maximum for limit in study.space.limits if limit.metric == "macs")
    return {
        "space": study.space.name,
        "num_archs": sum(1 for _ in study.space.vectors()),
        "max_macs": macs_limit,
        "metrics": metrics,
        "rungs": list(study.plan.rungs),
        "data": study.data.describe()["fingerprint"],
        "recipe": study.plan.recipe.to_dict(),
        "device": environment["cpu"],
        "cores": environment["cores"],
        "instruction_set": _instruction_set(),
        "python": platform.python_version(),
        "packages": environment["packages"],
        "commit": environment["commit"],
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "command": command,
    }


def _paths(space: Space) -> list[str]:
    return [dimension.path for dimension in space.dimensions]


def _instruction_set() -> str:
    """The vector instructions that torch uses here: what bit-equal training depends on beside the version."""
    import torch

    return str(torch.backends.cpu.get_cpu_capability())


class _Counter:
    """Prints how far a study is."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._done = 0

    def __call__(self, event: Event) -> None:
        self._done += isinstance(event, Finished)
        if isinstance(event, Finished) and self._done % 20 == 0:
            print(f"  {self._name}: {self._done} more trained", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the replay table of CrossBench, or go on making it.")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each architecture (2)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (2)")
    parser.add_argument("--runs-dir", type=Path, default=DEFAULT_RUNS_DIR, help="folder of the studies")
    parser.add_argument("--out", type=Path, default=DEFAULT_PATH, help="the file to write")
    parser.add_argument("--partial", action="store_true", help="train nothing: write what is finished so far")
    options = parser.parse_args()
    if options.seeds < 1 or options.workers < 1:
        parser.error(f"--seeds and --workers must be at least 1, got {options.seeds} and {options.workers}")
    try:
        return _make(options)
    except (StoreError, TableError) as error:
        print(f"make_table: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("make_table: stopped; repeat the command to go on", file=sys.stderr)
        return 130


def _make(options: argparse.Namespace) -> int:
    configs = [study_config(seed, options.workers, options.runs_dir) for seed in range(options.seeds)]
    studies = [resolve_study(config) for config in configs]
    if not options.partial:
        for study, config in zip(studies, configs):
            train_all(study, config)
    table = build_table(studies, f"python benchmarks/crossbench/make_table.py --seeds {options.seeds}")
    table.save(options.out)
    whole = "whole" if is_complete(table, options.seeds) else "partial"
    size_kb = options.out.stat().st_size / 1e3
    print(f"{options.out}: {len(table.frame)} trainings, seeds {list(table.seeds)}, {size_kb:.0f} kB, {whole}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
