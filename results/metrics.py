"""The metrics of a trial that people compare: which way is better, and how each is named and written."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from results.units import human_count, per_second, percent, quantity

ACCURACY = "val_accuracy"


class Metric(NamedTuple):
    """A column of the trials. ``axis`` is its axis title, ``write`` turns a value into text."""

    name: str
    label: str
    axis: str
    maximise: bool
    write: Callable[[float], str]

    def log_cost(self, value: float) -> float:
        """log10 of the value, turned so that lower is better; NaN where there is no logarithm."""
        if not (math.isfinite(value) and value > 0):
            return math.nan
        return -math.log10(value) if self.maximise else math.log10(value)


def cost_metric(name: str) -> Metric:
    """The metric that a front may set against accuracy. Raises ValueError naming the known ones."""
    if name not in COSTS:
        raise ValueError(f"no front over the cost {name!r}; known: {', '.join(sorted(COSTS))}")
    return COSTS[name]


def _unit(unit: str) -> Callable[[float], str]:
    return partial(quantity, unit=unit)


ACCURACY_METRIC = Metric(ACCURACY, "validation accuracy", "validation accuracy (%)", True, percent)

COSTS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("macs", "FLOPs", "FLOPs (multiply-adds), log scale", False, human_count),
        Metric("params", "parameters", "parameters, log scale", False, human_count),
        Metric("activations", "activations", "activations (values), log scale", False, human_count),
        Metric("throughput_ips", "throughput", "measured throughput (images/s), log scale", True, per_second),
        Metric("latency_ms", "latency", "measured latency of one image (ms), log scale", False, _unit("ms")),
        Metric("peak_memory_mb", "peak memory", "peak memory of a forward pass (MB), log scale", False, _unit("MB")),
        Metric(
            "train_memory_mb", "training memory", "peak memory of a training step (MB), log scale", False, _unit("MB")
        ),
        Metric("energy_mj", "energy", "measured energy per image (mJ), log scale", False, _unit("mJ")),
    )
}
