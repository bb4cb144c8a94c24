"""The folder of a study: made once, then gone on with by the same study only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.memory import REPLAYED, check_fits
from results.records import Asked, asked_objectives
from results.store import StoreError, StudyStore
from search.environment import describe_environment
from search.stopping import Stopping
from search.study_differences import describe_differences

if TYPE_CHECKING:
    from search.study import Study

# What a study must keep when it is resumed; anything else (trials, workers, executor) may change.
_IDENTITY = ("space", "data", "objectives", "recipe", "measure", "rungs", "sampler", "seed", "stopping", "round_size")

# What a study that was written before a part existed did about it.
_BEFORE = {"stopping": Stopping().to_dict(), "round_size": 0}

# What may change when a study is resumed, and is then noted; of the data only where they are.
_CHANGEABLE = ("trials", "budget", "data")


def open_study(study: Study) -> StudyStore:
    """The study's folder. Raises StoreError if it holds a different study or cannot be written to.

    Images that have moved are the same images: their fingerprint says so, and their new place is noted.
    """
    asked = study.describe()
    return open_store(study.path, asked, lambda store: _go_on(store, study.name, asked))


def open_store(path: Path, asked: dict[str, Any], go_on: Callable[[StudyStore], None]) -> StudyStore:
    """A study's folder, made as ``asked`` or, if it is there, gone on with, which ``go_on`` may refuse."""
    new = not StudyStore.exists(path)
    store = StudyStore.create(path, asked) if new else StudyStore.open(path)
    try:
        if not new:
            go_on(store)
        store.write_json("environment.json", describe_environment())
    except BaseException:
        store.close()
        raise
    return store


def _go_on(store: StudyStore, name: str, asked: dict[str, Any]) -> None:
    _check_same_study(name, store.study, asked)
    check_fits(store.path, REPLAYED, "going on with a search")
    asked = {**asked, "trials": _trials_to_note(store, asked["trials"])}
    changed = {part: asked[part] for part in _CHANGEABLE if store.study.get(part) != asked[part]}
    if changed:
        store.write_json("study.json", {**store.study, **changed})


def _trials_to_note(store: StudyStore, trials: int) -> int:
    """A study that is asked for fewer trials than it had keeps those that it has begun."""
    if trials >= store.study.get("trials", 0):
        return trials
    return max(trials, sum(isinstance(event, Asked) for event in store.events()))


def _check_same_study(name: str, stored: dict[str, Any], asked: dict[str, Any]) -> None:
    stored = {**_BEFORE, **stored, "objectives": asked_objectives(stored)}
    before = {part: stored.get(part) for part in _IDENTITY}
    if before["data"] and before["data"]["fingerprint"] == asked["data"]["fingerprint"]:
        before["data"] = asked["data"]
    differences = describe_differences(before, {part: asked[part] for part in _IDENTITY})
    if differences:
        raise StoreError(
            f"study {name!r} was started with something else ({'; '.join(differences)}); "
            "repeat it as it was, or give this search a name of its own with STUDY="
        )
