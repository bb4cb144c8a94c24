"""Choosing what to deploy: hard limits, then a preference, then what fresh seeds say of the finalists.

Reads records only; ``search.retrain`` makes the fresh ones, ``search.final_test`` opens the test split.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crossvit_core.atomic_file import write_atomically
from results.findings import validation_images
from results.frame import RUNNING, load_frame
from results.metrics import ACCURACY
from results.repeats import describe_stranger
from results.selection import (
    Judgement,
    PreferenceError,
    describe_judgement,
    handicap,
    judge,
    preference_weights,
)
from results.store import StudyStore
from results.test_ledger import TestedRun
from results.units import plural
from search.finalists import (
    DEFAULT_SEEDS,
    MIN_FINALISTS,
    FreshRun,
    FreshRuns,
    SelectionError,
    Unfinished,
    Wish,
    by_noise,
    find_members,
    find_unfinished,
    fresh_runs,
    named,
    retrained,
    still_to_train,
)


@dataclass(frozen=True)
class Finalist:
    """A candidate: what the search knew of it, and what came of training it again. Costs are the search's.

    ``search_accuracy`` is NaN for a trial that the search stopped early. ``handicap`` is what its costs take off its
    utility.
    """

    trial: int
    arch_key: str
    architecture: str
    search_accuracy: float
    macs: float
    params: float
    throughput_ips: float
    throughput_iqr: float
    latency_ms: float
    handicap: float
    runs: tuple[FreshRun, ...] = ()

    @property
    def fresh(self) -> tuple[FreshRun, ...]:
        """The runs that came to a result."""
        return tuple(run for run in self.runs if run.is_scored)

    @property
    def is_failed(self) -> bool:
        """Trained again, and not once to a result: none of the seeds that it had is to be trained any more."""
        return bool(self.runs) and not self.fresh

    def describe_failure(self) -> str:
        """What came of all its runs; of a finalist that ``is_failed``."""
        last = self.runs[-1]
        why = f"last error: {last.error}" if last.error else f"the last is {last.status}, without an accuracy"
        return f"trial {self.trial} was trained again {plural(len(self.runs), 'time')} and came to nothing ({why})"


@dataclass(frozen=True)
class Selection:
    """The choice as far as the records allow. ``judgement`` is of ``judged``, the finalists with fresh runs.

    ``members`` counts the architectures that meet the limits; ``notes`` is what the user should know. A retraining that
    is ``unfinished`` has more to say; ``unplanned`` are the finalists that none was asked for.
    """

    study: str
    wish: Wish
    weights: dict[str, float]
    members: int
    finalists: tuple[Finalist, ...]
    judgement: Judgement | None
    notes: tuple[str, ...]
    unfinished: Unfinished | None = None
    unplanned: tuple[int, ...] = ()

    @property
    def judged(self) -> tuple[Finalist, ...]:
        return tuple(finalist for finalist in self.finalists if finalist.fresh)

    @property
    def failed(self) -> tuple[Finalist, ...]:
        return tuple(finalist for finalist in self.finalists if finalist.is_failed)

    @property
    def seeds(self) -> int:
        """How many seeds each finalist is to have: as many as were asked for, and another for whoever failed on all."""
        return _find_seeds(self.finalists, self.unfinished)

    @property
    def tested_runs(self) -> tuple[TestedRun, ...]:
        """The fresh runs that the test split would be opened for; their weights are not looked into here."""
        return tuple(
            TestedRun(finalist.trial, finalist.arch_key, run.run, run.seed, weights="")
            for finalist in self.judged
            for run in finalist.fresh
        )

    @property
    def within(self) -> str:
        """The limits in words; empty without any."""
        return ", ".join(limit.describe() for limit in self.wish.limits)

    @property
    def suggested(self) -> Finalist | None:
        """Whom to take; None before anything was trained again."""
        return self.judged[self.judgement.suggested] if self.judgement is not None else None

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.judgement is None:
            return (
                f"{plural(len(self.finalists), 'finalist')} by the search's own accuracies, which flatter whoever "
                "leads: train them again on fresh seeds before choosing"
            )
        return describe_judgement(self.judgement, [f"trial {finalist.trial}" for finalist in self.judged])

    def to_dict(self) -> dict[str, Any]:
        """What selection.json holds; a number that is not known is null."""
        wish = {
            **asdict(self.wish),
            "limits": [limit.to_dict() for limit in self.wish.limits],
            "within": self.within,
        }
        about = {"study": self.study, "wish": wish, "weights": self.weights, "members": self.members}
        found = {"verdict": self.verdict, "suggested": None if self.suggested is None else self.suggested.trial}
        finalists = [{**asdict(finalist), **self._judged_fields(finalist)} for finalist in self.finalists]
        return _without_nan({**about, **found, "finalists": finalists, "notes": list(self.notes)})

    def _judged_fields(self, finalist: Finalist) -> dict[str, float]:
        if self.judgement is None or not finalist.fresh:
            return {}
        index, of = self.judged.index(finalist), self.judgement
        columns = {"mean": of.means, "low": of.lows, "high": of.highs, "p_best": of.p_best}
        return {name: float(values[index]) for name, values in columns.items()}


def select(study_dir: Path, wish: Wish) -> Selection:
    """Choose among the study's trials. Raises SelectionError, or StoreError if there is no such study."""
    _check_chosen_from(study_dir)
    frame = load_frame(study_dir)
    study, runs = study_dir.name, fresh_runs(study_dir)
    members = named(study, frame, wish.trials, wish.limits) if wish.trials else find_members(study, frame, wish.limits)
    weights = _find_weights(wish.prefer, frame if wish.trials else members)
    num_images = _validation_images(study_dir)
    rows, notes = members, list[str]()
    if not wish.trials:
        rows, notes = _find_finalists(frame, members, weights, num_images, runs, wish)
    rows = _with_all_costs(rows, weights)
    finalists = tuple(_finalist(row, weights, runs) for _, row in rows.iterrows())
    judgement = _judge([finalist for finalist in finalists if finalist.fresh], num_images, weights)
    unfinished = find_unfinished(study_dir)
    unplanned = tuple(finalist.trial for finalist in finalists if finalist.arch_key not in runs)
    stranger = describe_stranger(study_dir)
    notes += [*_note_open(frame), *(_note_runs(finalists, unfinished) if runs else []), *_note_unfinished(unfinished)]
    notes += [stranger] if stranger else []
    return Selection(study, wish, weights, len(members), finalists, judgement, tuple(notes), unfinished, unplanned)


