"""A study as Optuna's dashboard reads it: ``optuna.journal`` in its folder, written from the ledger, never read back.

Every trial of the ledger is a trial of the journal, of the same number: parameters as people wrote them in the space,
objectives in their own units, everything else as user attributes. Rungs are intermediate values. A dashboard that was
open while a search was resumed must be opened anew, since the journal is.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import shlex
import shutil
import sys
import warnings
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend, JournalFileOpenLock, JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from crossvit_core.config import ArchConfig
from results.architecture import describe_arch
from results.memory import MIRRORED, check_fits
from results.metrics import ACCURACY
from results.records import Asked, Event, Finished, Rung
from results.store import StoreError, StudyStore
from space import Dimension
from space.dimension import share_places
from space.paths import to_tree

JOURNAL = "optuna.journal"

_DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}

# As people understand them; what a sampler is told (``optuna_searcher``) is another matter.
_STATES = {
    "ok": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "infeasible": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "lost": TrialState.FAIL,
}


class JournalBusyError(Exception):
    """Another process, a running search, keeps this journal up to date."""


class JournalMirror:
    """Writes the journal of the study in ``run_dir`` anew from its ledger, then follows: call it with each event.

    Holds the journal for itself until it is closed, and waits for who holds it now if it may. Raises StoreError for a
    study that cannot be read, and JournalBusyError.
    """

    def __init__(self, run_dir: Path, *, wait: bool = True) -> None:
        store = StudyStore.open_readonly(run_dir)
        study = store.study
        check_fits(run_dir, MIRRORED, "a journal for a dashboard")
        objectives = _objectives(run_dir, study)
        dimensions = (study.get("space") or {}).get("dimensions") or {}
        self._dimensions = share_places([Dimension(path, tuple(choices)) for path, choices in dimensions.items()])
        self._metrics = list(objectives)
        self._ids: dict[int, int] = {}
        self._backend = _MemoryBackend()
        with _quiet():
            self._storage = JournalStorage(self._backend)
            self._study_id = self._storage.create_new_study(list(objectives.values()), run_dir.name)
            optuna.load_study(study_name=run_dir.name, storage=self._storage).set_metric_names(self._metrics)
        self._add_all(store.events())
        self._path = (run_dir / JOURNAL).absolute()
        self._owner = _take(self._path, wait)
        try:
            self._begin()
        except BaseException:
            self._owner.close()
            raise

    def __call__(self, event: Event) -> None:
        if isinstance(event, Asked):
            self._create(event, [], None)
        elif isinstance(event, Rung) and ACCURACY in event.metrics:
            self._storage.set_trial_intermediate_value(self._ids[event.trial], event.epoch, event.metrics[ACCURACY])
        elif isinstance(event, Finished):
            self._finish(event)
        self._backend.flush(self._file)

    def close(self) -> None:
        """Let go of the journal."""
        self._owner.close()

    def _begin(self) -> None:
        """Write all that is known to an empty file."""
        # What a killed writer left behind, a lock included, is nobody's: the journal is ours alone.
        Path(f"{self._path}.lock").unlink(missing_ok=True)
        self._owner.truncate(0)
        self._file = JournalFileBackend(str(self._path), lock_obj=JournalFileOpenLock(str(self._path)))
        self._backend.flush(self._file)

    def _add_all(self, events: Iterable[Event]) -> None:
        asked: dict[int, Asked] = {}
        rungs: dict[int, list[Rung]] = {}
        finished: dict[int, Finished] = {}
        for event in events:
            if isinstance(event, Asked):
                asked[event.trial] = event
            elif isinstance(event, Rung):
                rungs.setdefault(event.trial, []).append(event)
            elif isinstance(event, Finished):
                finished[event.trial] = event
        for number in sorted(asked):
            self._create(asked[number], rungs.get(number, []), finished.get(number))

    def _create(self, asked: Asked, rungs: list[Rung], finished: Finished | None) -> None:
        params, distributions = self._params(asked.arch)
        state, values = self._outcome(finished) if finished is not None else (TrialState.RUNNING, None)
        trial = FrozenTrial(
            number=-1,
            trial_id=-1,
            state=state,
            value=None,
            values=values,
            datetime_start=_time(asked.time),
            datetime_complete=_time(finished.time) if finished is not None else None,
            params=params,
            distributions=distributions,
            user_attrs={**_about(asked), **(_attributes(finished) if finished is not None else {})},
            system_attrs={},
            intermediate_values={rung.epoch: rung.metrics[ACCURACY] for rung in rungs if ACCURACY in rung.metrics},
        )
        with _quiet():
            self._ids[asked.trial] = self._storage.create_new_trial(self._study_id, trial)

    def _finish(self, finished: Finished) -> None:
        trial_id = self._ids[finished.trial]
        for name, value in _attributes(finished).items():
            self._storage.set_trial_user_attr(trial_id, name, value)
        state, values = self._outcome(finished)
        self._storage.set_trial_state_values(trial_id, state, values)

    def _outcome(self, finished: Finished) -> tuple[TrialState, list[float] | None]:
        """The state, and the objectives of a trial that has them all: Optuna knows no others as complete."""
        values = [finished.metrics.get(metric, math.nan) for metric in self._metrics]
        state = _STATES[finished.status]
        if state != TrialState.COMPLETE:
            return state, None
        return (state, values) if all(map(math.isfinite, values)) else (TrialState.FAIL, None)

    def _params(self, arch: dict[str, Any]) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
        tree = to_tree(ArchConfig.from_dict(arch))
        read = ((dimension, dimension.read(tree)) for dimension in self._dimensions if dimension.is_active(tree))
        chosen = [(dimension, index) for dimension, index in read if index is not None]
        return (
            {dimension.path: _readable(dimension.choices[index]) for dimension, index in chosen},
            {dimension.path: _distribution(dimension) for dimension, _ in chosen},
        )


def write_journal(run_dir: Path) -> Path:
    """Write a study's journal from its ledger; returns its absolute path. A running search's own is left to it.

    Raises StoreError for a study that cannot be read.
    """
    with contextlib.suppress(JournalBusyError):
        JournalMirror(run_dir, wait=False).close()
    return (run_dir / JOURNAL).absolute()


def describe_opening(journal: Path) -> str:
    """The command that shows a journal, and how to get it where it is missing."""
    command = f"optuna-dashboard {shlex.quote(str(journal))}"
    beside = Path(sys.executable).with_name("optuna-dashboard")
    if shutil.which("optuna-dashboard") or beside.exists():
        return f"open it with\n  {command}"
    return f"open it with\n  {command}\nafter, once: pip install optuna-dashboard"


class _MemoryBackend(BaseJournalBackend):
    """All logs in memory, so that the file is only ever written, an event or a whole study at a time."""

    def __init__(self) -> None:
        self._logs: list[dict[str, Any]] = []
        self._flushed = 0

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._logs.extend(json.loads(json.dumps(log)) for log in logs)

    def flush(self, file: BaseJournalBackend) -> None:
        """Write what the file does not hold yet."""
        if self._flushed < len(self._logs):
            file.append_logs(self._logs[self._flushed :])
            self._flushed = len(self._logs)


def _objectives(run_dir: Path, study: dict[str, Any]) -> dict[str, StudyDirection]:
    """Metric and direction of each objective. Raises StoreError for a study that names none."""
    try:
        return {str(objective["metric"]): _DIRECTIONS[objective["direction"]] for objective in study["objectives"]}
    except (KeyError, TypeError) as error:
        raise StoreError(f"{run_dir / 'study.json'} is damaged: it names no objectives") from error


def _take(path: Path, wait: bool) -> IO[str]:
    owner = open(path, "a", encoding="utf-8")  # noqa: SIM115  held until close
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        owner.close()
        raise JournalBusyError(f"{path} is kept up to date by another process") from None
    return owner


def _about(asked: Asked) -> dict[str, Any]:
    return {
        "architecture": describe_arch(asked.arch),
        "arch_key": asked.arch_key,
        "source": asked.source,
    }


def _attributes(finished: Finished) -> dict[str, Any]:
    """What people want to see of an outcome. Numbers that JSON has no word for are written as text."""
    metrics = {name: value if math.isfinite(value) else str(value) for name, value in finished.metrics.items()}
    return {**metrics, "status": finished.status, "seconds": finished.seconds, "error": finished.error}


def _distribution(dimension: Dimension) -> BaseDistribution:
    """Numbers in rising order get an axis of numbers; the space's own gaps do not show on it."""
    if dimension.ordered and len(dimension.choices) > 1:
        low, high = dimension.choices[0], dimension.choices[-1]
        whole = all(isinstance(choice, int) for choice in dimension.choices)
        return IntDistribution(low, high) if whole else FloatDistribution(low, high)
    return CategoricalDistribution([_readable(choice) for choice in dimension.choices])


def _readable(choice: Any) -> Any:
    return choice if choice is None or isinstance(choice, (bool, int, float, str)) else str(choice)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, tz=timezone.utc)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Optuna says at length what it does, and calls naming objectives experimental; the search speaks for itself."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
