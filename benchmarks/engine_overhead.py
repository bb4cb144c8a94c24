"""What the engine costs per trial, with an evaluation that does nothing.

Prints, for each executor: seconds until the first outcome (start-up), and seconds per trial after it. Run it on a quiet
machine; the figures are whole-engine times: asking the sampler, the ledger's fsyncs, hand-over and reports included.

    python benchmarks/engine_overhead.py [--trials 100] [--repeats 3] [--executors ray,processes,in-process]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from crossvit_core.recipe import TrainRecipe
from results.records import Finished
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
EXECUTORS: dict[str, Executor] = {
    "ray": RayExecutor(2, evaluate=EVALUATE),
    "processes": ProcessExecutor(2, EVALUATE),
    "in-process": InProcessExecutor(EVALUATE),
}


def run_once(executor: Executor, trials: int, sampler: str) -> tuple[float, float]:
    """(seconds to the first outcome, seconds per trial after it) of a study of trials that do nothing."""
    objectives = find_objectives(("val_accuracy", "macs"))
    searcher = OptunaSearcher(load_space("small").space, objectives, sampler=sampler, trials=trials, seed=0)
    with tempfile.TemporaryDirectory() as folder, StudyStore.create(Path(folder) / "study", {}) as store:
        start = time.time()
        executor.run(Session(store, searcher, trials=trials, seed=0), Plan(TrainRecipe(), Path("unused"), None))
        ends = [event.time for event in store.events() if isinstance(event, Finished)]
    return ends[0] - start, (ends[-1] - ends[0]) / (trials - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sampler", default="random")
    parser.add_argument("--executors", default=",".join(EXECUTORS))
    options = parser.parse_args()
    # Interleaved, so that a machine that changes its speed changes it for all.
    names = options.executors.split(",")
    runs = {name: [] for name in names}
    for _ in range(options.repeats):
        for name in names:
            runs[name].append(run_once(EXECUTORS[name], options.trials, options.sampler))
    print(
        f"{options.trials} trials of no work, sampler {options.sampler}, median (min to max) of {options.repeats} runs"
    )
    for name, pairs in runs.items():
        for label, values in zip(("first outcome, s", "per trial, ms"), zip(*pairs)):
            scaled = [value * (1000 if "ms" in label else 1) for value in values]
            print(
                f"  {name:<11} {label:<17} {statistics.median(scaled):7.2f}  ({min(scaled):.2f} to {max(scaled):.2f})"
            )


if __name__ == "__main__":
    main()
