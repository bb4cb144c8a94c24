"""The weights that a study kept for a trial: those of its retraining where there is one, else the search's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from crossvit_core.artefact import ExportError
from crossvit_core.config import ArchConfig, suggest
from results.records import Finished
from results.repeats import describe_stranger, find_retraining
from results.store import WEIGHTS_FILE, StudyStore
from results.units import percent
from search.enqueue import asked_arch
from search.environment import in_runs_dir

ORIGINS = ("auto", "search", "retrain")


@dataclass(frozen=True)
class Trained:
    """Kept weights of an architecture, and the trial that trained them.

    ``why`` says in words how they were chosen.
    """

    study: str
    trial: int
    arch: ArchConfig
    seed: int
    val_accuracy: float
    weights: Path
    why: str

    def describe(self) -> dict[str, Any]:
        """Plain JSON values, without the paths of this machine."""
        fields = {name: value for name, value in asdict(self).items() if name not in ("arch", "weights")}
        return fields | {"arch_key": self.arch.key()}

    def sentence(self) -> str:
        """Which weights these are, for whoever is about to use them."""
        return (
            f"weights: trial {self.trial} of study {self.study}, {self.why}; "
            f"validation accuracy {percent(self.val_accuracy)}"
        )


def find_trained(study_dir: Path, trial: int, origin: str = "auto") -> Trained:
    """The weights of a trial of a study.

    ``origin`` "retrain": of the seeds that were retrained with the trial's architecture, the one with the highest
    validation accuracy (the lowest number among equals). "search": the trial's own. "auto": the first if there are
    any, else the second; a study that has but the name of the retraining is then named in ``why``. Raises ExportError
    for a trial without weights, saying why and what to run; StoreError for a study that is not there.
    """
    if origin not in ORIGINS:
        raise ExportError(f"weights from {origin!r} are unknown; {suggest(origin, ORIGINS)}")
    arch = asked_arch(study_dir, trial, ExportError)
    if origin == "search":
        return _own(study_dir, trial, arch)
    again, stranger = find_retraining(study_dir), describe_stranger(study_dir)
    retrained = [] if again is None else list(_retrained(again, arch))
    if retrained:
        return _best(retrained)
    if origin == "retrain":
        way_out = stranger or f"retrain it with: {_retrain_command(study_dir, trial)}"
        raise ExportError(f"trial {trial} of study {study_dir.name!r} has no retrained weights; {way_out}")
    own = _own(study_dir, trial, arch)
    return replace(own, why=f"{own.why} ({stranger})") if stranger else own


def _retrained(study_dir: Path, arch: ArchConfig) -> Iterator[Trained]:
    key = arch.key()
    trained = (outcome for outcome in _finished(study_dir).values() if outcome.status == "ok")
    for outcome in trained:
        if ArchConfig.from_dict(outcome.arch).key() == key and _weights(study_dir, outcome.trial).is_file():
            yield _trained(study_dir, outcome, arch, "")


def _best(candidates: list[Trained]) -> Trained:
    best = max(candidates, key=lambda each: (each.val_accuracy, -each.trial))
    why = f"the retrained seed with the highest validation accuracy of {len(candidates)}"
    if len(candidates) > 1:
        mean = sum(each.val_accuracy for each in candidates) / len(candidates)
        why += f" (their mean, {percent(mean)}, is the fairer estimate)"
    return Trained(best.study, best.trial, best.arch, best.seed, best.val_accuracy, best.weights, why)


def _own(study_dir: Path, trial: int, arch: ArchConfig) -> Trained:
    outcomes = _finished(study_dir)
    outcome = outcomes.get(trial)
    if outcome is None:
        raise ExportError(
            f"trial {trial} of study {study_dir.name!r} has not finished; wait for it, or go on searching"
        )
    if outcome.status != "ok":
        reason = f" ({outcome.error})" if outcome.error else ""
        raise ExportError(
            f"trial {trial} of study {study_dir.name!r} ended {outcome.status!r}{reason} and left no trained weights; "
            f"choose one that ended 'ok'{_most_accurate(outcomes)}"
        )
    if not _weights(study_dir, trial).is_file():
        raise ExportError(
            f"trial {trial} of study {study_dir.name!r} kept no weights (--no-weights, or deleted since); "
            f"train it again with: {_retrain_command(study_dir, trial)}"
        )
    return _trained(study_dir, outcome, arch, "the trial's own, from the search")


def _retrain_command(study_dir: Path, trial: int) -> str:
    return in_runs_dir(f"make retrain STUDY={study_dir.name} TRIALS={trial}", study_dir.parent)


def _most_accurate(outcomes: dict[int, Finished]) -> str:
    scored = [each for each in outcomes.values() if each.status == "ok"]
    best = sorted(scored, key=_accuracy, reverse=True)[:3]
    return f", such as {', '.join(str(each.trial) for each in best)}" if best else ""


def _trained(study_dir: Path, outcome: Finished, arch: ArchConfig, why: str) -> Trained:
    weights = _weights(study_dir, outcome.trial)
    return Trained(study_dir.name, outcome.trial, arch, outcome.seed, _accuracy(outcome), weights, why)


def _accuracy(outcome: Finished) -> float:
    return float(outcome.metrics.get("val_accuracy", 0.0))


def _finished(study_dir: Path) -> dict[int, Finished]:
    events = StudyStore.open_readonly(study_dir).events()
    return {event.trial: event for event in events if isinstance(event, Finished)}


def _weights(study_dir: Path, trial: int) -> Path:
    return StudyStore.open_readonly(study_dir).trial_dir(trial) / WEIGHTS_FILE
