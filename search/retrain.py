"""Training finalists again on fresh seeds: a study of its own beside the search's, resumable, its weights kept.

The full recipe, nothing stopped early, the last epoch's score: no number here was picked for being high.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from crossvit_core.config import ArchConfig
from crossvit_core.data import ImageData
from crossvit_core.recipe import TrainRecipe
from results.records import Asked, Event
from results.repeats import describe_stranger, retrain_dir
from results.store import TRIALS_FOLDER, StoreError, StudyStore
from search.choices import check_device
from search.driver import check_success, drive
from search.executors.base import Executor
from search.finalists import DEFAULT_SEEDS, SelectionError
from search.list_searcher import TRIAL_PREFIX, ListedTrial, ListSearcher
from search.plan import MeasurePlan, Plan, geometric_rungs
from search.session import Listener, Session
from search.stopping import Stopping
from search.study_data import open_study_data
from search.study_folder import open_store
from search.trial import derive_seed

# What the study of a retraining takes over from the search, for its report.
_TAKEN_OVER = ("space", "objectives", "presets", "seed")


@dataclass(frozen=True, kw_only=True)
class RetrainConfig:
    """What was asked for: ``trials`` of the study in ``study_dir``, each on ``seeds`` fresh seeds.

    ``settings`` are training settings that differ from the search's recipe. A retraining that is gone on with keeps
    its own. ``moved_to``: where the study's images are now, if they have moved.
    """

    study_dir: Path
    trials: tuple[int, ...]
    seeds: int = DEFAULT_SEEDS
    settings: dict[str, Any] = field(default_factory=dict)
    device: str = "auto"
    moved_to: str | None = None


@dataclass(frozen=True)
class Retraining:
    """A retraining with every choice made. ``items`` are those on record, in their order, then what is still to do."""

    path: Path
    described: dict[str, Any]
    items: tuple[ListedTrial, ...]
    plan: Plan


def resolve_retraining(config: RetrainConfig) -> Retraining:
    """Make every choice. Raises SelectionError, StoreError, DataError or RecipeError for what cannot be."""
    check_device(config.device)
    if config.seeds < 1:
        raise SelectionError(f"seeds must be at least 1, got {config.seeds}; with 3 or more there is an interval")
    source = StudyStore.open_readonly(config.study_dir)
    path, stranger = retrain_dir(config.study_dir), describe_stranger(config.study_dir)
    if stranger:
        raise StoreError(stranger)
    events = list(StudyStore.open_readonly(path).events()) if StudyStore.exists(path) else []
    data = open_study_data(config.study_dir, config.moved_to)
    recipe = _find_recipe(config, source.study, path)
    items = _list_items(config, source, events)
    plan = _make_plan(config, source.study, path, recipe, data)
    described = _describe(_retrained_as(config.study_dir, path), source.study, path, plan, data, items, config.seeds)
    return Retraining(path, described, items, plan)


def run_retraining(
    retraining: Retraining,
    executor: Executor,
    listeners: Iterable[Listener] = (),
    on_open: Callable[[Session], None] | None = None,
) -> Session:
    """Train whatever is still to do, from wherever the ledger stands, and return the session.

    Raises StudyFailedError if no run came to a result.
    """
    go_on = partial(_go_on, described=retraining.described)
    with open_store(retraining.path, retraining.described, go_on) as store:
        session = Session(
            store,
            ListSearcher(retraining.items),
            trials=len(retraining.items),
            seed=int(retraining.described["seed"]),
            listeners=listeners,
        )
        drive(session, executor, retraining.plan, retraining.path / TRIALS_FOLDER, on_open)
    advice = f". They stay on record: mend that and move {retraining.path} away to begin again"
    check_success(session, "fresh run", advice)
    return session


def fresh_seed(study_seed: int, arch_key: str, index: int, used: set[int]) -> int:
    """Seed number ``index`` of an architecture's retraining: equal everywhere, none that the search has used."""
    seed = derive_seed("retrain", study_seed, arch_key, index)
    while seed in used:
        seed = derive_seed("retrain", seed)
    return seed


