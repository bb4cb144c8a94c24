"""What is known of a study's finalists once they were trained again: their means, the choice, the look at the test.

The statistics are those of ``results.selection``, made anew from the retraining's ledger, so that a report is never
behind it; what ``select`` kept in selection.json says which finalists were compared, and by which preference.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from results.frame import build_frame
from results.metrics import ACCURACY
from results.repeats import find_retraining
from results.selection import Judgement, describe_judgement, judge
from results.selection_table import Score
from results.store import StudyStore
from results.test_ledger import Look

SELECTION_FILE = "selection.json"
UNKNOWN = Score()


@dataclass(frozen=True)
class Candidate:
    """A finalist with fresh runs. ``row`` is its trial in the search, ``runs`` accuracies by number of the fresh run.

    ``again`` is the mean over these with its interval (NaN where there is none), ``p_best`` the probability of being
    the best; ``test`` is of the one look at the test split, if that was at this finalist.
    """

    row: pd.Series
    runs: dict[int, float]
    again: Score
    p_best: float = math.nan
    test: Score = UNKNOWN

    @property
    def trial(self) -> int:
        return int(self.row["trial"])


@dataclass(frozen=True)
class Decision:
    """The finalists, the suggested one first, then by what they reach.

    ``verdict`` is the sentence of ``select``. ``is_kept`` tells whether a choice was kept that still fits the records,
    by the preference ``prefer``; without one all finalists are compared, by accuracy alone. ``among`` says in words
    whom the choice was made from, empty if from all; ``left_out`` were trained again too, and have no interval here.
    """

    candidates: tuple[Candidate, ...]
    verdict: str
    is_kept: bool
    prefer: str
    among: str = ""
    left_out: tuple[Candidate, ...] = ()

    @property
    def suggested(self) -> Candidate:
        return self.candidates[0]

    @property
    def retrained(self) -> tuple[Candidate, ...]:
        return (*self.candidates, *self.left_out)

    @property
    def fewest_runs(self) -> int:
        return min(len(candidate.runs) for candidate in self.candidates)


@dataclass(frozen=True)
class _Kept:
    """What counts of selection.json: who was compared, what their costs took off their utility, and who they were."""

    handicaps: dict[str, float]
    accuracy_weight: float
    prefer: str
    named: str
    within: str

    def describe(self, *, is_of_all: bool) -> str:
        """Whom the choice was made from. Naming everybody, as ``retrain`` does, leaves nobody out; limits still say."""
        return ", ".join(words for words in ("" if is_of_all else self.named, self.within) if words)


def load_decision(study_dir: Path, frame: pd.DataFrame, num_images: int, look: Look | None) -> Decision | None:
    """None before a finalist came to an accuracy on a fresh seed.

    ``frame`` has the trials of the search; ``num_images`` is the size of the validation split, 0 if it is not known:
    then there are means and no intervals.
    """
    rows = _rows_by_key(frame)
    fresh = _fresh_accuracies(study_dir)
    runs = {str(key): fresh[key] for key in rows.index if key in fresh}  # in the order of ``select``
    if not runs:
        return None
    kept = _read_kept(study_dir, runs)
    keys = [key for key in runs if kept is None or key in kept.handicaps]
    judgement = _judge(runs, keys, rows, num_images, kept)
    scores = _scores(judgement)
    candidates = [
        Candidate(rows.loc[key], runs[key], score, chance)
        for key, score, chance in zip(keys, scores, judgement.p_best.tolist())
    ]
    order = sorted(range(len(keys)), key=lambda i: (i != judgement.suggested, -judgement.means[i], keys[i]))
    verdict = describe_judgement(judgement, [f"trial {candidate.trial}" for candidate in candidates])
    tested = _with_test([candidates[i] for i in order], look)
    left_out = tuple(
        Candidate(rows.loc[key], found, Score(float(np.mean(list(found.values())))))
        for key, found in runs.items()
        if key not in keys
    )
    if kept is None:
        return Decision(tuple(tested), verdict, False, "accuracy")
    return Decision(tuple(tested), verdict, True, kept.prefer, kept.describe(is_of_all=not left_out), left_out)


def _rows_by_key(frame: pd.DataFrame) -> pd.DataFrame:
    """The trial of each architecture, the first that ended well before any other, in the order of the trials."""
    first = frame.sort_values("status", key=lambda status: status != "ok", kind="stable").drop_duplicates("arch_key")
    return first.sort_index().set_index("arch_key", drop=False)


def _judge(
    runs: Mapping[str, dict[int, float]],
    keys: Sequence[str],
    rows: pd.DataFrame,
    num_images: int,
    kept: _Kept | None,
) -> Judgement:
    costs = [float(value) for value in rows.loc[list(keys), "macs"]]
    found = judge(
        [list(runs[key].values()) for key in keys],
        max(num_images, 1),
        costs=costs,
        accuracy_weight=kept.accuracy_weight if kept else 1.0,
        handicaps=[kept.handicaps[key] for key in keys] if kept else None,
    )
    if num_images:
        return found
    unknown = np.full(len(keys), math.nan)
    everyone = tuple(range(len(keys)))
    return dataclasses.replace(
        found, lows=unknown, highs=unknown, p_best=unknown, contenders=everyone, suggested=found.leader,
        dispersion=math.nan,
    )  # fmt: skip


def _scores(of: Judgement) -> list[Score]:
    return [Score(*map(float, found)) for found in zip(of.means, of.lows, of.highs)]


def _fresh_accuracies(study_dir: Path) -> dict[str, dict[int, float]]:
    """By architecture, the accuracies of the retraining's runs that came to one, by their numbers."""
    path = find_retraining(study_dir)
    if path is None:
        return {}
    frame = build_frame(StudyStore.open_readonly(path).events())
    scored = frame[(frame["status"] == "ok") & np.isfinite(frame[ACCURACY])]
    runs: dict[str, dict[int, float]] = {}
    for trial, key, accuracy in zip(scored["trial"], scored["arch_key"], scored[ACCURACY]):
        runs.setdefault(str(key), {})[int(trial)] = float(accuracy)
    return runs


