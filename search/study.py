"""A whole search: from what was asked to a finished study. The file to read first.

``run_study`` opens or resumes the study's folder, builds the parts, lets the executor drive the session, and leaves a
ledger behind that everything else is made from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crossvit_core.config import ArchConfig, suggest
from crossvit_core.cost import count_cost
from crossvit_core.data import ImageData, load_dataset
from crossvit_core.presets import PRESETS
from crossvit_core.recipe import TrainRecipe, recipe_fields
from results.store import DEFAULT_RUNS_DIR, StoreError, StudyStore, check_study_name, plain_name
from search.environment import count_cores, count_gpus, describe_environment
from search.executors.base import Executor
from search.objectives import DEFAULT_OBJECTIVES, Objective, find_objectives
from search.plan import MeasurePlan, Plan, geometric_rungs
from search.session import Listener, Session
from space import Space, SpaceError, SpaceFile, load_space

EXECUTORS = ("ray", "local")

_STUDY_SETTINGS = ("data", "trials", "measure_batch_size")
_DEFAULT_TRIALS = 64

# What a study must keep when it is resumed; anything else (trials, workers, executor) may change.
_IDENTITY = ("space", "data", "objectives", "recipe", "measure", "rungs", "sampler", "seed")


class StudyConfigError(ValueError):
    """A study that was asked for in a way that cannot be."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """What was asked for. Fields left at None are the space file's, or follow from the machine.

    ``settings`` are training settings of the recipe that differ from the space file's.
    """

    space: str = "small"
    name: str | None = None
    data: str | None = None
    trials: int | None = None
    seed: int = 0
    sampler: str = "tpe"
    objectives: tuple[str, ...] = DEFAULT_OBJECTIVES
    settings: dict[str, Any] = field(default_factory=dict)
    executor: str = "ray"
    workers: int | None = None
    gpus_per_trial: float | None = None
    ray_address: str | None = None
    device: str = "auto"
    runs_dir: Path = DEFAULT_RUNS_DIR
    keep_weights: bool = True


@dataclass(frozen=True)
class Study:
    """A study that is resolved: every choice made, the data loaded, nothing on disk yet but the data's cache."""

    name: str
    path: Path
    space: Space
    data: ImageData
    objectives: tuple[Objective, ...]
    trials: int
    sampler: str
    seed: int
    plan: Plan

    def describe(self) -> dict[str, Any]:
        """What study.json holds."""
        return {
            "name": self.name,
            "space": self.space.to_dict(),
            "data": self.data.describe(),
            "objectives": [{"metric": o.metric, "direction": o.direction, "label": o.label} for o in self.objectives],
            "trials": self.trials,
            "planned_trials": self.trials,
            "sampler": self.sampler,
            "seed": self.seed,
            "recipe": self.plan.recipe.to_dict(),
            "measure": self.plan.measure.to_dict(),
            "rungs": list(self.plan.rungs),
            "presets": _comparable_presets(self.space),
        }


def resolve_study(config: StudyConfig) -> Study:
    """Make every choice that the config leaves open. Raises an error of the part that is at fault."""
    _check_sampler(config.sampler)
    check_device(config.device)
    file = load_space(config.space)
    settings = _merged_settings(file, config)
    data_name = config.data or settings.pop("data", None)
    if not data_name:
        raise StudyConfigError(f"space {file.space.name!r} names no dataset; give one with DATA=")
    trials = config.trials if config.trials is not None else settings.pop("trials", _DEFAULT_TRIALS)
    if not isinstance(trials, int) or trials < 1:
        raise StudyConfigError(f"trials must be a whole number of at least 1, got {trials!r}")
    name = check_study_name(config.name or _default_name(file.space.name, data_name, config.seed))
    path = config.runs_dir / name
    data = _load_data(data_name, file.space, config.runs_dir)
    if data.cache_path is None:
        raise StudyConfigError(f"the dataset {data_name!r} has no cache that workers could share")
    measure = _measure_plan(settings)
    recipe = TrainRecipe.from_dict({k: v for k, v in settings.items() if k not in _STUDY_SETTINGS})
    plan = Plan(
        recipe=recipe,
        data_path=data.cache_path,
        trials_dir=(path / "trials").absolute(),
        device=config.device,
        rungs=geometric_rungs(recipe.epochs),
        measure=measure,
        keep_weights=config.keep_weights,
    )
    space = file.space.for_data(num_classes=data.num_classes, in_channels=data.in_channels)
    objectives = _find_objectives(config.objectives)
    return Study(name, path, space, data, objectives, trials, config.sampler, config.seed, plan)