def _find_recipe(config: RetrainConfig, study: dict[str, Any], path: Path) -> TrainRecipe:
    if not StudyStore.exists(path):
        return TrainRecipe.from_dict({**study["recipe"], **config.settings})
    begun = TrainRecipe.from_dict(StudyStore.open_readonly(path).study["recipe"])
    asked = TrainRecipe.from_dict({**begun.to_dict(), **config.settings})
    for name, value in asked.to_dict().items():
        if value != getattr(begun, name):
            raise StoreError(
                f"the retraining {path.name!r} was begun with {name} {getattr(begun, name)}, not {value}: its runs "
                f"could not be compared. Leave {name} out to go on, or move {path} away to begin another"
            )
    return begun


def _list_items(config: RetrainConfig, source: StudyStore, events: Sequence[Event]) -> tuple[ListedTrial, ...]:
    """What the ledger has, in its order; then what is missing, one seed of everybody before anybody's next."""
    searched = {event.trial: event for event in source.events() if isinstance(event, Asked)}
    done = [_listed(asked, asked.seed, asked.source) for asked in events if isinstance(asked, Asked)]
    taken = {(item.arch_key, item.seed) for item in done}
    used = {asked.seed for asked in searched.values()}
    study_seed = int(source.study.get("seed", 0))
    for index in range(config.seeds):
        for trial in config.trials:
            asked = searched[trial]
            seed = fresh_seed(study_seed, asked.arch_key, index, used)
            if (asked.arch_key, seed) not in taken:
                done.append(_listed(asked, seed, f"{TRIAL_PREFIX}{trial}"))
    return tuple(done)


def _listed(asked: Asked, seed: int, source: str) -> ListedTrial:
    """Under the search's own key, by which the two studies are read together."""
    return ListedTrial(ArchConfig.from_dict(asked.arch), seed, source, asked.arch_key)


def _make_plan(config: RetrainConfig, study: dict[str, Any], path: Path, recipe: TrainRecipe, data: ImageData) -> Plan:
    if data.cache_path is None:
        raise SelectionError(f"the dataset {data.name!r} has no cache that workers could share")
    return Plan(
        recipe=recipe,
        data_path=data.cache_path,
        trials_dir=(path / TRIALS_FOLDER).absolute(),
        device=config.device,
        rungs=geometric_rungs(recipe.epochs),
        measure=MeasurePlan.of_study(study),
    )


def _describe(
    name: str, study: dict[str, Any], path: Path, plan: Plan, data: ImageData, items: Sequence[ListedTrial], seeds: int
) -> dict[str, Any]:
    """What study.json of the retraining holds."""
    return {
        "name": path.name,
        "retrain_of": name,
        "finalists": list(dict.fromkeys(item.arch_key for item in items)),
        "seeds": seeds,
        **{part: study[part] for part in _TAKEN_OVER if part in study},
        "data": data.describe(),
        "trials": len(items),
        "planned_trials": len(items),
        "sampler": "list",
        "seed": int(study.get("seed", 0)),
        "recipe": plan.recipe.to_dict(),
        "measure": plan.measure.to_dict(),
        "rungs": list(plan.rungs),
        "stopping": Stopping().to_dict(),
    }


def _retrained_as(study_dir: Path, path: Path) -> str:
    """The study's name as the retraining has it: the two may have been renamed since."""
    return str(StudyStore.open_readonly(path).study["retrain_of"]) if StudyStore.exists(path) else study_dir.name


def _go_on(store: StudyStore, described: dict[str, Any]) -> None:
    if store.study.get("retrain_of") != described["retrain_of"]:
        raise StoreError(
            f"study {store.path.name!r} is no retraining of {described['retrain_of']!r}; rename one of them"
        )
    finalists = list(dict.fromkeys([*store.study["finalists"], *described["finalists"]]))
    changed = {"trials": described["trials"], "seeds": described["seeds"], "finalists": finalists}
    store.write_json("study.json", {**store.study, **changed})
