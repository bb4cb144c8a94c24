"""A study's ledger as one tidy table, and the fronts in it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from results.architecture import COLUMNS as ARCH_COLUMNS
from results.architecture import arch_columns, describe_columns
from results.memory import READ, check_fits
from results.metrics import ACCURACY, cost_metric
from results.pareto import Array, hypervolume_history, minimised, pareto_mask, reference_point
from results.records import Asked, Event, Finished, Rung, Started
from results.store import StudyStore
from results.trial_table import TrialTable, decoded

RUNNING = "running"

METRIC_COLUMNS = (
    "val_accuracy",
    "val_loss",
    "macs",
    "params",
    "activations",
    "throughput_ips",
    "throughput_iqr",
    "throughput_ratio",
    "latency_ms",
    "latency_p95_ms",
    "peak_memory_mb",
    "train_memory_mb",
    "energy_mj",
    "train_seconds",
    "measure_seconds",
)
_ABOUT = ("trial", "status", "source", "arch_key", "architecture")
_RUN = ("epoch", "order", "seconds", "study_seconds", "seed", "device", "error")
_TAKEN = frozenset({*_ABOUT, *ARCH_COLUMNS, *_RUN})  # what no metric may be called
_ARCH = "arch"
_NO_ARCH: dict[str, Any] = {name: -1 if name == "num_encoders" else "" for name in ARCH_COLUMNS}


def load_frame(study_dir: Path) -> pd.DataFrame:
    """One row a trial, in the order of their numbers; also while the study runs.

    Raises StoreError if there is no study, or one that is too large for the memory there is.
    Columns: trial, status (of ``records.STATUSES``, or 'running' while no outcome is written), source, arch_key,
    architecture (in words), the ``ARCH_COLUMNS``, all metrics (NaN where not reached), epoch (the last rung heard of),
    order (0 for the first trial to finish), seconds, study_seconds (how long the study had run when the trial ended,
    pauses left out; NaN where a ledger holds no times), seed, device, error.

    A stopped trial's accuracy is the one at its last rung: it is no result and never enters a front.
    """
    store = StudyStore.open_readonly(study_dir)
    check_fits(study_dir, READ, "a table of its trials")
    return build_frame(store.events())


def build_frame(events: Iterable[Event]) -> pd.DataFrame:
    """``load_frame`` from events."""
    trials, archs = TrialTable(), Architectures()
    order, clock = 0, _Clock()
    for event in events:
        clock.observe(event)
        if isinstance(event, Asked):
            row = trials.row(event.trial)
            trials.set_words(row, {"source": event.source, "seed": str(event.seed), _ARCH: archs.note(event)})
        elif isinstance(event, Rung):
            _add_rung(trials, event)
        elif isinstance(event, Finished):
            _add_outcome(trials, event, archs.note(event))
            trials.set_numbers(trials.row(event.trial), {"order": order, "study_seconds": clock.seconds})
            order += 1
    return _tidy(trials, archs)


def front(frame: pd.DataFrame, cost: str = "macs") -> pd.DataFrame:
    """The rows that no other beats in accuracy and cost, cheapest first. Ties are all kept.

    Only trials that ended ``ok`` with both numbers finite count. Raises ValueError for a cost that is not known.
    """
    metric = cost_metric(cost)
    rows = complete(frame, cost)
    if rows.empty:
        return rows
    points = minimised(rows[[ACCURACY, cost]].to_numpy(dtype=float), (True, metric.maximise))
    members = rows[pareto_mask(points)]
    # Slowest is the expensive end: along the front accuracy always rises.
    return members.sort_values([cost, "trial"], ascending=[not metric.maximise, True])


def complete(frame: pd.DataFrame, cost: str) -> pd.DataFrame:
    """The trials that ended ``ok`` and have an accuracy and this cost."""
    known = np.isfinite(frame[[ACCURACY, cost]].to_numpy(dtype=float)).all(axis=1)
    return frame[known & (frame["status"] == "ok").to_numpy()]


def progress(frame: pd.DataFrame, cost: str = "macs", limit: float | None = None) -> tuple[Array, Array]:
    """Hypervolume after each finished trial, in the order of finishing: (num_finished,), and the reference: (2,).

    Objectives are the error (1 - accuracy; reference 1) and log10 of the cost (reference: ``limit``, the space's own
    bound on the cost, or else the decade of ``pareto.reference_point``). The volume thus is accuracy times decades.
    """
    metric = cost_metric(cost)
    finished = frame.loc[frame["order"] >= 0, ["order", "status", ACCURACY, cost]].sort_values("order")
    usable = (finished["status"] == "ok").to_numpy()
    error = np.where(usable, 1.0 - finished[ACCURACY].to_numpy(dtype=float), np.nan)
    points = np.column_stack([error, [metric.log_cost(value) for value in finished[cost].to_numpy(dtype=float)]])
    bound = None if limit is None or not math.isfinite(metric.log_cost(limit)) else metric.log_cost(limit)
    reference = reference_point(points, (1.0, bound))
    return hypervolume_history(points, reference), reference


class _Clock:
    """How long the study has run at the event observed last. What lies before a restart is a pause."""

    def __init__(self) -> None:
        self.seconds = math.nan
        self._last = 0.0

    def observe(self, event: Event) -> None:
        if not event.time:
            return
        first = math.isnan(self.seconds)
        paused = first or isinstance(event, Started)
        self.seconds = (0.0 if first else self.seconds) + (0.0 if paused else max(0.0, event.time - self._last))
        self._last = event.time


class Architectures:
    """What a table says of each architecture, worked out once however often it was trained."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Any, ...]] = {"": ("", "", *_NO_ARCH.values())}

    def note(self, event: Asked | Finished) -> str:
        """The name under which ``rows`` has it: its key, or of a record without one all that it says."""
        name = event.arch_key or str(event.arch)
        if name not in self._known:
            columns = arch_columns(event.arch)
            words = describe_columns(columns) if event.arch else ""
            self._known[name] = (event.arch_key, words, *columns.values())
        return name

    def rows(self, names: Iterable[str]) -> pd.DataFrame:
        """A row for each name: arch_key, architecture, the ``ARCH_COLUMNS``."""
        return pd.DataFrame([self._known[name] for name in names], columns=["arch_key", "architecture", *ARCH_COLUMNS])


