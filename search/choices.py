"""The choices that turn what was asked into a study; each raises StudyConfigError, or the space file's own error."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from crossvit_core.config import suggest
from crossvit_core.fields import is_count
from crossvit_core.recipe import TrainRecipe, recipe_fields
from results.metrics import ACCURACY
from results.store import plain_name
from search.budget import Budget, BudgetError
from search.environment import count_gpus
from search.executors.sizing import count_workers
from search.objectives import Objective, find_objectives
from search.plan import MeasurePlan
from search.stopping import Stopping, StoppingError, make_rule
from search.study_config import StudyConfig, StudyConfigError
from space import LIMITED_METRICS, Space, SpaceFile

# Settings of a space file's ``study`` block that are not the recipe's.
STUDY_SETTINGS = ("data", "trials", "measure_batch_size", "dashboard", "tensorboard", "stopping")


def check_device(name: str) -> None:
    """Raise StudyConfigError for a device that is unknown or not here."""
    if name not in ("auto", "cpu") and not re.fullmatch(r"cuda(:\d+)?", name):
        raise StudyConfigError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N")
    if name.startswith("cuda") and count_gpus() <= int(name.partition(":")[2] or 0):
        raise StudyConfigError(f"there is no device {name!r} here: {count_gpus()} CUDA devices are seen")


def check_minutes(minutes: float | None) -> float | None:
    if minutes is not None and not minutes > 0:
        raise StudyConfigError(f"trial_minutes must be more than 0, got {minutes:g}; leave it out for no limit")
    return minutes


def merge_settings(file: SpaceFile, config: StudyConfig) -> dict[str, Any]:
    known = [*STUDY_SETTINGS, *recipe_fields()]
    for name in file.study:
        if name not in known:
            file.fail(("study", name), f"unknown study setting {name!r}; {suggest(str(name), known)}")
    try:
        TrainRecipe.from_dict({k: v for k, v in file.study.items() if k not in STUDY_SETTINGS})
    except ValueError as error:
        file.fail(("study",), str(error))
    if "stopping" in file.study:
        try:
            Stopping.from_setting(file.study["stopping"])
        except StoppingError as error:
            file.fail(("study", "stopping"), str(error))
    return {**file.study, **config.settings}


def find_batch_size(settings: dict[str, Any]) -> int:
    batch_size = settings.get("measure_batch_size", MeasurePlan.batch_size)
    if not is_count(batch_size, 1):
        raise StudyConfigError(f"measure_batch_size must be a whole number of at least 1, got {batch_size!r}")
    return batch_size


def default_name(space: str, data: str, seed: int) -> str:
    """'small-digits', and '-seed1' for other seeds: one command, one study."""
    return plain_name(f"{space}-{Path(data).absolute().name}", suffix=f"-seed{seed}" if seed else "")


def choose_objectives(names: tuple[str, ...]) -> tuple[Objective, ...]:
    try:
        return find_objectives(names)
    except ValueError as error:
        raise StudyConfigError(str(error)) from error


def choose_stopping(settings: dict[str, Any], config: StudyConfig, objectives: tuple[Objective, ...]) -> Stopping:
    """The space file's rule, changed by what the command asks for. Raises StudyConfigError."""
    try:
        recommended = Stopping.from_setting(settings.get("stopping", Stopping.rule))
        stopping = recommended.changed(rule=config.stopping, max_killed=config.max_killed)
        make_rule(stopping, objectives, epochs=1)
    except StoppingError as error:
        raise StudyConfigError(str(error)) from error
    return stopping


def check_sampler_fits(name: str, space: Space) -> None:
    from search.samplers import check_sampler

    try:
        check_sampler(name, space)
    except ValueError as error:
        raise StudyConfigError(str(error)) from error


def choose_budget(config: StudyConfig) -> Budget:
    try:
        return Budget(hours=config.hours, device_hours=config.device_hours, plateau=config.plateau).check()
    except BudgetError as error:
        raise StudyConfigError(str(error)) from error


def choose_round_size(config: StudyConfig) -> int:
    """Trials in a round of a deterministic search: the workers it has; 0 for a search that is not."""
    return max(1, count_workers(config)) if config.deterministic else 0


def note_unrepeatable(config: StudyConfig, objectives: tuple[Objective, ...]) -> tuple[str, ...]:
    measured = [o.metric for o in objectives if o.metric not in (ACCURACY, *LIMITED_METRICS)]
    if not (config.deterministic and measured):
        return ()
    names = ", ".join(measured)
    return (f"{names} is measured and never twice the same: to repeat a search, leave it out of OBJECTIVES",)
