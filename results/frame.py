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
from results.metrics import ACCURACY, cost_metric
from results.pareto import Array, hypervolume_history, minimised, pareto_mask, reference_point
from results.records import Asked, Event, Finished, Rung, Started
from results.store import StudyStore

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


def load_frame(study_dir: Path) -> pd.DataFrame:
    """One row a trial, in the order of their numbers; also while the study runs. StoreError if there is no study.

    Columns: trial, status (of ``records.STATUSES``, or 'running' while no outcome is written), source, arch_key,
    architecture (in words), the ``ARCH_COLUMNS``, all metrics (NaN where not reached), epoch (the last rung heard of),
    order (0 for the first trial to finish), seconds, study_seconds (how long the study had run when the trial ended,
    pauses left out; NaN where a ledger holds no times), seed, device, error.

    A stopped trial's accuracy is the one at its last rung: it is no result and never enters a front.
    """
    return build_frame(StudyStore.open_readonly(study_dir).events())


def build_frame(events: Iterable[Event]) -> pd.DataFrame:
    """``load_frame`` from events."""
    rows: dict[int, dict[str, Any]] = {}
    order, clock = 0, _Clock()
    for event in events:
        clock.observe(event)
        if not isinstance(event, (Asked, Rung, Finished)):
            continue
        row = rows.setdefault(event.trial, {"trial": event.trial, "status": RUNNING})
        if isinstance(event, Asked):
            row.update(_asked_row(event))
        elif isinstance(event, Rung):
            _add_rung(row, event)
        else:
            row.update(_finished_row(event, row), order=order, study_seconds=clock.seconds)
            order += 1
    return _tidy(rows)


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
    rows = frame[frame["status"] == "ok"]
    return rows[np.isfinite(rows[[ACCURACY, cost]].to_numpy(dtype=float)).all(axis=1)]


def progress(frame: pd.DataFrame, cost: str = "macs", limit: float | None = None) -> tuple[Array, Array]:
    """Hypervolume after each finished trial, in the order of finishing: (num_finished,), and the reference: (2,).

    Objectives are the error (1 - accuracy; reference 1) and log10 of the cost (reference: ``limit``, the space's own
    bound on the cost, or else the decade of ``pareto.reference_point``). The volume thus is accuracy times decades.
    """
    metric = cost_metric(cost)
    finished = frame[frame["order"] >= 0].sort_values("order")
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


def _asked_row(event: Asked) -> dict[str, Any]:
    return {"source": event.source, "seed": str(event.seed), **_arch_row(event.arch_key, event.arch)}


def _arch_row(arch_key: str, arch: dict[str, Any]) -> dict[str, Any]:
    columns = arch_columns(arch)
    return {"arch_key": arch_key, "architecture": describe_columns(columns) if arch else "", **columns}


def _add_rung(row: dict[str, Any], event: Rung) -> None:
    row["epoch"] = event.epoch
    if ACCURACY in event.metrics:
        row[ACCURACY] = event.metrics[ACCURACY]


def _finished_row(event: Finished, known: dict[str, Any]) -> dict[str, Any]:
    about = {name: getattr(event, name) for name in ("status", "seconds", "device", "error")}
    taken = {*_ABOUT, *ARCH_COLUMNS, *_RUN}
    metrics = {name: value for name, value in event.metrics.items() if name not in taken}
    arch = {} if event.arch_key == known.get("arch_key") else _arch_row(event.arch_key, event.arch)
    return {**arch, "seed": str(event.seed), **about, **metrics}


def _tidy(rows: dict[int, dict[str, Any]]) -> pd.DataFrame:
    seen = {name for row in rows.values() for name in row}
    extra = sorted(seen - {*_ABOUT, *ARCH_COLUMNS, *METRIC_COLUMNS, *_RUN})
    columns = [*_ABOUT, *ARCH_COLUMNS, *METRIC_COLUMNS, *extra, *_RUN]
    frame = pd.DataFrame([rows[trial] for trial in sorted(rows)], columns=columns)
    numbers = [*METRIC_COLUMNS, *extra, "seconds", "study_seconds"]
    frame[numbers] = frame[numbers].astype(float)
    counts = ["trial", "num_encoders", "epoch", "order"]
    frame[counts] = frame[counts].astype("Int64").fillna({"epoch": 0}).fillna(-1).astype("int64")
    words = [name for name in columns if name not in {*numbers, *counts}]
    frame[words] = frame[words].astype(object).where(frame[words].notna(), "").astype(str)
    return frame
