"""What a study is asked to be, before anything is decided."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from results.store import DEFAULT_RUNS_DIR
from search.objectives import DEFAULT_OBJECTIVES


class StudyConfigError(ValueError):
    """A study that was asked for in a way that cannot be."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """What was asked for. Fields left at None are the space file's, or follow from the machine.

    ``enqueue`` names architectures to train first (``search.enqueue``); ``deterministic`` asks in rounds
    (``search.rounds``). ``settings`` are training settings of the recipe that differ from the space file's. ``limits``
    are texts such as 'latency_ms<=5'; ``measure`` names measures (``search.measures``) beyond those that objectives and
    limits need.
    """

    space: str = "small"
    name: str | None = None
    data: str | None = None
    trials: int | None = None
    hours: float | None = None
    device_hours: float | None = None
    plateau: int | None = None
    enqueue: tuple[str, ...] = ()
    deterministic: bool = False
    seed: int = 0
    sampler: str = "tpe"
    objectives: tuple[str, ...] = DEFAULT_OBJECTIVES
    stopping: str | None = None
    max_killed: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    executor: str = "ray"
    workers: int | None = None
    gpus_per_trial: float | None = None
    ray_address: str | None = None
    trial_minutes: float | None = None
    device: str = "auto"
    runs_dir: Path = DEFAULT_RUNS_DIR
    keep_weights: bool = True
    limits: tuple[str, ...] = ()
    measure: tuple[str, ...] = ()
    dashboard: bool = False
    tensorboard: bool = False
