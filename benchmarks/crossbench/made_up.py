"""A made-up table: for tests, and to try a race before the real one is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.crossbench.table import CURVES, Table
from crossvit_core.config import ArchConfig
from crossvit_core.cost import count_cost
from crossvit_core.recipe import TrainRecipe
from search.trial import derive_seed
from space import Space, load_space

EPOCHS = 8
RUNGS = (1, 2, 4)

_METRICS = ("macs", "params", "throughput_ips", "val_accuracy", "val_loss", "train_loss", "epochs", "train_cpu_seconds")


def made_up_table(space: Space, seeds: Sequence[int] = (0, 1)) -> Table:
    """Every network of a space with made-up curves: larger is better and learns more slowly, with noise by seed."""
    archs = [space.decode(vector) for vector in space.vectors()]
    return _table([_row(arch, seed) for seed in seeds for arch in archs], len(archs))


def table_of_points(points: Sequence[tuple[float, float]]) -> Table:
    """A table of one seed from (accuracy, macs), its networks named k0, k1, ...; training number i takes i + 1 s."""
    row = _row(load_space("bench").space.base, 0)
    names = ("val_accuracy", "macs", "arch_key", "train_cpu_seconds")
    rows = [{**row, **dict(zip(names, (*point, f"k{i}", i + 1.0)))} for i, point in enumerate(points)]
    return _table(rows, len(points))


def _row(arch: ArchConfig, seed: int) -> dict[str, Any]:
    cost, key = count_cost(arch), arch.key()
    curve = _curve(cost.macs, noise=derive_seed(seed, key) / 2**31 - 0.5)
    return {
        "arch_key": key,
        "seed": seed,
        "status": "ok",
        "error": "",
        "device": "cpu",
        "macs": cost.macs,
        "params": cost.params,
        "throughput_ips": 1e9 / cost.macs,
        "val_accuracy": curve[-1],
        "val_loss": 1.0,
        "train_loss": 1.0,
        "epochs": EPOCHS,
        "train_cpu_seconds": round(1.0 + cost.macs / 5e5, 3),
        **{f"curve_{name}": curve if name == "val_accuracy" else [1.0] * EPOCHS for name in CURVES},
    }


def _curve(macs: int, noise: float) -> list[float]:
    """Accuracy after each epoch."""
    final = min(0.99, 1.0 - 30.0 / macs**0.45 + 0.06 * noise)
    rate = 6.0 / EPOCHS / np.log10(macs / 4000)
    curve = [final * (1.0 - np.exp(-rate * epoch)) for epoch in range(1, EPOCHS)]
    return [round(float(value), 6) for value in (*curve, final)]


def _table(rows: list[dict[str, Any]], num_archs: int) -> Table:
    provenance = {
        "space": "bench",
        "num_archs": num_archs,
        "max_macs": 3_000_000,
        "rungs": list(RUNGS),
        "metrics": list(_METRICS),
        "recipe": {**TrainRecipe().to_dict(), "epochs": EPOCHS},
    }
    return Table(pd.DataFrame(rows), provenance)
