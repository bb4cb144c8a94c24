"""Who may be chosen: the trials that meet the hard limits, and of those the few worth training again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from results.frame import RUNNING
from results.metrics import ACCURACY
from results.records import Finished
from results.repeats import find_retraining
from results.selection import could_be_best, utility
from results.store import StudyStore
from results.units import percent, plural
from search.study_config import StudyConfigError
from space import Limit

MIN_FINALISTS, MAX_FINALISTS = 3, 5
DEFAULT_SEEDS = 3

_CAN_BE_TRAINED_AGAIN = ("ok", "stopped")


class SelectionError(StudyConfigError):
    """Nothing can be chosen as asked; the message says what stands in the way and what is nearest."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What was asked for. ``trials`` names the finalists, else they follow from the records."""

    limits: tuple[Limit, ...] = ()
    prefer: str = "accuracy"
    trials: tuple[int, ...] = ()
    max_finalists: int = MAX_FINALISTS


@dataclass(frozen=True)
class FreshRun:
    """A finalist trained again. ``run`` is its trial number in the retraining."""

    run: int
    seed: int
    status: str
    accuracy: float
    error: str = ""

    @property
    def is_scored(self) -> bool:
        return self.status == "ok" and math.isfinite(self.accuracy)


FreshRuns = dict[str, tuple[FreshRun, ...]]


def fresh_runs(study_dir: Path) -> FreshRuns:
    """What the study's retraining has on record, by architecture, those still to be trained included; or nothing."""
    path = find_retraining(study_dir)
    if path is None:
        return {}
    store = StudyStore.open_readonly(path)
    runs: dict[str, list[FreshRun]] = {key: [] for key in store.study.get("finalists", [])}
    for event in store.events():
        if isinstance(event, Finished):
            accuracy = event.metrics.get(ACCURACY, math.nan)
            run = FreshRun(event.trial, event.seed, event.status, accuracy, event.error)
            runs.setdefault(event.arch_key, []).append(run)
    return {key: tuple(sorted(found, key=lambda run: run.run)) for key, found in runs.items()}


@dataclass(frozen=True)
class Unfinished:
    """A retraining that was not carried to its end: ``to_do`` of its ``planned`` runs, ``seeds`` for each finalist."""

    to_do: int
    planned: int
    seeds: int


def find_unfinished(study_dir: Path) -> Unfinished | None:
    """How much of the study's retraining is still to do; None if there is nothing or none was begun."""
    path = find_retraining(study_dir)
    if path is None:
        return None
    store = StudyStore.open_readonly(path)
    finished = len({event.trial for event in store.events() if isinstance(event, Finished)})
    planned = int(store.study.get("trials", finished))
    seeds = int(store.study.get("seeds", DEFAULT_SEEDS))
    return Unfinished(planned - finished, planned, seeds) if finished < planned else None


def find_members(study: str, frame: pd.DataFrame, limits: Sequence[Limit]) -> pd.DataFrame:
    """The trials that ended well and meet every limit, the first of each architecture.

    Raises SelectionError naming the limit that binds.
    """
    finished = frame[(frame["status"] == "ok") & np.isfinite(frame[ACCURACY])]
    if finished.empty:
        raise SelectionError(f"study {study!r} has nothing to choose from: {_why_empty(frame)}")
    _check_on_record(study, finished, limits)
    met = [_meets(finished, limit) for limit in limits]
    members = finished[np.logical_and.reduce([np.ones(len(finished), dtype=bool), *met])]
    if members.empty:
        raise SelectionError(_nearest(study, finished, limits, met))
    return members.drop_duplicates("arch_key")


def _check_on_record(study: str, rows: pd.DataFrame, limits: Sequence[Limit]) -> None:
    for limit in limits:
        if limit.metric not in rows or not np.isfinite(rows[limit.metric]).any():
            raise SelectionError(
                f"study {study!r} has no {limit.metric} on record, so nothing can be limited by it; "
                f"a search with a limit on {limit.metric} measures it"
            )


def named(study: str, frame: pd.DataFrame, trials: Sequence[int], limits: Sequence[Limit]) -> pd.DataFrame:
    """The trials of these numbers, stopped ones included, the first of each architecture.

    Raises SelectionError for one that cannot be trained again, or is outside a limit.
    """
    rows = frame[frame["trial"].isin(trials)]
    missing = sorted(set(trials) - set(rows["trial"]))
    if missing:
        there = f"it has trials 0 to {frame['trial'].max()}" if len(frame) else "it has none yet"
        raise SelectionError(f"study {study!r} has no trial {missing[0]}; {there}")
    for row in rows[~rows["status"].isin(_CAN_BE_TRAINED_AGAIN)].itertuples():
        why = f" ({row.error})" if row.error else ""
        raise SelectionError(f"trial {row.trial} of study {study!r} is {row.status}{why}; name trials that trained")
    _check_on_record(study, frame, limits)
    for limit in limits:
        for row in rows[~_meets(rows, limit)].to_dict("records"):
            window, value = limit.describe_beside(row[limit.metric])
            has = value if np.isfinite(row[limit.metric]) else "none on record"
            raise SelectionError(
                f"trial {row['trial']} of study {study!r} is not within {window}: it has {has}; leave one out"
            )
    return rows.drop_duplicates("arch_key")


def retrained(frame: pd.DataFrame, members: pd.DataFrame, runs: FreshRuns, limits: Sequence[Limit]) -> pd.DataFrame:
    """The trials that were trained again and meet the limits. A stopped one is included if none of its kind ended."""
    again = frame["arch_key"].isin(list(runs))
    is_member = frame["trial"].isin(members["trial"])
    stopped = (frame["status"] == "stopped") & ~frame["arch_key"].isin(members["arch_key"])
    for limit in limits:
        stopped &= _meets(frame, limit)
    return frame[again & (is_member | stopped)].drop_duplicates("arch_key")