def run_study(
    study: Study,
    executor: Executor,
    listeners: Iterable[Listener] = (),
    on_open: Callable[[Session], None] | None = None,
) -> Session:
    """Run the study to its end, from wherever its ledger stands, and return the session."""
    from search.optuna_searcher import OptunaSearcher

    with open_store(study) as store:
        searcher = OptunaSearcher(
            study.space,
            study.objectives,
            sampler=study.sampler,
            trials=store.study["planned_trials"],
            seed=study.seed,
            enqueued=_enqueued_presets(study.space),
        )
        session = Session(store, searcher, trials=study.trials, seed=study.seed, listeners=listeners)
        if on_open is not None:
            on_open(session)
        if not session.is_over():
            executor.run(session, study.plan)
    return session


def open_store(study: Study) -> StudyStore:
    """The study's folder, made or gone on with. Raises StoreError if it holds a different study."""
    asked = study.describe()
    if not StudyStore.exists(study.path):
        store = StudyStore.create(study.path, asked)
    else:
        store = StudyStore.open(study.path)
        try:
            _check_same_study(study.name, store.study, asked)
            if store.study["trials"] != study.trials:
                store.write_json("study.json", {**store.study, "trials": study.trials})
        except BaseException:
            store.close()
            raise
    store.write_json("environment.json", describe_environment())
    return store


def make_executor(config: StudyConfig) -> Executor:
    """The executor by name, sized to the machine. Raises StudyConfigError for sizes that make no sense."""
    if config.executor not in EXECUTORS:
        raise StudyConfigError(f"unknown executor {config.executor!r}; {suggest(config.executor, EXECUTORS)}")
    if config.workers is not None and config.workers < (0 if config.executor == "local" else 1):
        raise StudyConfigError(f"workers must be at least 1 (0 with EXECUTOR=local: in-process), got {config.workers}")
    gpus_per_trial = _gpu_share(config)
    workers = config.workers if config.workers is not None else _default_workers(gpus_per_trial)
    if config.executor == "local":
        from search.executors.local import InProcessExecutor, ProcessExecutor

        return ProcessExecutor(workers) if workers else InProcessExecutor()
    from search.executors.ray_tune import RayExecutor

    return RayExecutor(workers, gpus_per_trial=gpus_per_trial, address=config.ray_address)


def _gpu_share(config: StudyConfig) -> float:
    """GPUs per trial: what was asked, else one where there are any, else none."""
    if config.gpus_per_trial is not None:
        if config.gpus_per_trial < 0:
            raise StudyConfigError(f"gpus_per_trial must not be negative, got {config.gpus_per_trial}")
        return config.gpus_per_trial
    uses_gpu = config.device != "cpu" and count_gpus() > 0
    return 1.0 if uses_gpu else 0.0


def _default_workers(gpus_per_trial: float) -> int:
    if gpus_per_trial and count_gpus():
        return max(1, int(count_gpus() / gpus_per_trial))
    return count_cores()


def _merged_settings(file: SpaceFile, config: StudyConfig) -> dict[str, Any]:
    known = [*_STUDY_SETTINGS, *recipe_fields()]
    for name in file.study:
        if name not in known:
            file.fail(("study", name), f"unknown study setting {name!r}; {suggest(str(name), known)}")
    try:
        TrainRecipe.from_dict({k: v for k, v in file.study.items() if k not in _STUDY_SETTINGS})
    except ValueError as error:
        file.fail(("study",), str(error))
    return {**file.study, **config.settings}