def _add_rung(trials: TrialTable, event: Rung) -> None:
    shown = {ACCURACY: event.metrics[ACCURACY]} if ACCURACY in event.metrics else {}
    trials.set_numbers(trials.row(event.trial), {"epoch": event.epoch, **shown})


def _add_outcome(trials: TrialTable, event: Finished, arch: str) -> None:
    row = trials.row(event.trial)
    words = {"status": event.status, "seed": str(event.seed), "device": event.device, "error": event.error}
    trials.set_words(row, {**words, _ARCH: arch})
    metrics = {name: value for name, value in event.metrics.items() if name not in _TAKEN}
    trials.set_numbers(row, {"seconds": event.seconds, **metrics})


def _tidy(trials: TrialTable, archs: Architectures) -> pd.DataFrame:
    extra = sorted(trials.number_names() - {*METRIC_COLUMNS, *_RUN})
    columns: dict[str, Any] = {"trial": trials.trials()}
    kinds, which = archs.rows(trials.distinct(_ARCH)), trials.codes(_ARCH)
    for name in kinds.columns.astype(str):
        numeric = name == "num_encoders"
        columns[name] = kinds[name].to_numpy("int64")[which] if numeric else decoded(which, kinds[name].tolist())
    for name in ("status", "source", "seed", "device", "error"):
        words = trials.distinct(name)
        columns[name] = decoded(trials.codes(name), [RUNNING, *words[1:]] if name == "status" else words)
    for name in (*METRIC_COLUMNS, *extra, "seconds", "study_seconds"):
        columns[name] = trials.numbers(name)
    for name, missing in (("epoch", 0), ("order", -1)):
        columns[name] = np.nan_to_num(trials.numbers(name), nan=missing).astype("int64")
    order = [*_ABOUT, *ARCH_COLUMNS, *METRIC_COLUMNS, *extra, *_RUN]
    return pd.DataFrame({name: columns[name] for name in order}, copy=False)
