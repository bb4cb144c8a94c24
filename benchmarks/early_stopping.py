"""Early stopping rules at equal total epochs: what the fully trained networks are worth, and which were killed wrongly.

On a synthetic model of learning curves that cross (large networks learn longer and end higher), or on the curves of a
table of real trainings (benchmarks/crossbench). Every run is a session with a real sampler; only training is replaced.

    python -m benchmarks.early_stopping [--table PATH] [--seeds 10] [--samplers random,tpe] [--trials 40] ...

Printed for each sampler and rule: hypervolume of the networks trained to the end (true accuracy, without the noise that
the search sees; log10 of FLOPs below the space's largest), its gain on the same seed without early stopping (mean and
standard deviation); trials asked and trained to the end; the FLOPs range of their front; and, pooled over the seeds,
how many members of the true front of all that was asked were stopped, by thirds of FLOPs.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.crossbench.replay import MemoryStore
from benchmarks.crossbench.table import Table
from benchmarks.learning_curves import Proxy, Replayed, Source, Training
from results.pareto import Array, hypervolume, pareto_mask
from results.records import Finished, Rung
from search.objectives import Objective, find_objectives
from search.optuna_searcher import OptunaSearcher
from search.outcomes import stopped_outcome
from search.session import Session
from search.stopping import RULES, Stopping, StoppingRule, make_rule
from search.trial import Trial

TOLD = ("pruned", "ignored", "expected")
THIRDS = ("small", "middle", "large")
NO_LIMIT = 1_000_000


class ToldSearcher(OptunaSearcher):
    """Tells the sampler of a stopped trial as a bad one, not at all, or as one that finished as expected."""

    told = "pruned"

    def tell(self, finished: Finished) -> None:
        if finished.status == "stopped" and self.told != "pruned":
            expected = finished.metrics.get("expected_accuracy", finished.metrics["val_accuracy"])
            as_ok = dataclasses.replace(finished, status="ok", metrics={**finished.metrics, "val_accuracy": expected})
            finished = as_ok if self.told == "expected" else dataclasses.replace(finished, status="lost")
        super().tell(finished)


@dataclass(frozen=True)
class Score:
    """What one run came to."""

    hypervolume: float
    asked: int
    full: int
    front_macs: tuple[float, float]
    front: tuple[int, ...]
    killed: tuple[int, ...]


class Run:
    """One search: trials until ``budget`` epochs are spent. One that the end of the budget cuts is not counted."""

    def __init__(self, source: Source, session: Session, rungs: Sequence[int], budget: int) -> None:
        self._source = source
        self._session = session
        self._rungs = rungs
        self._left = budget
        self.trained: dict[int, Training] = {}

    def drive(self) -> None:
        while self._left > 0 and (trial := self._session.next_trial()) is not None:
            training = self._source.train(trial.arch)
            if training is None:
                self._session.record(_outcome(trial, "infeasible", {}))
            else:
                self._evaluate(trial, training)

    def _evaluate(self, trial: Trial, training: Training) -> None:
        spent = 0
        for epoch in self._rungs:
            if self._left < epoch:
                break
            metrics = {**training.metrics, "val_accuracy": training.curve[epoch - 1]}
            rung = Rung(trial=trial.number, epoch=epoch, metrics=metrics, decision="continue")
            spent = epoch
            if self._session.report(rung) == "stop":
                self._session.record(stopped_outcome(trial, rung, 0.0, "simulated"))
                self.trained[trial.number] = training
                break
        else:
            spent = len(training.curve)
            if spent <= self._left:
                final = {**training.metrics, "val_accuracy": training.curve[-1], "epochs": spent}
                self._session.record(_outcome(trial, "ok", final))
                self.trained[trial.number] = training
        self._left -= max(spent, 1) if trial.number in self.trained else self._left


def search(
    source: Source, rule: StoppingRule, rungs: Sequence[int], objectives: Sequence[Objective], asked: argparse.Namespace
) -> tuple[Session, dict[int, Training]]:
    searcher = ToldSearcher(source.space, objectives, sampler=asked.sampler, trials=asked.trials, seed=asked.seed)
    searcher.told = asked.told
    session = Session(MemoryStore(), searcher, trials=NO_LIMIT, seed=asked.seed, stopping=rule)
    run = Run(source, session, rungs, asked.trials * source.epochs)
    run.drive()
    return session, run.trained


def score(session: Session, trained: Mapping[int, Training], objectives: Sequence[Objective], limit: float) -> Score:
    outcomes = [outcome for outcome in session.outcomes if outcome.trial in trained]
    full = np.array([outcome.status == "ok" for outcome in outcomes])
    macs = np.array([math.log10(outcome.metrics["macs"]) for outcome in outcomes])
    truth = np.array([trained[outcome.trial].truth for outcome in outcomes])
    plane = np.column_stack([1.0 - truth, macs])
    on_front = pareto_mask(np.column_stack([1.0 - truth, _costs(outcomes, objectives)]))
    thirds = np.searchsorted(np.quantile(macs, [1 / 3, 2 / 3]), macs, side="right")
    ends = macs[full][pareto_mask(plane[full])]
    return Score(
        hypervolume=hypervolume(plane[full], [1.0, limit]),
        asked=len(outcomes),
        full=int(full.sum()),
        front_macs=(10 ** float(ends.min()), 10 ** float(ends.max())),
        front=_by_third(on_front, thirds),
        killed=_by_third(on_front & ~full, thirds),
    )


def _costs(outcomes: Sequence[Finished], objectives: Sequence[Objective]) -> Array:
    costs = [o for o in objectives if o.metric != "val_accuracy"]
    return np.array([[o.loss(outcome.metrics) or 0.0 for o in costs] for outcome in outcomes])


def _by_third(mask: Array, thirds: Array) -> tuple[int, ...]:
    return tuple(int((mask & (thirds == third)).sum()) for third in range(3))


def _outcome(trial: Trial, status: str, metrics: Mapping[str, float]) -> Finished:
    return Finished(
        trial=trial.number,
        status=status,  # type: ignore[arg-type]
        arch_key=trial.arch_key,
        arch=trial.arch.to_dict(),
        seed=trial.seed,
        seconds=0.0,
        device="simulated",
        metrics=dict(metrics),
    )


def describe(name: str, scores: Sequence[Score], baseline: Sequence[Score]) -> str:
    """One line of the table; the gain is over the run of the same seed without early stopping."""
    gains = [one.hypervolume / none.hypervolume - 1.0 for one, none in zip(scores, baseline)] or [0.0]
    spread = statistics.stdev(gains) if len(gains) > 1 else 0.0
    gain = f"{statistics.fmean(gains):+6.1%} ± {spread:5.1%}" if baseline else ""
    asked, full = (statistics.fmean(getattr(score, field) for score in scores) for field in ("asked", "full"))
    low, high = (statistics.median(score.front_macs[end] for score in scores) / 1e6 for end in (0, 1))
    front, killed = (np.sum([getattr(score, field) for score in scores], axis=0) for field in ("front", "killed"))
    parts = "  ".join(f"{k:3d}/{n:<4d}" for k, n in zip(killed, front))
    share = killed.sum() / front.sum()
    return (
        f"  {name:<20} {statistics.fmean(score.hypervolume for score in scores):11.4f}  {gain:>15}  "
        f"{asked:5.0f} /{full:4.0f}  "
        f"{low:6.3f} to {high:6.3f}  {parts}  {share:6.1%}"
    )


def main() -> None:
    options = _parse()
    objectives = find_objectives(tuple(options.objectives.split(",")))
    table = Table.load(options.table) if options.table else None
    kind = options.table.name if table else "synthetic curves that cross"
    print(f"{kind}; objectives {options.objectives}; {options.trials} full trainings' epochs; {options.seeds} seeds")
    header = f"{'sampler, rule':<20} hypervolume  gain on none    asked / full  front's MFLOPs    "
    print(f"  {header} killed of front: {', '.join(THIRDS)}")
    for sampler in options.samplers.split(","):
        baseline: list[Score] = []
        for rule in options.rules.split(","):
            start = time.perf_counter()
            scores = []
            for seed in range(options.seeds):
                source: Source = Replayed(table, seed) if table else Proxy(seed)
                stopping = Stopping(rule, max_killed=options.max_killed, eta=options.eta)
                built = make_rule(stopping, objectives, source.epochs)
                asked = argparse.Namespace(sampler=sampler, trials=options.trials, seed=seed, told=options.told)
                session, trained = search(source, built, stopping.epochs_of(source.epochs), objectives, asked)
                scores.append(score(session, trained, objectives, source.log_macs[1]))
            baseline = scores if rule == "none" else baseline
            line = describe(f"{sampler}, {rule}", scores, baseline)
            print(line, f" {time.perf_counter() - start:5.0f} s", flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, help="a table of crossbench; without it, synthetic curves")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=40, help="the budget, in trainings to the end")
    parser.add_argument("--samplers", default="random,tpe")
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--objectives", default="val_accuracy,macs")
    parser.add_argument("--told", choices=TOLD, default="pruned", help="what a sampler is told of a stopped trial")
    parser.add_argument("--max-killed", type=float, default=Stopping.max_killed)
    parser.add_argument("--eta", type=int, default=Stopping.eta)
    return parser.parse_args()


if __name__ == "__main__":
    main()