def _measure_plan(settings: dict[str, Any]) -> MeasurePlan:
    batch_size = settings.get("measure_batch_size", MeasurePlan.batch_size)
    if not isinstance(batch_size, int) or batch_size < 1:
        raise StudyConfigError(f"measure_batch_size must be a whole number of at least 1, got {batch_size!r}")
    return MeasurePlan(batch_size=batch_size)


def _default_name(space: str, data: str, seed: int) -> str:
    """'small-digits', and '-seed1' for other seeds: one command, one study."""
    name = plain_name(f"{space}-{Path(data).absolute().name}")
    return f"{name}-seed{seed}" if seed else name


def _load_data(name: str, space: Space, runs_dir: Path) -> ImageData:
    """The dataset at the space's image size, cached beside the studies."""
    cache_dir = runs_dir / ".data"
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        return load_dataset(name, image_size=space.base.size, cache_dir=cache_dir)
    except OSError as error:
        raise StoreError(f"cannot write to {cache_dir}: {error.strerror or error}") from error


def _find_objectives(names: tuple[str, ...]) -> tuple[Objective, ...]:
    try:
        return find_objectives(names)
    except ValueError as error:
        raise StudyConfigError(str(error)) from error


def _check_sampler(name: str) -> None:
    from search.optuna_searcher import SAMPLERS

    if name not in SAMPLERS:
        raise StudyConfigError(f"unknown sampler {name!r}; {suggest(name, SAMPLERS)}")


def check_device(name: str) -> None:
    """Raise StudyConfigError for a device that is unknown or not here."""
    if name not in ("auto", "cpu") and not re.fullmatch(r"cuda(:\d+)?", name):
        raise StudyConfigError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N")
    if name.startswith("cuda") and count_gpus() <= int(name.partition(":")[2] or 0):
        raise StudyConfigError(f"there is no device {name!r} here: {count_gpus()} CUDA devices are seen")


def _check_same_study(name: str, stored: dict[str, Any], asked: dict[str, Any]) -> None:
    differing = [part for part in _IDENTITY if stored.get(part) != asked[part]]
    if differing:
        details = ", ".join(_describe_difference(part, stored.get(part), asked[part]) for part in differing)
        raise StoreError(
            f"study {name!r} was started with something else ({details}); "
            "repeat it as it was, or give this search a name of its own with STUDY="
        )


def _describe_difference(part: str, stored: Any, asked: Any) -> str:
    if isinstance(stored, dict) and isinstance(asked, dict):
        keys = [key for key in asked if stored.get(key) != asked[key]]
        return ", ".join(_describe_difference(f"{part}.{key}", stored.get(key), asked[key]) for key in keys[:3])
    texts = [str(value) if len(str(value)) <= 40 else "..." for value in (stored, asked)]
    return part if "..." in texts else f"{part}: {texts[0]}, now {texts[1]}"


def _comparable_presets(space: Space) -> list[dict[str, Any]]:
    """Presets of the space's image size, with the space's classes and channels: marks on the plots."""
    base = space.base
    fitted = {
        name: arch.replace(num_classes=base.num_classes, in_channels=base.in_channels)
        for name, arch in PRESETS.items()
        if arch.size == base.size
    }
    return [
        {"name": name, "arch_key": arch.key(), "macs": count_cost(arch).macs, "params": count_cost(arch).params}
        for name, arch in fitted.items()
    ]


def _enqueued_presets(space: Space) -> list[tuple[str, ArchConfig]]:
    """Presets that are members of the space: they are trained first, so that a search can be compared with them."""
    members = []
    for name, arch in PRESETS.items():
        fitted = arch.replace(num_classes=space.base.num_classes, in_channels=space.base.in_channels)
        try:
            vector = space.encode(fitted)
        except (SpaceError, ValueError):
            continue
        if space.is_feasible(vector):
            members.append((name, fitted))
    return members
