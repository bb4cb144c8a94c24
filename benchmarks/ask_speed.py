"""How long asking, telling and resuming take in a study that has many finished trials already.

For every sampler and size a ledger of that many finished trials is written (random architectures of the space, accuracy
by formula: nothing is trained), a session is opened on it, and a few more trials are asked and told. Prints medians and
95th percentiles; an ask is ``Session.next_trial``, a tell is ``Session.record``, both with their fsync. On a machine
that others use, ``--clock cpu`` counts processor time instead of waiting.

    python benchmarks/ask_speed.py [--samplers random,tpe,nsga2,nsga3] [--sizes 100,1000,10000] [--asks 40]
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from crossvit_core.recipe import TrainRecipe
from results.records import Asked, Event, Finished, encode_event
from results.store import StudyStore
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
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def finished_of(trial: Trial) -> Finished:
    return next(event for event in EVALUATE(trial, PLAN) if isinstance(event, Finished))


def past_trials(space: Space, count: int) -> Iterator[Trial]:
    """Distinct random architectures."""
    rng, seen = np.random.default_rng(0), set()
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
    import json

    StudyStore.create(path, {}).close()
    with open(path / "ledger.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(encode_event(event)) + "\n" for event in events)


def measure(
    space: Space, sampler: str, trials: list[Trial], asks: int, folder: Path, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each ask and tell, and of the restart."""
    path = folder / f"{sampler}-{len(trials)}"
    write_ledger(path, past_events(trials, sampler))
    seconds: dict[str, list[float]] = {"ask": [], "tell": [], "restart": []}
    with StudyStore.open(path) as store:
        start = clock()
        searcher = OptunaSearcher(space, OBJECTIVES, sampler=sampler, trials=len(trials) + asks, seed=0)
        session = Session(store, searcher, trials=len(trials) + asks, seed=0)
        seconds["restart"].append(clock() - start)
        for _ in itertools.repeat(None, asks):
            start = clock()
            trial = session.next_trial()
            seconds["ask"].append(clock() - start)
            if trial is None:
                raise RuntimeError(f"nothing to ask: {session.stop_reason}")
            outcome = finished_of(trial)
            start = clock()
            session.record(outcome)
            seconds["tell"].append(clock() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samplers", default=",".join(name for name in SAMPLERS if name != "brute_force"))
    parser.add_argument("--sizes", default="100,1000,10000")
    parser.add_argument("--space", default="small")
    parser.add_argument("--asks", type=int, default=40)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    space = load_space(options.space).space
    sizes = [int(size) for size in options.sizes.split(",")]
    trials = list(past_trials(space, max(sizes)))
    print(f"space {options.space}, {options.asks} asks, load {os.getloadavg()[0]:.1f}")
    print(f"{options.clock} times in ms, restart in s")
    print(f"{'sampler':<12}{'finished':>9}{'ask':>9}{'p95':>9}{'first':>9}{'tell':>9}{'p95':>9}{'restart':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for sampler, size in itertools.product(options.samplers.split(","), sizes):
            seconds = measure(space, sampler, trials[:size], options.asks, Path(folder), CLOCKS[options.clock])
            ask, tell = (np.array(seconds[name]) * 1000 for name in ("ask", "tell"))
            figures = [np.median(ask), np.percentile(ask, 95), ask[0], np.median(tell), np.percentile(tell, 95)]
            cells = "".join(f"{figure:>9.1f}" for figure in figures)
            print(f"{sampler:<12}{size:>9}{cells}{seconds['restart'][0]:>9.2f}", flush=True)


if __name__ == "__main__":
    main()
