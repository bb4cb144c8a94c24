"""The table of CrossBench: every architecture of a small space, trained with several seeds, and the truth in it.

One row is one training. ``Table`` reads and writes the file; ``Truth`` is what a search is scored against: for each
architecture the mean over the seeds, which no search that trains it once can see.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from results.metrics import ACCURACY, cost_metric
from results.pareto import Array, hypervolume, hypervolume_history, pareto_mask, reference_point

DEFAULT_PATH = Path(__file__).with_name("crossbench.parquet")
CURVES = ("val_accuracy", "val_loss", "train_loss")
SIZES = ("small", "middle", "large")

_PROVENANCE = b"crossbench"


class TableError(ValueError):
    """A table that cannot be read or does not hold what is asked of it; the message is for the user."""


@dataclass(frozen=True)
class Training:
    """One row: ``metrics`` of the finished training, ``curves`` by name with one value an epoch."""

    arch_key: str
    status: str
    error: str
    device: str
    metrics: Mapping[str, float]
    curves: Mapping[str, tuple[float, ...]]

    @property
    def epochs(self) -> int:
        return len(self.curves["val_accuracy"])

    def seconds_until(self, epoch: int) -> float:
        """CPU seconds of training up to the end of an epoch: an equal share each."""
        return self.metrics["train_cpu_seconds"] * epoch / self.epochs


@dataclass(frozen=True)
class Table:
    """``frame`` has one row an architecture and seed: the columns that ``make_table`` documents."""

    frame: pd.DataFrame
    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path = DEFAULT_PATH) -> Table:
        """Read a table. Raises TableError if there is none."""
        if not path.is_file():
            raise TableError(f"no table at {path}; make it with: python benchmarks/crossbench/make_table.py")
        stored = pq.read_table(path)
        about = (stored.schema.metadata or {}).get(_PROVENANCE)
        if about is None:
            raise TableError(f"{path} was not written by make_table.py: it says nothing of where it comes from")
        return cls(stored.to_pandas(), json.loads(about))

    def save(self, path: Path) -> None:
        """Write the table whole or not at all."""
        stored = pa.Table.from_pandas(self.frame, preserve_index=False)
        about = {**(stored.schema.metadata or {}), _PROVENANCE: json.dumps(self.provenance).encode()}
        temporary = path.with_suffix(".tmp")
        pq.write_table(stored.replace_schema_metadata(about), temporary, compression="zstd")
        temporary.replace(path)

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted(int(seed) for seed in self.frame["seed"].unique()))

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The columns that are metrics of a finished training."""
        return tuple(self.provenance["metrics"])

    @functools.cached_property
    def _rows(self) -> dict[tuple[str, int], dict[str, Any]]:
        rows: list[Any] = self.frame.to_dict("records")
        return {(row["arch_key"], int(row["seed"])): row for row in rows}

    def training(self, arch_key: str, seed: int) -> Training | None:
        """One training; None if the table does not hold it."""
        row = self._rows.get((arch_key, seed))
        if row is None:
            return None
        metrics = {name: _plain(row[name]) for name in self.metric_names if not math.isnan(row[name])}
        curves = {name: tuple(float(value) for value in row[f"curve_{name}"]) for name in CURVES}
        return Training(arch_key, row["status"], row["error"], row["device"], metrics, curves)

    def truth(self, costs: Sequence[str] = ("macs",), max_macs: float | None = None) -> Truth:
        """What a search for accuracy against ``costs`` among the networks of at most ``max_macs`` is scored against."""
        return _build_truth(self, tuple(costs), max_macs)


@dataclass(frozen=True)
class Truth:
    """Points (num_archs, num_objectives), lower is better: the error, then each cost by ``Metric.log_cost``.

    ``reference`` is fixed by the limit and the table alone: error 1, the limit on the FLOPs, for other costs the next
    decade. ``seconds`` are the mean CPU seconds of one training, ``macs`` the multiply-adds: (num_archs,).
    """

    keys: tuple[str, ...]
    points: Array
    reference: Array
    seconds: Array
    macs: Array

    @functools.cached_property
    def index(self) -> dict[str, int]:
        return {key: place for place, key in enumerate(self.keys)}

    @functools.cached_property
    def hypervolume(self) -> float:
        return hypervolume(self.points, self.reference)

    @functools.cached_property
    def on_front(self) -> Array:
        """True where the architecture is on the true front: (num_archs,)."""
        return pareto_mask(self.points)

    @functools.cached_property
    def tercile(self) -> Array:
        """0, 1 or 2 (see ``SIZES``): the third of all architectures, by multiply-adds, that each is in."""
        return np.argsort(np.argsort(self.macs, kind="stable"), kind="stable") * 3 // len(self.macs)

    def front_by_size(self) -> dict[str, int]:
        """Members of the true front in each third of the architectures by multiply-adds."""
        return {name: int((self.on_front & (self.tercile == third)).sum()) for third, name in enumerate(SIZES)}

    def history(self, keys: Iterable[str]) -> Array:
        """Hypervolume after each architecture that was trained to the end, in the order given: (num_keys,)."""
        return hypervolume_history(self.points[[self.index[key] for key in keys]], self.reference)


def _build_truth(table: Table, costs: tuple[str, ...], max_macs: float | None) -> Truth:
    good = table.frame[table.frame["status"] == "ok"]
    limit = float(max_macs if max_macs is not None else table.provenance["max_macs"])
    names = list(dict.fromkeys((ACCURACY, *costs, "macs", "train_cpu_seconds")))
    means = good[good["macs"] <= limit].groupby("arch_key", sort=True)[names].mean()
    if means.empty:
        raise TableError(f"the table holds no architecture of at most {limit:g} multiply-adds")
    metrics = [cost_metric(name) for name in costs]
    columns = [1.0 - means[ACCURACY], *([metric.log_cost(value) for value in means[metric.name]] for metric in metrics)]
    points = np.column_stack(columns)
    limits = (1.0, *(math.log10(limit) if name == "macs" else None for name in costs))
    return Truth(
        keys=tuple(means.index),
        points=points,
        reference=reference_point(points, limits),
        seconds=means["train_cpu_seconds"].to_numpy(),
        macs=means["macs"].to_numpy(),
    )


def _plain(value: float) -> float | int:
    """Counts were written as integers."""
    return int(value) if float(value).is_integer() and abs(value) >= 1 else float(value)
