"""Architectures that a search is told to train first: by a preset's name, from a file, or from another study."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from crossvit_core.config import ArchConfig, ArchError, suggest
from crossvit_core.presets import PRESETS
from results.records import Asked
from results.store import StoreError, StudyStore, check_study_name
from space import Space, SpaceError

_TRIAL = re.compile(r"([^/:]+):(\d+)")


class Enqueued(NamedTuple):
    """An architecture to train before any other. ``required``: also when the budget is spent."""

    source: str
    arch: ArchConfig
    required: bool = True


def find_enqueued(names: Iterable[str], space: Space, runs_dir: Path) -> list[Enqueued]:
    """The named architectures, each with the classes and channels of the space.

    Raises ArchError or StoreError for a name that leads nowhere, SpaceError for an architecture that the space does not
    hold, naming the field or the limit.
    """
    items = []
    for name in names:
        arch = _fitted(load_arch(name, runs_dir), space)
        problems = space.validate(arch)
        if problems:
            raise SpaceError(f"cannot enqueue {name!r} in space {space.name!r}: {'; '.join(problems)}")
        items.append(Enqueued(f"preset:{name}" if name in PRESETS else f"enqueued:{name}", arch))
    return items


def member_presets(space: Space) -> list[Enqueued]:
    """Presets that are members of the space: within the budget they are trained first, to compare the search with."""
    fitted = {name: _fitted(arch, space) for name, arch in PRESETS.items()}
    return [
        Enqueued(f"preset:{name}", arch, required=False) for name, arch in fitted.items() if not space.validate(arch)
    ]


def load_arch(name: str, runs_dir: Path) -> ArchConfig:
    """The architecture of a preset, of a JSON file, or of trial N of a study, written STUDY:N.

    Raises ArchError, or StoreError for a study or trial that is not there.
    """
    if name in PRESETS:
        return PRESETS[name]
    if Path(name).is_file():
        return _read_arch(Path(name))
    trial = _TRIAL.fullmatch(name)
    if trial is not None:
        return asked_arch(runs_dir / check_study_name(trial[1]), int(trial[2]))
    if name.endswith(".json"):
        raise ArchError(f"there is no file {name}")
    if StudyStore.exists(runs_dir / name):
        raise ArchError(f"{name!r} is a study, not one of its networks; add the trial, as {name}:0")
    raise ArchError(f"no preset, no file and no STUDY:TRIAL {name!r}; {suggest(name, PRESETS)}")


def asked_arch(study_dir: Path, trial: int, error: type[Exception] = StoreError) -> ArchConfig:
    """The architecture of a study's trial. Raises ``error`` if there is no such trial, StoreError if no such study."""
    last = -1
    for event in StudyStore.open_readonly(study_dir).events():
        if isinstance(event, Asked):
            if event.trial == trial:
                return ArchConfig.from_dict(event.arch)
            last = max(last, event.trial)
    there = f"it has trials 0 to {last}" if last >= 0 else "it has none yet"
    raise error(f"study {study_dir.name!r} has no trial {trial}; {there}")


def _read_arch(path: Path) -> ArchConfig:
    try:
        return ArchConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArchError(f"{path} is not JSON: {error}") from error
    except ArchError as error:
        raise ArchError(f"{path}: {error}") from error


def _fitted(arch: ArchConfig, space: Space) -> ArchConfig:
    base = space.base
    return arch.replace(num_classes=base.num_classes, in_channels=base.in_channels)
