"""A worker measures a candidate before it trains it: the measures of the plan, one after the other, against the limits.

Energy that nothing counts is left out of the record; whoever asked for it was told before the search began.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from crossvit_core.device_lock import DeviceLock
from crossvit_core.energy import EnergyUnavailableError
from crossvit_core.measure import measure_throughput
from crossvit_core.measure_energy import measure_energy_mj
from crossvit_core.measure_latency import measure_latency
from crossvit_core.measure_memory import measure_peak_memory_mb, measure_train_memory_mb
from crossvit_core.model import CrossViT
from search.plan import Plan


class LimitBrokenError(Exception):
    """A measured metric lies outside the study's limits: the message says which, and by how much."""


@dataclass(frozen=True)
class Candidate:
    """A built model and where it is to be measured."""

    model: CrossViT
    plan: Plan
    device: str
    lock: DeviceLock

    def common(self) -> dict[str, Any]:
        """What every measurement is told."""
        arch = self.model.arch
        return {
            "size": arch.size,
            "in_channels": arch.in_channels,
            "device": self.device,
            "amp": self.plan.recipe.amp,
            "lock": self.lock,
        }


def measure(candidate: Candidate) -> Iterator[dict[str, float]]:
    """Metrics of one measure after the other, and last ``measure_seconds``. Raises LimitBrokenError after the first
    that breaks a limit has been handed over.
    """
    start = time.perf_counter()
    for name in candidate.plan.measure.measures:
        found = _MEASURING[name](candidate)
        yield {**found, "measure_seconds": round(time.perf_counter() - start, 3)}
        broken = [reason for limit in candidate.plan.measure.limits if (reason := limit.breach(found))]
        if broken:
            raise LimitBrokenError("; ".join(broken))


def _measure_peak_memory(candidate: Candidate) -> dict[str, float]:
    batch_size = candidate.plan.measure.batch_size
    return {"peak_memory_mb": measure_peak_memory_mb(candidate.model, batch_size=batch_size, **candidate.common())}


def _measure_train_memory(candidate: Candidate) -> dict[str, float]:
    recipe = candidate.plan.recipe
    found = measure_train_memory_mb(
        candidate.model,
        num_classes=candidate.model.arch.num_classes,
        batch_size=recipe.batch_size,
        ema=bool(recipe.ema_decay),
        **candidate.common(),
    )
    return {"train_memory_mb": found}


def _measure_latency(candidate: Candidate) -> dict[str, float]:
    return measure_latency(candidate.model, **candidate.common()).metrics()


def _measure_throughput(candidate: Candidate) -> dict[str, float]:
    plan = candidate.plan.measure
    found = measure_throughput(
        candidate.model, batch_size=plan.batch_size, pairs=plan.pairs, window_ms=plan.window_ms, **candidate.common()
    )
    return found.metrics()


def _measure_energy(candidate: Candidate) -> dict[str, float]:
    plan = candidate.plan.measure
    try:
        return {"energy_mj": measure_energy_mj(candidate.model, batch_size=plan.batch_size, **candidate.common())}
    except EnergyUnavailableError:
        if any(limit.metric == "energy_mj" for limit in plan.limits):
            raise
        return {}


_MEASURING: dict[str, Callable[[Candidate], dict[str, float]]] = {
    "peak_memory": _measure_peak_memory,
    "train_memory": _measure_train_memory,
    "latency": _measure_latency,
    "throughput": _measure_throughput,
    "energy": _measure_energy,
}
