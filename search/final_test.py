"""The finalists meet the test split: once, on record before it is read, and for the weights that were retrained."""

from __future__ import annotations

import hashlib
from pathlib import Path

from crossvit_core.config import ArchConfig
from crossvit_core.device_info import pick_device
from crossvit_core.recipe import TrainRecipe
from crossvit_core.train import open_split, score
from crossvit_core.weights import WeightsError, load_model
from results.records import Asked, Finished
from results.repeats import describe_stranger, find_retraining
from results.store import WEIGHTS_FILE, StoreError, StudyStore
from results.test_ledger import Look, TestedRun, add_score, open_look, read_look
from results.units import plural
from search.environment import in_runs_dir
from search.finalists import SelectionError
from search.selection import Selection
from search.selection_report import retrain_command
from search.study_data import open_study_data


def look_at_test(study_dir: Path, selection: Selection, device: str = "auto", *, moved_to: str | None = None) -> Look:
    """Score every fresh run of the finalists on the test split, or go on with that, or show what was seen.

    ``moved_to`` as in ``open_study_data``. Everything that can fail is tried before the split is opened. Raises
    SelectionError, WeightsError, DataError or StoreError then, SecondLookError if the split was opened for other runs.
    """
    seen = read_look(study_dir)
    is_theirs = seen is not None and seen.is_at(selection.tested_runs)
    if seen is not None and is_theirs and not seen.missing:
        return seen
    if not is_theirs and (len(selection.judged) < len(selection.finalists) or not selection.finalists):
        raise SelectionError(
            "the test split stays closed until every finalist was trained again; "
            f"{_describe_unjudged(study_dir, selection)}"
        )
    if seen is None and selection.unfinished is not None:
        raise SelectionError(
            f"the test split is opened once and stays closed until the retraining is done; "
            f"{plural(selection.unfinished.to_do, 'run')} of {selection.unfinished.planned} to do: "
            f"{in_runs_dir(retrain_command(selection), study_dir.parent)}"
        )
    archs = _archs(study_dir)
    runs = [_weigh(study_dir, run, archs[run.run]) for run in selection.tested_runs]
    data = open_study_data(study_dir, moved_to)
    look = open_look(study_dir, runs, data.fingerprint, len(data.splits["test"]))
    device = pick_device(device)
    in_bfloat16 = _scored_in_bfloat16(study_dir)
    for run in look.missing:
        model = load_model(_weights_path(study_dir, run.run)).to(device)
        _, accuracy = score(model, open_split(data, "test", device), device=device, amp=run.run in in_bfloat16)
        add_score(study_dir, run.run, round(accuracy, 6))
    done = read_look(study_dir)
    assert done is not None
    return done


def _describe_unjudged(study_dir: Path, selection: Selection) -> str:
    """Who lacks a fresh run that came to a result, why, and what can be done: training again, or leaving them out."""
    absent = [str(finalist.trial) for finalist in selection.finalists if not finalist.runs]
    reasons = [f"still to do: trial {', '.join(absent)}"] if absent else []
    reasons += [finalist.describe_failure() for finalist in selection.failed]
    judged = ",".join(str(finalist.trial) for finalist in selection.judged)
    them = "it" if len(absent) + len(selection.failed) == 1 else "them"
    without = f"; TRIALS={judged} leaves {them} out" if judged else ""
    command = in_runs_dir(retrain_command(selection), study_dir.parent)
    return f"{'; '.join(reasons)} ({command}{without})"


def _weigh(study_dir: Path, run: TestedRun, arch: ArchConfig) -> TestedRun:
    """The run with the digest of its weights, which were loaded once to see that they can be."""
    path = _weights_path(study_dir, run.run)
    try:
        load_model(path, arch)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, WeightsError) as error:
        raise SelectionError(
            f"the test split stays closed: the weights of run {run.run} do not load ({error})"
        ) from error
    return TestedRun(run.trial, run.arch_key, run.run, run.seed, digest)


def _weights_path(study_dir: Path, run: int) -> Path:
    return _open_retraining(study_dir).trial_dir(run) / WEIGHTS_FILE


def _scored_in_bfloat16(study_dir: Path) -> set[int]:
    """The runs whose validation accuracies are those of autocast; their test accuracies are to be the same kind."""
    retraining = _open_retraining(study_dir)
    if not TrainRecipe.from_dict(retraining.study["recipe"]).amp:
        return set()
    ended = (event for event in retraining.events() if isinstance(event, Finished))
    return {event.trial for event in ended if event.device.startswith("cuda")}


def _archs(study_dir: Path) -> dict[int, ArchConfig]:
    events = _open_retraining(study_dir).events()
    return {event.trial: ArchConfig.from_dict(event.arch) for event in events if isinstance(event, Asked)}


def _open_retraining(study_dir: Path) -> StudyStore:
    path = find_retraining(study_dir)
    if path is None:
        raise StoreError(describe_stranger(study_dir) or f"study {study_dir.name!r} has no retraining any more")
    return StudyStore.open_readonly(path)