def _check_chosen_from(study_dir: Path) -> None:
    """The test split is opened once for a study and what came of it; a choice in its retraining would open it again."""
    parent = StudyStore.open_readonly(study_dir).study.get("retrain_of")
    if parent is not None:
        raise SelectionError(
            f"study {study_dir.name!r} is the retraining of {parent!r}: choose, retrain and test there ({parent})"
        )


def _find_finalists(
    frame: pd.DataFrame,
    members: pd.DataFrame,
    weights: dict[str, float],
    num_images: int,
    runs: FreshRuns,
    wish: Wish,
) -> tuple[pd.DataFrame, list[str]]:
    """Whoever was trained again, then whoever should be: a search that went on and other limits bring others."""
    again = retrained(frame, members, runs, wish.limits)
    if again.empty:
        return by_noise(members, weights, num_images, wish.max_finalists)
    others, notes = still_to_train(members, weights, num_images, runs, wish.max_finalists)
    few = _note_few(len(again), len(others), len(members))
    return frame.loc[[*again.index, *others.index]], few + notes


def save_selection(study_dir: Path, data: dict[str, Any], text: str) -> None:
    """Write selection.json and selection.md into the study's folder, also while it runs. OSError passes through."""
    StudyStore.open_readonly(study_dir).write_json("selection.json", data)
    write_atomically(study_dir / "selection.md", text.encode())


