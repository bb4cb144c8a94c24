"""Architectures that were trained more than once: where, and their runs folded into one row with their spread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from results.metrics import ACCURACY, COSTS
from results.store import StudyStore

RUNS, SPREAD = "runs", "accuracy_sd"
_RETRAIN_SUFFIX = "-retrain"


def retrain_dir(study_dir: Path) -> Path:
    """Where the finalists of a study are trained again: a study of its own beside it.

    Any study may have that name; whether one is there that is a retraining, ``find_retraining`` says.
    """
    return study_dir.with_name(study_dir.name + _RETRAIN_SUFFIX)


def find_retraining(study_dir: Path) -> Path | None:
    """The folder of the study's retraining; None if there is none, or a study that only has its name.

    A retraining has on record whom it retrained, by the name that it had then. A study's record holds the name that it
    began with, so the two may be renamed and copied together.
    """
    path = retrain_dir(study_dir)
    return path if StudyStore.exists(path) and _retrained_by(path) in _names(study_dir) else None


def describe_stranger(study_dir: Path) -> str:
    """What is to be said of a study that has the name of this one's retraining and is none; empty if there is none."""
    path, name = retrain_dir(study_dir), study_dir.name
    if not StudyStore.exists(path) or find_retraining(study_dir) is not None:
        return ""
    other = _retrained_by(path)
    if other is None:
        return (
            f"study {path.name!r} is no retraining of {name!r} but a study of its own, so its runs do not count; "
            f"rename it to train finalists of {name!r} again"
        )
    return (
        f"study {path.name!r} is a retraining of {other!r}, not of {name!r}, so its runs do not count; if {name!r} was "
        f"called {other!r} then, write {name!r} for retrain_of into {path.name}/study.json, else rename it"
    )


def _retrained_by(path: Path) -> Any:
    return StudyStore.open_readonly(path).study.get("retrain_of")


def _names(study_dir: Path) -> list[Any]:
    """What the study is called, and what it was called when it began."""
    began_as = StudyStore.open_readonly(study_dir).study.get("name")
    return [name for name in (study_dir.name, began_as) if name is not None]


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
