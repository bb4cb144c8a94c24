"""A whole search: from what was asked to a finished study. The file to read first.

``run_study`` opens or resumes the study's folder, builds the parts, lets the executor drive the session, and leaves a
ledger behind that everything else is made from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from crossvit_core.cost import count_cost
from crossvit_core.data import ImageData, load_dataset
from crossvit_core.fields import is_count
from crossvit_core.presets import PRESETS
from crossvit_core.recipe import TrainRecipe
from results.store import TRIALS_FOLDER, StoreError, check_new_name
from search.budget import Budget, open_spending
from search.choices import (
    STUDY_SETTINGS,
    check_device,
    check_minutes,
    check_sampler_fits,
    choose_budget,
    choose_objectives,
    choose_round_size,
    choose_stopping,
    default_name,
    find_batch_size,
    merge_settings,
    note_unrepeatable,
)
from search.driver import drive
from search.enqueue import Enqueued, find_enqueued, member_presets
from search.executors.base import Executor
from search.limits import check_energy, check_reachable, limit_space, plan_measuring
from search.mirrors import find_mirrors, open_mirrors
from search.objectives import Objective
from search.plan import Plan
from search.searcher import Searcher
from search.session import ALL_TRIED, NONE_FOUND, Listener, Session
from search.stopping import Stopping, make_rule
from search.study_config import StudyConfig, StudyConfigError
from search.study_folder import open_study
from space import Space, SpaceFile, load_space

_DEFAULT_TRIALS = 64


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
            "objectives": [{"metric": o.metric, "direction": o.direction} for o in self.objectives],
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
    _check_file(file)
    limited, measured_limits = limit_space(file, config.limits)
    check_sampler_fits(config.sampler, limited)
    budget = choose_budget(config)
    settings = merge_settings(file, config)
    data_name = config.data or settings.pop("data", None)
    if not data_name:
        raise StudyConfigError(f"space {file.space.name!r} names no dataset; give one with DATA=")
    trials = config.trials if config.trials is not None else settings.pop("trials", _DEFAULT_TRIALS)
    if not is_count(trials, 1):
        raise StudyConfigError(f"trials must be a whole number of at least 1, got {trials!r}")
    name = check_new_name(config.name or default_name(file.space.name, data_name, config.seed))
    path = config.runs_dir / name
    data = _load_data(data_name, file.space, config.runs_dir)
    if data.cache_path is None:
        raise StudyConfigError(f"the dataset {data_name!r} has no cache that workers could share")
    objectives = choose_objectives(config.objectives)
    measure = plan_measuring(find_batch_size(settings), config.measure, objectives, measured_limits)
    stopping = choose_stopping(settings, config, objectives)
    recipe = TrainRecipe.from_dict({k: v for k, v in settings.items() if k not in STUDY_SETTINGS})
    plan = Plan(
        recipe=recipe,
        data_path=data.cache_path,
        trials_dir=(path / TRIALS_FOLDER).absolute(),
        device=config.device,
        rungs=stopping.epochs_of(recipe.epochs),
        measure=measure,
        keep_weights=config.keep_weights,
        trial_minutes=check_minutes(config.trial_minutes),
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
        round_size=choose_round_size(config),
        mirrors=mirrors,
        notes=(*notes, *note_unrepeatable(config, objectives)),
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
    with open_study(study) as store, contextlib.ExitStack() as opened:
        enqueued = [*study.enqueued, *member_presets(study.space)] if searcher is None else []
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
            listeners=listeners,
            exhausted=ALL_TRIED if study.space.is_enumerable else NONE_FOUND,
        )
        # After the session, which may have settled a trial: they read the ledger when they are opened.
        session.listen(opened.enter_context(open_mirrors(study.mirrors, study.path)))
        drive(session, executor, study.plan, study.path / TRIALS_FOLDER, on_open)
    return session


def _make_searcher(study: Study, planned_trials: int) -> Searcher:
    from search.optuna_searcher import OptunaSearcher

    return OptunaSearcher(study.space, study.objectives, sampler=study.sampler, trials=planned_trials, seed=study.seed)


def _check_file(file: SpaceFile) -> None:
    """What a space may have and a study of it may not, and what pydantic leaves to us."""
    if any(dimension.path == "image_size" for dimension in file.space.dimensions):
        problem = "image_size: a study reads its images at one size; put it under 'fixed', each size a study of its own"
        file.fail(("dimensions", "image_size"), problem)
    trials = file.study.get("trials", 1)
    if not is_count(trials, 1):
        file.fail(("study", "trials"), f"trials must be a whole number of at least 1, got {trials!r}")


def _load_data(name: str, space: Space, runs_dir: Path) -> ImageData:
    """The dataset at the space's image size, cached beside the studies."""
    cache_dir = runs_dir / ".data"
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        return load_dataset(name, image_size=space.base.size, cache_dir=cache_dir)
    except OSError as error:
        raise StoreError(f"cannot write to {cache_dir}: {error.strerror or error}") from error


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