def _read_kept(study_dir: Path, runs: Mapping[str, dict[int, float]]) -> _Kept | None:
    """The kept choice; None without one, and for one that was made from other runs than there are now."""
    try:
        data = json.loads((study_dir / SELECTION_FILE).read_text(encoding="utf-8"))
        found = {str(each["arch_key"]): (_scored(each["runs"]), float(each["handicap"])) for each in data["finalists"]}
        compared = {key: pair for key, pair in found.items() if pair[0]}
        weight, prefer = float(data["weights"][ACCURACY]), str(data["wish"]["prefer"])
        named, within = _describe_wish(data["wish"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not compared or any(runs.get(key) != seen for key, (seen, _) in compared.items()):
        return None
    return _Kept({key: handicap for key, (_, handicap) in compared.items()}, weight, prefer, named, within)


def _describe_wish(wish: Mapping[str, Any]) -> tuple[str, str]:
    """The trials and the limits: ('named for the choice (trial 0, 1)', 'within macs at most 200 k')."""
    trials = ", ".join(str(trial) for trial in wish.get("trials") or [])
    limits = (wish.get("within") or "the limits asked for") if wish.get("limits") else ""
    return f"named for the choice (trial {trials})" if trials else "", f"within {limits}" if limits else ""


def _scored(runs: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    return {int(run["run"]): float(run["accuracy"]) for run in runs if run["status"] == "ok"}


def _with_test(candidates: Sequence[Candidate], look: Look | None) -> list[Candidate]:
    """The candidates with their test accuracies, where the look at the split was at them and is finished."""
    if look is None or look.missing:
        return list(candidates)
    seen = {
        candidate.trial: [look.accuracies[run.run] for run in look.runs if run.arch_key == candidate.row["arch_key"]]
        for candidate in candidates
    }
    tested = [candidate for candidate in candidates if seen[candidate.trial]]
    if not tested:
        return list(candidates)
    costs = [float(candidate.row["macs"]) for candidate in tested]
    of = judge([seen[candidate.trial] for candidate in tested], look.num_images, costs=costs)
    scores = {candidate.trial: score for candidate, score in zip(tested, _scores(of))}
    return [dataclasses.replace(each, test=scores.get(each.trial, UNKNOWN)) for each in candidates]
