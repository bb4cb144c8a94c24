"""Architectures that were trained more than once: their runs folded into one row, with the spread between them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from results.metrics import ACCURACY, COSTS

RUNS, SPREAD = "runs", "accuracy_sd"
_RETRAIN_SUFFIX = "-retrain"


def retrain_dir(study_dir: Path) -> Path:
    """Where the finalists of a study are trained again: a study of its own beside it."""
    return study_dir.with_name(study_dir.name + _RETRAIN_SUFFIX)


def fold_repeats(frame: pd.DataFrame) -> pd.DataFrame:
    """One row an architecture among the trials that ended ``ok``; all other trials stay as they are.

    The row is that of the architecture's first trial, with the mean accuracy over its runs and the median of each cost.
    Two columns are added: ``runs``, and ``accuracy_sd``, the standard deviation between runs (NaN for a single one).
    A run whose accuracy is not finite does not count. Time and memory are linear in the trials.
    """
    folded = frame.assign(**{RUNS: 1, SPREAD: float("nan")})
    usable = (frame["status"] == "ok") & frame[ACCURACY].abs().lt(float("inf")) & (frame["arch_key"] != "")
    repeated = usable & frame["arch_key"].where(usable).duplicated(keep=False)
    if not repeated.any():
        return folded
    costs = [name for name in COSTS if name in frame]
    groups = frame.loc[repeated, ["arch_key", ACCURACY, *costs]].groupby("arch_key", sort=False)
    summary = (
        groups[costs]
        .median()
        .assign(**{ACCURACY: groups[ACCURACY].mean(), RUNS: groups.size(), SPREAD: groups[ACCURACY].std()})
    )
    later = repeated & frame["arch_key"].where(repeated).duplicated()
    first = folded[repeated & ~later].drop(columns=list(summary.columns))
    rows = first.join(summary, on="arch_key")[folded.columns]
    return pd.concat([folded[~repeated], rows]).sort_index()
