"""A whole search: from what was asked to a finished study. The file to read first.

``run_study`` opens or resumes the study's folder, builds the parts, lets the executor drive the session, and leaves a
ledger behind that everything else is made from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from crossvit_core.config import suggest
from crossvit_core.cost import count_cost
from crossvit_core.data import ImageData, load_dataset
from crossvit_core.presets import PRESETS
from crossvit_core.recipe import TrainRecipe, recipe_fields
from results.metrics import ACCURACY
from results.store import DEFAULT_RUNS_DIR, StoreError, StudyStore, check_study_name, plain_name
from search.budget import Budget, BudgetError, open_spending
from search.checkpoint_sweeper import CheckpointSweeper
from search.enqueue import Enqueued, find_enqueued, member_presets
from search.environment import count_cores, count_gpus, describe_environment, visible_gpus
from search.executors.base import Executor
from search.limits import check_energy, check_reachable, limit_space, plan_measuring
from search.mirrors import find_mirrors, open_mirrors
from search.objectives import DEFAULT_OBJECTIVES, Objective, find_objectives
from search.plan import MeasurePlan, Plan
from search.searcher import Searcher
from search.session import Listener, Session, StudyFailedError
from search.stopping import Stopping, StoppingError, make_rule
from space import LIMITED_METRICS, Space, SpaceFile, load_space

EXECUTORS = ("ray", "local")

_STUDY_SETTINGS = ("data", "trials", "measure_batch_size", "dashboard", "tensorboard", "stopping")
_DEFAULT_TRIALS = 64

# What a study must keep when it is resumed; anything else (trials, workers, executor) may change.
_IDENTITY = ("space", "data", "objectives", "recipe", "measure", "rungs", "sampler", "seed", "stopping", "round_size")

# What a study that was written before a part existed did about it.
_BEFORE = {"stopping": Stopping().to_dict(), "round_size": 0}

# What may change when a study is resumed, and is then noted.
_CHANGEABLE = ("trials", "budget")


class StudyConfigError(ValueError):
    """A study that was asked for in a way that cannot be."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """What was asked for. Fields left at None are the space file's, or follow from the machine.

    ``enqueue`` names architectures to train first (``search.enqueue``); ``deterministic`` asks in rounds
    (``search.rounds``). ``settings`` are training settings of the recipe that differ from the space file's. ``limits``
    are texts such as 'latency_ms<=5'; ``measure`` names measures (``search.measures``) beyond those that objectives and
    limits need.
    """

    space: str = "small"
    name: str | None = None
    data: str | None = None
    trials: int | None = None
    hours: float | None = None
    device_hours: float | None = None
    plateau: int | None = None
    enqueue: tuple[str, ...] = ()
    deterministic: bool = False
    seed: int = 0
    sampler: str = "tpe"
    objectives: tuple[str, ...] = DEFAULT_OBJECTIVES
    stopping: str | None = None
    max_killed: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    executor: str = "ray"
    workers: int | None = None
    gpus_per_trial: float | None = None
    ray_address: str | None = None
    trial_minutes: float | None = None
    device: str = "auto"
    runs_dir: Path = DEFAULT_RUNS_DIR
    keep_weights: bool = True
    limits: tuple[str, ...] = ()
    measure: tuple[str, ...] = ()
    dashboard: bool = False
    tensorboard: bool = False


@dataclass(frozen=True)
class Study:
    """A study that is resolved: every choice made, the data loaded, nothing on disk yet but the data's cache.

    ``mirrors`` are the views of ``search.mirrors`` to keep up to date; ``notes`` is what the user should know.
    """

    name: str
    path: Path
    space: Space
    data: ImageData
    objectives: tuple[Objective, ...]
    trials: int
    sampler: str
    seed: int
    plan: Plan
    stopping: Stopping = field(default_factory=Stopping)
    budget: Budget = field(default_factory=Budget)
    enqueued: tuple[Enqueued, ...] = ()
    round_size: int = 0
    mirrors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """What study.json holds."""
        return {
            "name": self.name,
            "space": self.space.to_dict(),
            "data": self.data.describe(),
            "objectives": [{"metric": o.metric, "direction": o.direction, "label": o.label} for o in self.objectives],
            "trials": self.trials,
            "planned_trials": self.trials,
            "budget": asdict(self.budget),
            "round_size": self.round_size,
            "sampler": self.sampler,
            "seed": self.seed,
            "recipe": self.plan.recipe.to_dict(),
            "measure": self.plan.measure.to_dict(),
            "rungs": list(self.plan.rungs),
            "stopping": self.stopping.to_dict(),
            "presets": _comparable_presets(self.space),
        }


def resolve_study(config: StudyConfig, file: SpaceFile | None = None) -> Study:
    """Make every choice that the config leaves open. Raises an error of the part that is at fault.

    ``file`` stands in for the one that ``config.space`` names.
    """
    check_device(config.device)
    file = file or load_space(config.space)
    limited, measured_limits = limit_space(file, config.limits)
    _check_sampler(config.sampler, limited)
    budget = _find_budget(config)
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
    objectives = _find_objectives(config.objectives)
    measure = plan_measuring(_measure_batch_size(settings), config.measure, objectives, measured_limits)
    stopping = _find_stopping(settings, config, objectives)
    recipe = TrainRecipe.from_dict({k: v for k, v in settings.items() if k not in _STUDY_SETTINGS})
    plan = Plan(
        recipe=recipe,
        data_path=data.cache_path,
        trials_dir=(path / "trials").absolute(),
        device=config.device,
        rungs=stopping.epochs_of(recipe.epochs),
        measure=measure,
        keep_weights=config.keep_weights,
        trial_minutes=_check_minutes(config.trial_minutes),
    )
    space = limited.for_data(num_classes=data.num_classes, in_channels=data.in_channels)
    check_reachable(space)
    mirrors = find_mirrors(settings, dashboard=config.dashboard, tensorboard=config.tensorboard)
    notes = () if config.ray_address else tuple(filter(None, [check_energy(measure, objectives, config.device)]))
    return Study(
        name=name,
        path=path,
        space=space,
        data=data,
        objectives=objectives,
        trials=trials,
        sampler=config.sampler,
        seed=config.seed,
        plan=plan,
        stopping=stopping,
        budget=budget,
        enqueued=tuple(find_enqueued(config.enqueue, space, config.runs_dir)),
        round_size=_find_round_size(config, stopping),
        mirrors=mirrors,
        notes=(*notes, *_note_unrepeatable(config, objectives)),
    )


def run_study(
    study: Study,
    executor: Executor,
    listeners: Iterable[Listener] = (),
    on_open: Callable[[Session], None] | None = None,
    searcher: Searcher | None = None,
) -> Session:
    """Run the study to its end, from wherever its ledger stands, and return the session.

    A ``searcher`` that is given decides every trial: the sampler, and what is enqueued, then have no say.
    """
    with open_store(study) as store, open_mirrors(study.mirrors, study.path) as mirrors:
        enqueued = [*study.enqueued, *member_presets(study.space)] if searcher is None else []
        sweeper = CheckpointSweeper(study.path / "trials")
        rule = make_rule(study.stopping, study.objectives, study.plan.recipe.epochs)
        limits = (*study.space.limits, *study.plan.measure.limits)
        session = Session(
            store,
            searcher or _make_searcher(study, store.study["planned_trials"]),
            trials=study.trials,
            seed=study.seed,
            stopping=rule,
            spending=open_spending(store, study.budget, study.objectives, limits),
            enqueued=enqueued,
            round_size=study.round_size,
            listeners=[*listeners, *mirrors, sweeper],
        )
        sweeper.sweep(session)
        if on_open is not None:
            on_open(session)
        if not session.is_over():
            _execute(executor, session, study.plan)
            sweeper.sweep(session)
        session.end()
    return session


def _make_searcher(study: Study, planned_trials: int) -> Searcher:
    from search.optuna_searcher import OptunaSearcher

    return OptunaSearcher(study.space, study.objectives, sampler=study.sampler, trials=planned_trials, seed=study.seed)


def _execute(executor: Executor, session: Session, plan: Plan) -> None:
    try:
        executor.run(session, plan)
    except StudyFailedError as error:
        session.end(str(error))
        raise


def open_store(study: Study) -> StudyStore:
    """The study's folder, made or gone on with. Raises StoreError if it holds a different study."""
    asked = study.describe()
    if not StudyStore.exists(study.path):
        store = StudyStore.create(study.path, asked)
    else:
        store = StudyStore.open(study.path)
        try:
            _check_same_study(study.name, store.study, asked)
            changed = {part: asked[part] for part in _CHANGEABLE if store.study.get(part) != asked[part]}
            if changed:
                store.write_json("study.json", {**store.study, **changed})
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
    if config.executor == "local":
        return _make_local_executor(_count_workers(config), config)
    from search.executors.ray_tune import RayExecutor

    if config.ray_address is not None:  # the cluster says what it has
        return RayExecutor(config.workers, gpus_per_trial=_asked_gpu_share(config), address=config.ray_address)
    return RayExecutor(_count_workers(config), gpus_per_trial=_gpu_share(config))


