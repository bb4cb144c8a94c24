"""The data of a study that is there: found again by its name or where it is now, and only if it is the same."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

from crossvit_core.config import Size
from crossvit_core.data import ImageData, load_dataset
from crossvit_core.data_source import AbsentDataError, DataError
from results.store import StoreError, StudyStore

_SAY_WHERE = "say where its images are now with --data (make: DATA=)"


def open_study_data(study_dir: Path, moved_to: str | None = None) -> ImageData:
    """The data that a study was run on, under its name on record or, if it has moved, under ``moved_to``.

    Raises DataError for what cannot be read, StoreError for other data than the study saw.
    """
    asked = StudyStore.open_readonly(study_dir).study["data"]
    data = _load(study_dir, asked, asked["name"] if moved_to is None else moved_to)
    if data.fingerprint != asked["fingerprint"]:
        raise StoreError(
            f"the dataset {data.name!r} is not what study {study_dir.name!r} was run on (fingerprint "
            f"{data.fingerprint}, then {asked['fingerprint']}): numbers on it could not be compared"
        )
    return data


def _load(study_dir: Path, asked: dict[str, Any], name: str) -> ImageData:
    height, width = asked["image_size"]
    try:
        return _load_cached(name, (height, width), study_dir.parent / ".data")
    except DataError as error:
        if name != asked["name"]:
            raise
        raise DataError(_describe_lost(study_dir.name, name, error)) from error


def _load_cached(name: str, size: Size, cache_dir: Path) -> ImageData:
    """From the cache of the studies, or one elsewhere: a folder of studies may be there to be read only."""
    try:
        return load_dataset(name, image_size=size, cache_dir=cache_dir)
    except OSError:  # if it was not the cache that failed, this fails in the same way once more
        return load_dataset(name, image_size=size, cache_dir=_temporary_cache())


@functools.cache
def _temporary_cache() -> Path:
    """A folder for this process, as long as it lives: workers open what is in it by its path."""
    folder = Path(tempfile.mkdtemp(prefix="crossvit-data-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _describe_lost(study: str, name: str, error: DataError) -> str:
    """Only what is absent has surely moved: anything else that is wrong with the data is told as well."""
    if isinstance(error, AbsentDataError):
        return f"study {study!r} was run on {name!r}, which is not there; {_SAY_WHERE}"
    return f"study {study!r} was run on {name!r}, which cannot be read: {error}. If it has moved, {_SAY_WHERE}"
