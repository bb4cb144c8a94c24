"""What may be measured of a candidate, and which of it a study needs. Plain data; ``measuring`` does the work.

The order is the order of measuring, the cheap first: a trial ends at the first limit that it breaks.
"""

from __future__ import annotations

from collections.abc import Iterable

from crossvit_core.config import suggest

MEASURES: dict[str, tuple[str, ...]] = {
    "peak_memory": ("peak_memory_mb",),
    "train_memory": ("train_memory_mb",),
    "latency": ("latency_ms", "latency_p95_ms"),
    "throughput": ("throughput_ips", "throughput_ratio"),
    "energy": ("energy_mj",),
}

# Measured in every trial: they cost little beside a training and are what people ask for afterwards.
ALWAYS = ("latency", "throughput")


def choose_measures(asked: Iterable[str], metrics: Iterable[str]) -> tuple[str, ...]:
    """The measures of a study, in their order: the usual ones, those ``asked`` for by name and those of ``metrics``.

    'all' asks for everything. Raises ValueError naming an unknown measure.
    """
    needed = {*ALWAYS, *(measure for measure, of in MEASURES.items() if set(of) & set(metrics))}
    for name in asked:
        if name != "all" and name not in MEASURES:
            raise ValueError(f"unknown measure {name!r}; {suggest(name, ['all', *MEASURES])}")
        needed |= set(MEASURES) if name == "all" else {name}
    return tuple(name for name in MEASURES if name in needed)
