"""Race search methods on the table of CrossBench, where every training is known: seconds instead of days.

Writes summary.csv, curves.csv, plot.svg and README.md. Runs that are done are kept beside the studies and used again,
as long as neither the table nor the code has changed: a killed race goes on.

    python benchmarks/search_quality.py [--seeds 20] [--max-macs 3000000,1000000] [--methods 'tpe*,random*']
        [--hub-registry PATH] [--jobs 1]
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import hashlib
import importlib.metadata
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.crossbench.race import METHODS, MethodUnavailableError, Run, Score, Setting, run_method, score_run
from benchmarks.crossbench.race_report import write_report
from benchmarks.crossbench.summary import RANDOM, curves, random_scores, summarise
from benchmarks.crossbench.table import DEFAULT_PATH, Table, TableError
from crossvit_core.config import suggest
from results.store import DEFAULT_RUNS_DIR

ROOT = Path(__file__).parents[1]
DEFAULT_OUT = Path("results/reference/search_quality")


@dataclass(frozen=True)
class Task:
    """One run to be made."""

    table_path: Path
    hub_registry: Path
    method: str
    max_macs: float
    seed: int
    trials: int

    def identity(self, digest: str) -> dict[str, Any]:
        """What a kept run must agree in to be used again."""
        names = ("method", "max_macs", "seed", "trials")
        return {"digest": digest, **{name: getattr(self, name) for name in names}}


def run_task(task: Task) -> Run | str:
    """The run, or why there can be none."""
    try:
        return run_method(
            _setting(task.table_path, task.max_macs, task.hub_registry), task.method, task.seed, task.trials
        )
    except MethodUnavailableError as error:
        return str(error)


@functools.lru_cache(maxsize=4)
def _setting(table_path: Path, max_macs: float, hub_registry: Path) -> Setting:
    return Setting(Table.load(table_path), max_macs, hub_registry)


class KeptRuns:
    """Runs of earlier calls, one JSON object a line."""

    def __init__(self, path: Path, digest: str) -> None:
        self._path, self._digest = path, digest
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self._runs = {json.dumps(line["task"]): Run.from_dict(line["run"]) for line in _whole_lines(lines)}

    def get(self, task: Task) -> Run | None:
        return self._runs.get(json.dumps(task.identity(self._digest)))

    def add(self, task: Task, run: Run) -> None:
        identity = task.identity(self._digest)
        self._runs[json.dumps(identity)] = run
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"task": identity, "run": run.to_dict()}) + "\n")


def run_all(tasks: list[Task], kept: KeptRuns, jobs: int) -> dict[tuple[str, float], list[Run]]:
    """The runs of every method and limit; a method that is unavailable has none, and one line says so."""
    runs: dict[tuple[str, float], list[Run]] = {(task.method, task.max_macs): [] for task in tasks}
    missing: dict[str, str] = {}
    start = time.perf_counter()
    for done, (task, run) in enumerate(_results(tasks, kept, jobs), start=1):
        if isinstance(run, str):
            missing[task.method] = run
        else:
            runs[(task.method, task.max_macs)].append(run)
        if done % 20 == 0 or done == len(tasks):
            print(f"  {done} of {len(tasks)} runs, {time.perf_counter() - start:.0f} s", flush=True)
    for method, reason in missing.items():
        print(f"  {method}: not raced, {reason}", flush=True)
    return {place: sorted(found, key=lambda run: run.seed) for place, found in runs.items()}


def _results(tasks: list[Task], kept: KeptRuns, jobs: int) -> Iterator[tuple[Task, Run | str]]:
    new = [task for task in tasks if kept.get(task) is None]
    yield from ((task, run) for task in tasks if (run := kept.get(task)) is not None)
    for task, result in _fresh(new, jobs):
        if isinstance(result, Run):
            kept.add(task, result)
        yield task, result


def _fresh(tasks: list[Task], jobs: int) -> Iterator[tuple[Task, Run | str]]:
    if jobs == 1:
        yield from ((task, run_task(task)) for task in tasks)
        return
    with ProcessPoolExecutor(jobs) as pool:
        waiting = {pool.submit(run_task, task): task for task in tasks}
        yield from ((waiting[future], future.result()) for future in as_completed(waiting))


def _whole_lines(lines: list[str]) -> Iterator[dict[str, Any]]:
    """A torn last line, of a race that was killed, is passed over."""
    for line in lines:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def source_digest(table_path: Path) -> str:
    """A digest of everything that a run's outcome depends on."""
    files = [*(ROOT / "search").glob("*.py"), *(ROOT / "space").glob("*.py"), *(ROOT / "crossvit_core").glob("co*.py")]
    raced = [ROOT / "benchmarks" / "crossbench" / f"{name}.py" for name in ("replay", "race", "plain_optuna", "table")]
    digest = hashlib.sha256(importlib.metadata.version("optuna").encode())
    for path in [*sorted(files), *raced, table_path]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def chosen_methods(patterns: str) -> list[str]:
    """The methods that match one of the patterns. Raises ValueError for a pattern that none does."""
    chosen = []
    for pattern in patterns.split(","):
        found = [name for name in METHODS if fnmatch.fnmatchcase(name, pattern.strip())]
        if not found:
            raise ValueError(f"no method matches {pattern!r}; {suggest(pattern, METHODS)}")
        chosen += found
    return list(dict.fromkeys(chosen))


