"""Several studies on one page: what each found, their fronts in one plot, their hypervolume from one corner."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import moocore
import numpy as np
import pandas as pd

from results.findings import Findings, load_findings
from results.frame import front
from results.metrics import ACCURACY, Metric, cost_metric
from results.pareto import Array, hypervolume_history, reference_point
from results.records import asked_objectives
from results.store import StoreError, check_study_name

REFERENCE_FILE = "reference.json"
MIN_SEEDS = 2


class Run(NamedTuple):
    """A study in a comparison: its front as (cost, accuracy) and its hypervolume after each finished trial."""

    findings: Findings
    name: str
    members: pd.DataFrame
    volumes: Array


class Comparison(NamedTuple):
    """Studies over one cost, and the corner that all hypervolumes are measured from: (error, log10 of the cost).

    ``groups`` are studies that differ in their seed alone. ``folder`` is where the comparison is written.
    """

    runs: list[Run]
    cost: Metric
    reference: Array
    groups: dict[str, list[Run]]
    folder: Path


def load_comparison(runs_dir: Path, names: Sequence[str]) -> Comparison:
    """Read the studies and measure them alike. Raises StoreError for a study that is missing or named twice."""
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise StoreError(f"study {twice[0]!r} is named twice; name each study to compare once")
    found = [load_findings(runs_dir / check_study_name(name)) for name in names]
    cost = _common_cost(found)
    folder = comparison_dir(runs_dir, names)
    kept = read_reference(folder, cost)
    corner = _find_reference(found, cost) if kept is None else kept
    runs = [Run(one, name, _front(one, cost), _volumes(one, cost, corner)) for one, name in zip(found, names)]
    return Comparison(runs, cost, corner, _seed_groups(runs), folder)


def comparison_dir(runs_dir: Path, names: Sequence[str]) -> Path:
    """The folder of a comparison: the same studies in any order have one, and no others: no name has a '+' in it."""
    name = "compare-" + "+".join(sorted(names))
    if len(name) > 120:  # file systems take 255 bytes
        name = f"{name[:90]}-and-{len(names)}-in-all-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    return runs_dir / name


def read_reference(folder: Path, cost: Metric) -> Array | None:
    """The corner that was written down for this comparison, if one was for this cost."""
    path = folder / REFERENCE_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        corner = np.array([float(data["error"]), float(data["log10_cost"])])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged ({error}); remove it to choose a reference anew") from error
    return corner if data.get("cost") == cost.name and np.isfinite(corner).all() else None


def encode_reference(comparison: Comparison) -> str:
    """The corner, for the disk."""
    error, log_cost = (float(value) for value in comparison.reference)
    return json.dumps({"cost": comparison.cost.name, "error": error, "log10_cost": log_cost}, indent=1) + "\n"


def attainment(group: Sequence[Run], cost: Metric) -> dict[int, Array]:
    """Empirical attainment surfaces of studies that differ in their seed: percentage to (num_points, 2).

    The columns are the cost and the accuracy (percent). What the p-surface bounds was reached by p percent of the
    studies (Fonseca and Fleming 1996): 50 is the median outcome, the smallest the best, 100 what all reached.
    """
    fronts = [_minimised(run.members, cost) for run in group]
    sets = np.repeat(np.arange(1, len(fronts) + 1), [len(one) for one in fronts])
    shares = sorted({min(50, round(100 / len(group))), 50, 100})
    percentiles = [_percentile(share, len(group)) for share in shares]
    found = moocore.eaf(np.vstack(fronts), sets=sets, percentiles=percentiles)
    sign = -1.0 if cost.maximise else 1.0
    surfaces = {share: found[np.isclose(found[:, 2], _percentile(share, len(group)))] for share in shares}
    return {share: np.column_stack([sign * rows[:, 1], -100 * rows[:, 0]]) for share, rows in surfaces.items()}


def _percentile(share: int, count: int) -> float:
    return 100 / count if share < 50 else float(share)


def _minimised(members: pd.DataFrame, cost: Metric) -> Array:
    values = members[[ACCURACY, cost.name]].to_numpy(dtype=float)
    return values * np.array([-1.0, -1.0 if cost.maximise else 1.0])


def _common_cost(found: Sequence[Findings]) -> Metric:
    """The cost of all, or FLOPs, which every study counts."""
    names = {one.cost.name for one in found}
    return cost_metric(names.pop() if len(names) == 1 else "macs")


def _front(findings: Findings, cost: Metric) -> pd.DataFrame:
    """Of a cost of zero there is no logarithm: it has no volume and no place in the plots."""
    points = findings.points
    return front(points[points[cost.name] > 0], cost.name)


def _points(findings: Findings, cost: Metric) -> Array:
    rows = findings.frame[findings.frame["order"] >= 0].sort_values("order")
    usable = (rows["status"] == "ok").to_numpy()
    error = np.where(usable, 1.0 - rows[ACCURACY].to_numpy(dtype=float), np.nan)
    return np.column_stack([error, [cost.log_cost(value) for value in rows[cost.name].to_numpy(dtype=float)]])


def _find_reference(found: Sequence[Findings], cost: Metric) -> Array:
    """No accuracy, and the loosest limit on the cost where every study has one, else a decade beyond the worst."""
    limits = [one.limit(cost.name) for one in found]
    bounds = [math.nan if limit is None else cost.log_cost(limit) for limit in limits]
    bound = max(bounds) if all(math.isfinite(bound) for bound in bounds) else None
    return reference_point(np.vstack([_points(one, cost) for one in found]), (1.0, bound))


def _volumes(findings: Findings, cost: Metric, corner: Array) -> Array:
    return hypervolume_history(_points(findings, cost), corner)


def _seed_groups(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Studies that were asked for alike but for the seed, and have found something; groups of one are left out."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if not run.members.empty:
            groups.setdefault(_identity(run.findings.study), []).append(run)
    alike = [group for group in groups.values() if len(group) >= MIN_SEEDS]
    return {f"{group[0].name} and {len(group) - 1} more": group for group in alike}


def _identity(study: dict[str, Any]) -> str:
    asked = ("space", "data", "objectives", "recipe", "sampler", "stopping", "trials", "rungs")
    parts = (*asked, "measure", "budget", "round_size")  # with limits on what is measured
    study = {**study, "objectives": asked_objectives(study)}
    return json.dumps({part: study.get(part) for part in parts}, sort_keys=True)