def _make_local_executor(workers: int, config: StudyConfig) -> Executor:
    from search.executors.local import InProcessExecutor, ProcessExecutor

    if not workers:
        return InProcessExecutor()
    spread = config.device in ("auto", "cuda") and _gpu_share(config) > 0
    return ProcessExecutor(workers, gpus=visible_gpus() if spread else ())


def _gpu_share(config: StudyConfig) -> float:
    """GPUs per trial: what was asked, else one where there are any, else none."""
    asked = _asked_gpu_share(config)
    if asked is not None:
        return asked
    uses_gpu = config.device != "cpu" and count_gpus() > 0
    return 1.0 if uses_gpu else 0.0


def _asked_gpu_share(config: StudyConfig) -> float | None:
    share = 0.0 if config.device == "cpu" else config.gpus_per_trial
    if config.gpus_per_trial is not None and config.gpus_per_trial < 0:
        raise StudyConfigError(f"gpus_per_trial must not be negative, got {config.gpus_per_trial}")
    if share is not None and share > 1 and share != int(share):
        raise StudyConfigError(f"gpus_per_trial above 1 must be a whole number, got {share}; use {int(share)}")
    return share


def _check_minutes(minutes: float | None) -> float | None:
    if minutes is not None and not minutes > 0:
        raise StudyConfigError(f"trial_minutes must be more than 0, got {minutes:g}; leave it out for no limit")
    return minutes


