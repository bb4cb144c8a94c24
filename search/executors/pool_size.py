"""How many trials a cluster takes at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search.executors.base import ExecutorError


@dataclass(frozen=True)
class PoolSize:
    """``workers`` trials at a time, each with one core and ``gpus`` GPUs or a share of one."""

    workers: int
    gpus: float

    @property
    def shares_devices(self) -> bool:
        """Whether trials stand beside each other on a device."""
        return self.gpus < 1


def choose_size(machines: Sequence[Mapping[str, float]], workers: int | None, gpus: float | None) -> PoolSize:
    """What is left at None follows from the machines' resources, as Ray names them: a GPU each where there are any.

    Never more workers than there is room for: their trials would be asked for before they can begin. Raises
    ExecutorError where no machine has room for even one trial, which Ray would wait for without end.
    """
    if gpus is None:
        there = int(sum(machine.get("GPU", 0) for machine in machines))
        gpus = share_gpus(there, workers) if there else 0.0
    room = sum(_room(machine, gpus) for machine in machines)
    if not room:
        most = max((machine.get("GPU", 0) for machine in machines), default=0)
        raise ExecutorError(f"no machine has room for a trial of 1 core and {gpus:g} GPUs; the most GPUs are {most:g}")
    return PoolSize(room if workers is None else min(room, workers), gpus)


def share_gpus(gpus: int, workers: int | None) -> float:
    """GPUs per trial where nobody said: a whole one, unless ``workers`` do not find room for theirs then."""
    return 1.0 if workers is None else 1.0 / max(1, math.ceil(workers / gpus))


def _room(machine: Mapping[str, float], gpus: float) -> int:
    """A share of a GPU is never made of parts of two."""
    cores = int(machine.get("CPU", 0))
    if not gpus:
        return cores
    if gpus < 1:
        return min(cores, int(machine.get("GPU", 0)) * math.floor(1 / gpus + 1e-9))
    return min(cores, int(machine.get("GPU", 0) / gpus))
