"""How long a study and its retraining trained: accuracies after different epochs are not the same measurement."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from results.repeats import find_retraining
from results.store import StudyStore
from results.units import plural


def describe_epochs(study_dir: Path) -> str:
    """A sentence with both numbers of epochs where they differ; empty where they are equal, or one is not known."""
    path = find_retraining(study_dir)
    if path is None:
        return ""
    before, after = _epochs(study_dir), _epochs(path)
    if not before or not after or before == after:
        return ""
    searched, again = plural(before, "epoch"), plural(after, "epoch")
    return f"{searched} in the search, {again} when trained again: the two accuracies differ by that, too."


def _epochs(study_dir: Path) -> int:
    recipe = StudyStore.open_readonly(study_dir).study.get("recipe")
    epochs = recipe.get("epochs") if isinstance(recipe, Mapping) else None
    return epochs if isinstance(epochs, int) else 0
