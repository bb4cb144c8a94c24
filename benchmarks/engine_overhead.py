"""What the engine costs per trial, with an evaluation that does nothing.

Prints, for each executor: seconds until the first outcome (start-up), seconds per trial after it, the processor's part
of those, and how much the driver's memory grew meanwhile (Linux). Run it on a quiet machine; they are whole-engine
figures: asking the sampler, the ledger's fsyncs, hand-over and reports included.

    python benchmarks/engine_overhead.py [--trials 100] [--repeats 3] [--executors ray,processes,in-process]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from crossvit_core.recipe import TrainRecipe
from results.records import Event, Finished
from results.store import StudyStore
from search.executors.base import Executor
from search.executors.local import InProcessExecutor, ProcessExecutor
from search.executors.ray_tune import RayExecutor
from search.objectives import find_objectives
from search.optuna_searcher import OptunaSearcher
from search.plan import Plan
from search.session import Session
from search.synthetic import SyntheticEvaluation
from space import load_space

EVALUATE = SyntheticEvaluation()
LABELS = ("first outcome, s", "per trial, ms", "of that CPU, ms", "memory grown, MB")
EXECUTORS: dict[str, Executor] = {
    "ray": RayExecutor(2, evaluate=EVALUATE),
    "processes": ProcessExecutor(2, EVALUATE),
    "in-process": InProcessExecutor(EVALUATE),
}


class Gauge:
    """Listens to a session; knows its first and its last outcome, and what the driver used in between."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._marks: list[tuple[float, float, float]] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, Finished):
            mark = (time.perf_counter(), time.process_time(), resident_mb())
            self._marks = [*self._marks[:1], mark]

    def figures(self, trials: int) -> tuple[float, float, float, float]:
        """In the order of ``LABELS``."""
        first, last = self._marks[0], self._marks[-1]
        seconds, cpu_seconds, grown_mb = (after - before for before, after in zip(first, last))
        return first[0] - self._start, 1000 * seconds / (trials - 1), 1000 * cpu_seconds / (trials - 1), grown_mb


def resident_mb() -> float:
    """Resident memory of this process; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20 if statm.exists() else 0.0


def run_once(executor: Executor, trials: int, sampler: str) -> tuple[float, float, float, float]:
    """The figures of a study of trials that do nothing."""
    objectives = find_objectives(("val_accuracy", "macs"))
    searcher = OptunaSearcher(load_space("small").space, objectives, sampler=sampler, trials=trials, seed=0)
    gauge = Gauge()
    with tempfile.TemporaryDirectory() as folder, StudyStore.create(Path(folder) / "study", {}) as store:
        session = Session(store, searcher, trials=trials, seed=0, listeners=[gauge])
        executor.run(session, Plan(TrainRecipe(), Path("unused"), None))
    return gauge.figures(trials)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sampler", default="random")
    parser.add_argument("--executors", default=",".join(EXECUTORS))
    options = parser.parse_args()
    # Interleaved, so that a machine that changes its speed changes it for all.
    names = options.executors.split(",")
    runs: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in names}
    for _ in range(options.repeats):
        for name in names:
            runs[name].append(run_once(EXECUTORS[name], options.trials, options.sampler))
    print(
        f"{options.trials} trials of no work, sampler {options.sampler}, median (min to max) of {options.repeats} runs"
    )
    for name, figures in runs.items():
        for label, values in zip(LABELS, zip(*figures)):
            spread = f"({min(values):.2f} to {max(values):.2f})"
            print(f"  {name:<11} {label:<17} {statistics.median(values):7.2f}  {spread}")


if __name__ == "__main__":
    main()