def by_noise(
    members: pd.DataFrame, weights: dict[str, float], num_images: int, most: int = MAX_FINALISTS
) -> tuple[pd.DataFrame, list[str]]:
    """The best few by the search's own numbers, and a note when more than ``most`` could be the best."""
    ranked, count = _rank(members, weights, num_images)
    rows = ranked.head(max(min(MIN_FINALISTS, most), min(count, most)))
    return rows, _note_more(count - most, count, num_images)


def still_to_train(
    members: pd.DataFrame, weights: dict[str, float], num_images: int, runs: FreshRuns, most: int = MAX_FINALISTS
) -> tuple[pd.DataFrame, list[str]]:
    """Of the first ``most`` who could be the best by the search's own numbers, those that no retraining has.

    If there are any, a note tells of others beyond. The retrained keep their places, by the accuracies that the search
    saw: those of fresh seeds are lower on average, and would make room for the next after every retraining, until all
    had been trained again. So only a search that went on, or another wish, brings somebody.
    """
    ranked, count = _rank(members, weights, num_images)
    rows = _without(ranked.head(min(count, most)), runs)
    left = len(_without(ranked[most:count], runs)) if len(rows) else 0
    return rows, _note_more(left, count, num_images)


def _rank(members: pd.DataFrame, weights: dict[str, float], num_images: int) -> tuple[pd.DataFrame, int]:
    """The members by utility, all who could be the best before all who could not, and how many could.

    Who could is not always on top of the others: the higher an accuracy, the less of it may be luck.
    """
    utilities = utility(members, weights)
    usable = members[np.isfinite(utilities)].assign(_utility=utilities[np.isfinite(utilities)])
    ranked = usable.sort_values(["_utility", "macs", "trial"], ascending=[False, True, True])
    accuracies = ranked[ACCURACY].to_numpy(dtype=float)
    possible = could_be_best(ranked["_utility"].to_numpy(dtype=float), accuracies, num_images, weights[ACCURACY])
    rows = ranked.drop(columns="_utility")
    return pd.concat([rows[possible], rows[~possible]]), int(possible.sum())


def _without(rows: pd.DataFrame, runs: FreshRuns) -> pd.DataFrame:
    return rows[~rows["arch_key"].isin(list(runs))]


def _note_more(left: int, count: int, num_images: int) -> list[str]:
    if left <= 0:
        return []
    return [
        f"{left} more could be the best for all that {plural(num_images, 'validation image')} can tell "
        f"(FINALISTS={count} takes them in)"
    ]


def _meets(rows: pd.DataFrame, limit: Limit) -> NDArray[np.bool_]:
    """A value that is not known meets no limit."""
    values = rows[limit.metric].to_numpy(dtype=float)
    low = -math.inf if limit.minimum is None else limit.minimum
    high = math.inf if limit.maximum is None else limit.maximum
    return np.asarray((values >= low) & (values <= high))


def _nearest(study: str, rows: pd.DataFrame, limits: Sequence[Limit], met: Sequence[NDArray[np.bool_]]) -> str:
    """Which limit binds (the one whose easing costs least, all others kept), and who is nearest by it."""
    found = []
    for index, limit in enumerate(limits):
        others = [mask for other, mask in enumerate(met) if other != index]
        rest = rows[np.logical_and.reduce([np.isfinite(rows[limit.metric].to_numpy(dtype=float)), *others])]
        if len(rest):
            excess = _excess(rest, limit)
            found.append((float(excess.min()), limit, rest.iloc[int(np.argmin(excess))], len(limits) > 1))
    if not found:  # no single limit is to blame: name the one that fewest meet
        index = int(np.argmin([mask.sum() for mask in met]))
        known = rows[np.isfinite(rows[limits[index].metric].to_numpy(dtype=float))]
        excess = np.sum([_excess(known, limit) for limit in limits], axis=0)
        found.append((0.0, limits[index], known.iloc[int(np.nanargmin(excess))], False))
    _, limit, row, keeps_others = min(found, key=lambda item: item[0])
    window, value = limit.describe_beside(row[limit.metric])
    within = " of those within the other limits" if keeps_others else ""
    return (
        f"no trial of study {study!r} has {window}{within}; the nearest is trial {row['trial']} with "
        f"{value} ({percent(row[ACCURACY])} validation accuracy)"
    )


def _excess(rows: pd.DataFrame, limit: Limit) -> NDArray[np.float64]:
    """How far outside the window, as a ratio's logarithm; 0 inside."""
    values = np.log(np.maximum(rows[limit.metric].to_numpy(dtype=float), 1e-12))
    low = -math.inf if limit.minimum is None else math.log(max(limit.minimum, 1e-12))
    high = math.inf if limit.maximum is None else math.log(max(limit.maximum, 1e-12))
    return np.asarray(np.maximum(np.maximum(values - high, low - values), 0.0))


def _why_empty(frame: pd.DataFrame) -> str:
    if frame.empty:
        return "it has no trials yet"
    counts = ", ".join(f"{count} {status}" for status, count in frame["status"].value_counts().items())
    waiting = " yet" if (frame["status"] == RUNNING).any() else ""
    failed = frame[frame["status"].isin(["failed", "lost"]) & (frame["error"] != "")]
    last = f"; the last failure said: {failed['error'].iloc[-1]}" if len(failed) else ""
    return f"none of its {plural(len(frame), 'trial')} came to an accuracy{waiting} ({counts}){last}"