def _count_workers(config: StudyConfig) -> int:
    return config.workers if config.workers is not None else _default_workers(_gpu_share(config))


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
    if "stopping" in file.study:
        try:
            Stopping.from_setting(file.study["stopping"])
        except StoppingError as error:
            file.fail(("study", "stopping"), str(error))
    return {**file.study, **config.settings}


def _measure_batch_size(settings: dict[str, Any]) -> int:
    batch_size = settings.get("measure_batch_size", MeasurePlan.batch_size)
    if not isinstance(batch_size, int) or batch_size < 1:
        raise StudyConfigError(f"measure_batch_size must be a whole number of at least 1, got {batch_size!r}")
    return batch_size


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


def _find_stopping(settings: dict[str, Any], config: StudyConfig, objectives: tuple[Objective, ...]) -> Stopping:
    """The space file's rule, changed by what the command asks for. Raises StudyConfigError."""
    try:
        recommended = Stopping.from_setting(settings.get("stopping", Stopping.rule))
        stopping = recommended.changed(rule=config.stopping, max_killed=config.max_killed)
        make_rule(stopping, objectives, epochs=1)
    except StoppingError as error:
        raise StudyConfigError(str(error)) from error
    return stopping


def _check_sampler(name: str, space: Space) -> None:
    from search.samplers import check_sampler

    try:
        check_sampler(name, space)
    except ValueError as error:
        raise StudyConfigError(str(error)) from error


def _find_budget(config: StudyConfig) -> Budget:
    try:
        return Budget(hours=config.hours, device_hours=config.device_hours, plateau=config.plateau).check()
    except BudgetError as error:
        raise StudyConfigError(str(error)) from error


def _find_round_size(config: StudyConfig, stopping: Stopping) -> int:
    """Trials in a round of a deterministic search: the workers it has; 0 for a search that is not."""
    if config.deterministic and stopping.rule != Stopping.rule:
        raise StudyConfigError(
            f"a deterministic search cannot stop trials early: what the rule {stopping.rule!r} has seen when a trial "
            "reports depends on which worker was faster; use --stopping none"
        )
    return max(1, _count_workers(config)) if config.deterministic else 0


def _note_unrepeatable(config: StudyConfig, objectives: tuple[Objective, ...]) -> tuple[str, ...]:
    measured = [o.metric for o in objectives if o.metric not in (ACCURACY, *LIMITED_METRICS)]
    if not (config.deterministic and measured):
        return ()
    names = ", ".join(measured)
    return (f"{names} is measured and never twice the same: to repeat a search, leave it out of OBJECTIVES",)


def check_device(name: str) -> None:
    """Raise StudyConfigError for a device that is unknown or not here."""
    if name not in ("auto", "cpu") and not re.fullmatch(r"cuda(:\d+)?", name):
        raise StudyConfigError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N")
    if name.startswith("cuda") and count_gpus() <= int(name.partition(":")[2] or 0):
        raise StudyConfigError(f"there is no device {name!r} here: {count_gpus()} CUDA devices are seen")


def _check_same_study(name: str, stored: dict[str, Any], asked: dict[str, Any]) -> None:
    before = {part: stored.get(part, _BEFORE.get(part)) for part in _IDENTITY}
    differing = [part for part in _IDENTITY if before[part] != asked[part]]
    if differing:
        details = ", ".join(_describe_difference(part, before[part], asked[part]) for part in differing)
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
