"""What the runs of a race say together: one row a method, and curves of the share of the true hypervolume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.crossbench.race import Score
from benchmarks.crossbench.random_search import shuffled_searches
from benchmarks.crossbench.table import SIZES, Truth
from results.pareto import Array

RANDOM = "random without replacement"
NSGA2 = ("optuna nsga2_50", "optuna nsga2_12")
TARGETS = (0.90, 0.95, 0.99)

_BOOTSTRAPS = 1000
_CURVE_POINTS = 60
_ENDS = ("", "_low", "_high")

# Of each method and target: evaluations and device-seconds of every run until it was reached, (2, num_runs).
Reached = Mapping[str, Mapping[float, Array]]


def random_scores(truth: Truth, permutations: int) -> list[Score]:
    """Random search as runs to set the others against: uniform, never the same architecture twice, never stopped."""
    histories, seconds = shuffled_searches(truth, permutations, seed=0)
    nothing = np.zeros(len(SIZES), dtype=int)
    return [
        Score(
            shares=history / truth.hypervolume,
            seconds=spent,
            completed=len(history),
            stopped=0,
            proposed=len(history),
            over_limit=0,
            duplicates=0,
            met=nothing,
            killed=nothing,
        )
        for history, spent in zip(histories, seconds)
    ]


def summarise(scores: Mapping[str, Sequence[Score]], max_macs: float) -> pd.DataFrame:
    """One row a method. Quartiles are of the runs; what a run never reached counts as infinite.

    Columns: runs, evaluations (median), completed, stopped_share, final_share (median), for each target T in percent
    reached_T (share of runs), evaluations_T and seconds_T with _q25 and _q75, times_random_T (seconds over the seconds
    of random search, of medians, with a 95 % bootstrap interval _low and _high) and, of evaluations, the same for each
    of ``NSGA2`` that was raced, killed_small and so on, killed_all (of the true front's members that were begun, the
    share never trained to the end), duplicates_share and over_limit_share (of proposals).
    """
    reached = {
        method: {t: np.array([reach(run, t) for run in runs]).T for t in TARGETS} for method, runs in scores.items()
    }
    return pd.DataFrame([_row(method, runs, reached, max_macs) for method, runs in scores.items()])


def curves(scores: Mapping[str, Sequence[Score]], max_macs: float) -> pd.DataFrame:
    """The share of the true hypervolume along both axes: columns method, max_macs, axis, x, q25, median, q75.

    Axes are 'evaluations' (trainings begun) and 'device_seconds'. A run that is over keeps what it had.
    """
    longest = max(len(score.shares) for score in scores[RANDOM])
    total_s = float(np.median([score.seconds[-1] for score in scores[RANDOM]]))
    grids = {
        "evaluations": np.unique(np.geomspace(1, longest, _CURVE_POINTS).round()),
        "device_seconds": np.geomspace(total_s / 500, total_s, _CURVE_POINTS).round(1),
    }
    parts = [
        _curve(runs, axis, grid).assign(method=method, max_macs=max_macs, axis=axis)
        for method, runs in scores.items()
        for axis, grid in grids.items()
    ]
    return pd.concat(parts, ignore_index=True)[["method", "max_macs", "axis", "x", "q25", "median", "q75"]]


def reach(score: Score, target: float) -> tuple[float, float]:
    """Evaluations and device-seconds until a share of the true hypervolume is held; infinite if it never is."""
    reached = np.flatnonzero(score.shares >= target - 1e-12)
    if len(reached) == 0:
        return np.inf, np.inf
    return float(reached[0] + 1), float(score.seconds[reached[0]])


def ratio_of_medians(values: Array, others: Array) -> tuple[float, float, float]:
    """Median over median, with the 2.5 and 97.5 % points of its bootstrap distribution; infinite if never reached."""
    rng = np.random.default_rng(0)
    tops, bottoms = (
        np.array(_quantile(rng.choice(sample, (_BOOTSTRAPS, len(sample))), 0.5, axis=1)) for sample in (values, others)
    )
    ratios = _ratios(tops, bottoms)
    point = _ratios(np.array(_quantile(values, 0.5)), np.array(_quantile(others, 0.5)))
    return float(point), float(_quantile(ratios, 0.025)), float(_quantile(ratios, 0.975))


def _ratios(tops: Array, bottoms: Array) -> Array:
    """0 where only the others never get there; infinite where these do not, whatever the others do."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isinf(tops), np.inf, tops / bottoms)


def _row(method: str, runs: Sequence[Score], reached: Reached, max_macs: float) -> dict[str, Any]:
    evaluations = sum(len(run.shares) for run in runs)
    proposed = sum(run.proposed for run in runs)
    row: dict[str, Any] = {
        "method": method,
        "max_macs": max_macs,
        "runs": len(runs),
        "evaluations": float(np.median([len(run.shares) for run in runs])),
        "completed": float(np.median([run.completed for run in runs])),
        "stopped_share": sum(run.stopped for run in runs) / evaluations,
        "final_share": float(np.median([run.shares[-1] for run in runs])),
    }
    for target in TARGETS:
        row |= _target_columns(method, reached, target)
    met, killed = (np.sum([getattr(run, name) for run in runs], axis=0) for name in ("met", "killed"))
    for size, begun, lost in zip(SIZES, met, killed):
        row[f"killed_{size}"] = lost / begun if begun else np.nan
    row["killed_all"] = killed.sum() / met.sum() if met.sum() else np.nan
    row["duplicates_share"] = sum(run.duplicates for run in runs) / proposed
    row["over_limit_share"] = sum(run.over_limit for run in runs) / proposed
    return row


def _target_columns(method: str, reached: Reached, target: float) -> dict[str, float]:
    name = f"{100 * target:.0f}"
    evaluations, seconds = reached[method][target]
    columns = {f"reached_{name}": float(np.isfinite(evaluations).mean())}
    for label, values in (("evaluations", evaluations), ("seconds", seconds)):
        for suffix, share in (("", 0.5), ("_q25", 0.25), ("_q75", 0.75)):
            columns[f"{label}_{name}{suffix}"] = float(_quantile(values, share))
    ratios = {f"times_random_{name}": ratio_of_medians(seconds, reached[RANDOM][target][1])}
    for rival in NSGA2:
        if rival in reached:
            ratios[f"times_{rival.split()[1]}_{name}"] = ratio_of_medians(evaluations, reached[rival][target][0])
    return columns | {f"{label}{end}": value for label, three in ratios.items() for end, value in zip(_ENDS, three)}


def _curve(runs: Sequence[Score], axis: str, grid: Array) -> pd.DataFrame:
    held = np.array([_held(run, axis, grid) for run in runs])
    lower, middle, upper = (_quantile(held, share, axis=0) for share in (0.25, 0.5, 0.75))
    return pd.DataFrame({"x": grid, "q25": lower, "median": middle, "q75": upper}).round(5)


def _held(run: Score, axis: str, grid: Array) -> Array:
    """The share that a run holds at each place of an axis."""
    at = run.seconds if axis == "device_seconds" else np.arange(1, len(run.shares) + 1)
    place = np.searchsorted(at, grid, side="right")
    return np.concatenate([[0.0], run.shares])[place]


def _quantile(values: Any, share: float, axis: int | None = None) -> Any:
    """A quantile that is one of the values, so that infinite ones make no trouble."""
    return np.quantile(values, share, axis=axis, method="inverted_cdf")