def _judge(judged: list[Finalist], num_images: int, weights: dict[str, float]) -> Judgement | None:
    if not judged:
        return None
    return judge(
        [[run.accuracy for run in finalist.fresh] for finalist in judged],
        num_images,
        costs=[finalist.macs for finalist in judged],
        accuracy_weight=weights[ACCURACY],
        handicaps=[finalist.handicap for finalist in judged],
    )


def _find_weights(prefer: str, members: pd.DataFrame) -> dict[str, float]:
    try:
        weights = preference_weights(prefer, members)
    except PreferenceError as error:
        raise SelectionError(str(error)) from error
    _with_all_costs(members, weights)
    return weights


def _with_all_costs(rows: pd.DataFrame, weights: dict[str, float]) -> pd.DataFrame:
    """The rows whose costs that count are all on record. Raises SelectionError if there are none."""
    known = rows[np.isfinite(handicap(rows, weights))]
    if known.empty:
        costs = ", ".join(name for name in weights if name != ACCURACY)
        raise SelectionError(f"no trial that could be chosen has {costs} on record; leave it out of PREFER")
    return known


def _validation_images(study_dir: Path) -> int:
    count = validation_images(StudyStore.open_readonly(study_dir).study)
    if not count:
        raise SelectionError(
            f"study {study_dir.name!r} does not say how many validation images it has, so nothing can be said of its "
            "noise; it was written by an older version: search again under a new name"
        )
    return count


def _finalist(row: pd.Series, weights: dict[str, float], runs: FreshRuns) -> Finalist:
    costs = {name: float(row[name]) for name in ("macs", "params", "throughput_ips", "throughput_iqr", "latency_ms")}
    return Finalist(
        trial=int(row["trial"]),
        arch_key=str(row["arch_key"]),
        architecture=str(row["architecture"]),
        search_accuracy=float(row[ACCURACY]) if row["status"] == "ok" else math.nan,
        handicap=float(handicap(pd.DataFrame([row]), weights)[0]),
        runs=runs.get(str(row["arch_key"]), ()),
        **costs,
    )


def _note_open(frame: pd.DataFrame) -> list[str]:
    running = int((frame["status"] == RUNNING).sum())
    return [f"{plural(running, 'trial')} of the search without an outcome yet: more may come"] if running else []


def _note_few(count: int, others: int, members: int) -> list[str]:
    if count + others >= min(MIN_FINALISTS, members):
        return []
    return [f"only {count} of the {members} trials within the limits were trained again; TRIALS= names others"]


def _note_runs(finalists: tuple[Finalist, ...], unfinished: Unfinished | None) -> list[str]:
    """Whoever lacks fresh runs, or has lost some, is named: a judgement without them would not tell."""
    absent = [str(finalist.trial) for finalist in finalists if not finalist.runs]
    broken = sum(len(finalist.runs) - len(finalist.fresh) for finalist in finalists if finalist.fresh)
    judged = ",".join(str(finalist.trial) for finalist in finalists if finalist.fresh)
    ways = f"SEEDS={_find_seeds(finalists, unfinished)} trains it on another seed"
    ways += f", TRIALS={judged} leaves it out" if judged else ""
    return [
        *([f"not trained again yet, so not judged: trial {', '.join(absent)}"] if absent else []),
        *(f"{each.describe_failure()}, so not judged: {ways}" for each in finalists if each.is_failed),
        *([f"{plural(broken, 'fresh run')} came to nothing and are left out"] if broken else []),
    ]


def _find_seeds(finalists: tuple[Finalist, ...], unfinished: Unfinished | None) -> int:
    had = max((len(finalist.runs) for finalist in finalists), default=0)
    asked = had or DEFAULT_SEEDS if unfinished is None else unfinished.seeds
    # The seeds that a finalist had are not trained once more: as many would bring whoever failed on them nothing new.
    return max([asked, *(len(finalist.runs) + 1 for finalist in finalists if finalist.is_failed)])


def _note_unfinished(unfinished: Unfinished | None) -> list[str]:
    if unfinished is None:
        return []
    done = unfinished.planned - unfinished.to_do
    return [f"the retraining has {done} of its {unfinished.planned} runs: the same make retrain goes on with it"]


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
