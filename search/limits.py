"""What a command asks to limit and to measure beyond the space's file, checked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crossvit_core.energy import POWERCAP, EnergyUnavailableError, open_meter
from search.environment import count_gpus
from search.measures import choose_measures
from search.objectives import Objective
from search.plan import MeasurePlan
from space import LIMITED_METRICS, Limit, LimitError, Space, SpaceFile, override_limits, parse_limit


class LimitConfigError(ValueError):
    """A limit or a measure that was asked for in a way that cannot be."""


def limit_space(file: SpaceFile, asked: Sequence[str]) -> tuple[Space, tuple[Limit, ...]]:
    """The file's space under its own limits and those asked for ('macs<=40M'), and the limits on what is measured.

    A side that was asked for stands in place of the file's. Raises LimitConfigError.
    """
    try:
        wanted = [parse_limit(text) for text in asked]
        _check_once(wanted)
        limits = override_limits((*file.space.limits, *file.measured_limits), wanted)
    except LimitError as error:
        raise LimitConfigError(str(error)) from error
    closed = tuple(limit for limit in limits if limit.metric in LIMITED_METRICS)
    space = file.space.within(closed)
    return space, tuple(limit for limit in limits if limit.metric not in LIMITED_METRICS)


def _check_once(limits: Sequence[Limit]) -> None:
    """Raise LimitError for a side of a metric that is limited twice: which one was meant?"""
    sides = [(limit.metric, sign) for limit in limits for sign, side in _sides(limit) if side is not None]
    for metric, sign in sides:
        if sides.count((metric, sign)) > 1:
            raise LimitError(f"{metric}{sign} is asked for twice; leave one out")


def _sides(limit: Limit) -> tuple[tuple[str, float | None], ...]:
    return (">=", limit.minimum), ("<=", limit.maximum)


def check_reachable(space: Space) -> None:
    """Raise SpaceError, naming the limit that binds, for a space in which nothing is left."""
    space.sample_vector(np.random.default_rng(0))


def plan_measuring(
    batch_size: int, asked: Sequence[str], objectives: Sequence[Objective], limits: tuple[Limit, ...]
) -> MeasurePlan:
    """What a study measures: what was asked for, and what its objectives and limits need. Raises LimitConfigError."""
    metrics = [*(objective.metric for objective in objectives), *(limit.metric for limit in limits)]
    try:
        return MeasurePlan(batch_size=batch_size, measures=choose_measures(asked, metrics), limits=limits)
    except ValueError as error:
        raise LimitConfigError(str(error)) from error


def check_energy(plan: MeasurePlan, objectives: Sequence[Objective], device: str, powercap: Path = POWERCAP) -> str:
    """What to tell the user of energy that nothing counts on this machine; empty if there is nothing to tell.

    ``powercap`` is where a CPU's counters are. Raises LimitConfigError if the search hangs on it.
    """
    if "energy" not in plan.measures:
        return ""
    try:
        on_gpu = device.startswith("cuda") or (device == "auto" and count_gpus() > 0)
        open_meter("cuda" if on_gpu else "cpu", powercap=powercap)
        return ""
    except EnergyUnavailableError as error:
        if "energy_mj" in {o.metric for o in objectives} | {limit.metric for limit in plan.limits}:
            raise LimitConfigError(f"energy_mj cannot be an objective or a limit here: {error}") from error
        return f"not measured: {error}"
