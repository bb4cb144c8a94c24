"""How long a study and its retraining trained: accuracies after different epochs are not the same measurement."""

from __future__ import annotations

from pathlib import Path

from results.described import planned_epochs
from results.repeats import find_retraining
from results.store import StudyStore
from results.units import plural


def describe_epochs(study_dir: Path) -> str:
    """A sentence with both numbers of epochs where they differ; empty where they are equal, or one is not known."""
    path = find_retraining(study_dir)
    if path is None:
        return ""
    before, after = (planned_epochs(StudyStore.open_readonly(each).study) for each in (study_dir, path))
    if not before or not after or before == after:
        return ""
    searched, again = plural(before, "epoch"), plural(after, "epoch")
    return f"{searched} in the search, {again} when trained again: the two accuracies differ by that, too."
