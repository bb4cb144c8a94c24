"""Learning curves to replay in benchmarks: from a formula, or from a table of trainings (benchmarks/crossbench)."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from benchmarks.crossbench.table import Table
from crossvit_core.config import ArchConfig
from crossvit_core.cost import count_cost
from search.trial import derive_seed
from space import Space, load_space


@dataclass(frozen=True)
class Training:
    """``curve``: validation accuracy after each epoch, as a search sees it; ``truth``: the final one without noise."""

    curve: Sequence[float]
    truth: float
    metrics: Mapping[str, float]


class Source(Protocol):
    """Where trainings come from."""

    space: Space
    epochs: int
    log_macs: tuple[float, float]

    def train(self, arch: ArchConfig) -> Training | None: ...


class Proxy:
    """Curves from a formula. ``seed`` draws what each choice is worth, how long it learns, and the noise.

    The accuracy rises from chance to a ceiling that grows with log FLOPs, by a stretched exponential whose time grows
    with log FLOPs as well: from a tenth of the epochs for the smallest to half of them for the largest networks.
    """

    epochs = 27
    _CHANCE = 0.1
    _NOISE = 0.008

    def __init__(self, seed: int) -> None:
        self.space, self.log_macs = _measured_space("small")
        self._seed = seed
        rng = np.random.default_rng(seed)
        self._worth = [rng.normal(0.0, 0.2, len(dimension.choices)) for dimension in self.space.dimensions]
        self._slowness = [rng.normal(0.0, 0.15, len(dimension.choices)) for dimension in self.space.dimensions]

    def train(self, arch: ArchConfig) -> Training:
        cost = count_cost(arch)
        size = (math.log10(cost.macs) - self.log_macs[0]) / (self.log_macs[1] - self.log_macs[0])
        vector = self.space.encode(arch)
        active = self.space.active_dimensions(vector)
        worth, slowness = (sum(table[i][vector[i]] for i in active) for table in (self._worth, self._slowness))
        ceiling = 1.0 / (1.0 + math.exp(-(0.3 + 2.5 * size + worth)))
        time_constant = self.epochs * (0.1 + 0.4 * size) * math.exp(slowness)
        epochs = np.arange(1, self.epochs + 1)
        clean = self._CHANCE + (ceiling - self._CHANCE) * -np.expm1(-((epochs / time_constant) ** 1.2))
        rng = np.random.default_rng(derive_seed(self._seed, arch.key()))
        noisy = np.clip(clean + rng.normal(0.0, self._NOISE, self.epochs), 0.0, 1.0)
        speed = 1e9 / (cost.macs * math.exp(0.3 * slowness))
        metrics = {"macs": cost.macs, "params": cost.params, "activations": cost.activations, "throughput_ips": speed}
        return Training(noisy.tolist(), float(clean[-1]), metrics)


class Replayed:
    """Real curves: one seed of a table is what the search sees, the mean over its seeds is the truth."""

    def __init__(self, table: Table, seed: int) -> None:
        self.space, self.log_macs = _measured_space("bench")
        self._table = table
        self._seed = table.seeds[seed % len(table.seeds)]
        self.epochs = len(table.frame["curve_val_accuracy"].iloc[0])

    def train(self, arch: ArchConfig) -> Training | None:
        found = [self._table.training(arch.key(), seed) for seed in self._table.seeds]
        ends = [one.curves["val_accuracy"][-1] for one in found if one is not None and one.status == "ok"]
        seen = self._table.training(arch.key(), self._seed)
        if seen is None or seen.status != "ok":
            return None
        return Training(seen.curves["val_accuracy"], statistics.fmean(ends), seen.metrics)


@functools.lru_cache
def _measured_space(name: str) -> tuple[Space, tuple[float, float]]:
    """A built-in space, and log10 of the fewest and the most FLOPs in it."""
    space = load_space(name).space
    low, high = (math.log10(value) for value in space.reach("macs"))
    return space, (low, high)
