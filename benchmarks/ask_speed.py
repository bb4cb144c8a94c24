"""How long asking, telling and resuming take in a study that has many finished trials already.

For every sampler and size a ledger of that many finished trials is written (random architectures of the space, accuracy
by formula: nothing is trained), a session is opened on it, and a few more trials are asked and told. An ask is
``Session.next_trial``, a tell is ``Session.record``, both with their fsync. Prints medians and 95th percentiles by the
clock on the wall and by processor time, which is the one to read on a machine that others use. ``--out`` keeps every
single time (times.csv) and what it ran on (environment.json); set OMP_NUM_THREADS=1 to compare with what is kept.

    python benchmarks/ask_speed.py [--samplers random,tpe,nsga2,nsga3] [--sizes 100,1000,10000] [--asks 40] [--out DIR]
"""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from crossvit_core.recipe import TrainRecipe
from results.records import Asked, Event, Finished, encode_event
from results.store import StudyStore
from search.environment import describe_environment
from search.objectives import find_objectives
from search.optuna_searcher import SAMPLERS, OptunaSearcher
from search.plan import Plan
from search.session import Session
from search.synthetic import SyntheticEvaluation
from search.trial import Trial, derive_seed
from space import Space, load_space

OBJECTIVES = find_objectives(("val_accuracy", "macs", "throughput_ips"))
PLAN = Plan(TrainRecipe(), Path("unused"), None)
EVALUATE = SyntheticEvaluation()
LARGEST_POPULATION = 24
GENERATIONS = {"nsga2": "NSGAIISampler:generation", "nsga3": "NSGAIIISampler:generation"}
T = TypeVar("T")


class Taken(NamedTuple):
    """How long one thing took: an 'ask', a 'tell' or the 'restart'."""

    sampler: str
    finished: int
    what: str
    wall_ms: float
    cpu_ms: float


def finished_of(trial: Trial) -> Finished:
    return next(event for event in EVALUATE(trial, PLAN) if isinstance(event, Finished))


def past_trials(space: Space, count: int) -> Iterator[Trial]:
    """Distinct random architectures."""
    rng = np.random.default_rng(0)
    seen: set[str] = set()
    while len(seen) < count:
        arch = space.sample(rng)
        key = arch.key()
        if key not in seen:
            number = len(seen)
            seen.add(key)
            yield Trial(number, arch, key, derive_seed(0, key))


def past_events(trials: list[Trial], sampler: str) -> Iterator[Event]:
    """The ledger of those trials; a genetic sampler finds its generations in it."""
    for trial in trials:
        hints = {GENERATIONS[sampler]: trial.number // LARGEST_POPULATION} if sampler in GENERATIONS else {}
        yield Asked(
            trial=trial.number,
            arch_key=trial.arch_key,
            arch=trial.arch.to_dict(),
            seed=trial.seed,
            source=sampler,
            hints=hints,
        )
        yield finished_of(trial)


def write_ledger(path: Path, events: Iterator[Event]) -> None:
    """As the store would, without an fsync a line."""
    StudyStore.create(path, {}).close()
    with open(path / "ledger.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(encode_event(event)) + "\n" for event in events)


class Stopwatch:
    """Times of one sampler in a study of one size."""

    def __init__(self, sampler: str, finished: int) -> None:
        self.times: list[Taken] = []
        self._labels = (sampler, finished)

    def call(self, what: str, work: Callable[[], T]) -> T:
        """Do the work, and note how long it took."""
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        wall_ms, cpu_ms = 1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu)
        self.times.append(Taken(*self._labels, what, round(wall_ms, 3), round(cpu_ms, 3)))
        return result


def measure(space: Space, sampler: str, trials: list[Trial], asks: int, folder: Path) -> list[Taken]:
    """Open a session on that many finished trials, then ask and tell a few more."""
    path = folder / f"{sampler}-{len(trials)}"
    write_ledger(path, past_events(trials, sampler))
    watch = Stopwatch(sampler, len(trials))
    with StudyStore.open(path) as store:
        session = watch.call("restart", lambda: open_session(store, space, sampler, len(trials) + asks))
        for _ in range(asks):
            trial = watch.call("ask", session.next_trial)
            if trial is None:
                raise RuntimeError(f"nothing to ask: {session.stop_reason}")
            outcome = finished_of(trial)
            watch.call("tell", functools.partial(session.record, outcome))
    return watch.times


def open_session(store: StudyStore, space: Space, sampler: str, trials: int) -> Session:
    searcher = OptunaSearcher(space, OBJECTIVES, sampler=sampler, trials=trials, seed=0)
    return Session(store, searcher, trials=trials, seed=0)


def print_row(times: list[Taken]) -> None:
    """Of one sampler and size: medians, 95th percentiles, and the first ask, which may set things up."""
    cells = []
    for clock in ("wall_ms", "cpu_ms"):
        ask, tell, restart = (
            [getattr(taken, clock) for taken in times if taken.what == what] for what in ("ask", "tell", "restart")
        )
        cells += [np.median(ask), np.percentile(ask, 95), ask[0], np.median(tell), restart[0] / 1000]
    row = "".join(f"{cell:>9.2f}" for cell in cells)
    print(f"{times[0].sampler:<9}{times[0].finished:>9}{row}", flush=True)


def keep(folder: Path, times: list[Taken]) -> None:
    """Called after every row: what is measured is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "times.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Taken._fields)
        writer.writerows(times)
    command = shlex.join(["python", "benchmarks/ask_speed.py", *sys.argv[1:]])
    load = {"load": [round(value, 1) for value in os.getloadavg()], "threads": os.environ.get("OMP_NUM_THREADS", "")}
    about = {**describe_environment(), "command": command, **load}
    (folder / "environment.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samplers", default=",".join(name for name in SAMPLERS if name != "brute_force"))
    parser.add_argument("--sizes", default="100,1000,10000")
    parser.add_argument("--space", default="small")
    parser.add_argument("--asks", type=int, default=40)
    parser.add_argument("--out", type=Path, help="folder to keep the times in")
    return parser.parse_args()


def main() -> None:
    options = read_options()
    space = load_space(options.space).space
    sizes = [int(size) for size in options.sizes.split(",")]
    trials = list(past_trials(space, max(sizes)))
    print(f"space {options.space}, {options.asks} asks, load {os.getloadavg()[0]:.1f}; ms, restart in s")
    names = ("ask", "p95", "first", "tell", "restart")
    print(f"{'':<18}{'wall':>9}{'':<36}{'cpu':>9}")
    print(f"{'sampler':<9}{'finished':>9}" + "".join(f"{name:>9}" for name in names * 2))
    times: list[Taken] = []
    with tempfile.TemporaryDirectory() as folder:
        for sampler, size in itertools.product(options.samplers.split(","), sizes):
            times += measure(space, sampler, trials[:size], options.asks, Path(folder))
            print_row([taken for taken in times if (taken.sampler, taken.finished) == (sampler, size)])
            if options.out is not None:
                keep(options.out, times)


if __name__ == "__main__":
    main()