def make_tasks(options: argparse.Namespace, limits: list[float]) -> list[Task]:
    return [
        Task(options.table, options.hub_registry, method, limit, seed, options.trials)
        for method in chosen_methods(options.methods)
        for limit in limits
        for seed in range(options.seeds)
    ]


def _race(options: argparse.Namespace) -> None:
    start = time.perf_counter()
    limits = [float(text) for text in options.max_macs.split(",")]
    table = Table.load(options.table)
    digest = source_digest(options.table)
    tasks = make_tasks(options, limits)
    runs = run_all(tasks, KeptRuns(options.kept, digest), options.jobs)
    summaries, lines = [], []
    for limit in limits:
        truth = table.truth(max_macs=limit)
        scores: dict[str, list[Score]] = {RANDOM: random_scores(truth, options.permutations)}
        scores |= {
            m: [score_run(run, truth) for run in found] for (m, at), found in runs.items() if at == limit and found
        }
        summaries.append(summarise(scores, limit))
        lines.append(curves(scores, limit))
    unavailable = sorted({method for (method, _), found in runs.items() if not found})
    about = {name: getattr(options, name) for name in ("seeds", "trials", "permutations")}
    about |= {"seconds": time.perf_counter() - start, "digest": digest}
    write_report(options.out, table, pd.concat(summaries), pd.concat(lines), unavailable, about)
    print(f"{options.out}: {sum(len(found) for found in runs.values())} runs, {about['seconds']:.0f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description="Race search methods on the table of CrossBench.")
    parser.add_argument("--table", type=Path, default=DEFAULT_PATH, help="the table")
    parser.add_argument("--seeds", type=int, default=20, help="runs of each method (20)")
    parser.add_argument("--trials", type=int, default=435, help="proposals of each run (435: the whole space)")
    parser.add_argument("--max-macs", default="3000000,1000000", help="limits to race under")
    parser.add_argument("--methods", default="*", help="patterns of methods, with commas between")
    parser.add_argument("--hub-registry", type=Path, default=Path("optunahub-registry"), help="checkout of OptunaHub's")
    parser.add_argument("--permutations", type=int, default=400, help="random searches without replacement (400)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    parser.add_argument("--kept", type=Path, default=DEFAULT_RUNS_DIR / ".search_quality.jsonl", help="file of runs")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder to write")
    options = parser.parse_args()
    try:
        _race(options)
    except (TableError, ValueError) as error:
        print(f"search_quality: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("search_quality: stopped; repeat the command to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
