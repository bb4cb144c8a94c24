"""The executor by name, sized to the machine or the cluster."""

from __future__ import annotations

import math

from crossvit_core.config import suggest
from crossvit_core.machine import count_cores
from search.environment import visible_gpus
from search.executors.base import Executor
from search.executors.pool_size import share_gpus
from search.study_config import StudyConfig, StudyConfigError

EXECUTORS = ("ray", "local")


def make_executor(config: StudyConfig) -> Executor:
    """The executor by name, sized to the machine. Raises StudyConfigError for sizes that make no sense."""
    if config.executor not in EXECUTORS:
        raise StudyConfigError(f"unknown executor {config.executor!r}; {suggest(config.executor, EXECUTORS)}")
    if config.workers is not None and config.workers < 1:
        raise StudyConfigError(
            f"workers must be at least 1, got {config.workers}; leave it out for as many as there is room for"
        )
    if config.executor == "local":
        return _make_local_executor(count_workers(config), config)
    from search.executors.ray_tune import RayExecutor

    if config.ray_address is not None:  # the cluster says what it has
        return RayExecutor(config.workers, gpus_per_trial=_asked_gpu_share(config), address=config.ray_address)
    return RayExecutor(count_workers(config), gpus_per_trial=_gpu_share(config))


def _make_local_executor(workers: int, config: StudyConfig) -> Executor:
    from search.executors.local import ProcessExecutor

    if _gpu_share(config) and not _own_gpus(config.device):
        raise StudyConfigError(
            f"gpus_per_trial is {config.gpus_per_trial:g}, and this machine shows no GPU; leave it out"
        )
    return ProcessExecutor(workers, gpus=_own_gpus(config.device) if _gpu_share(config) else ())


def _gpu_share(config: StudyConfig) -> float:
    """GPUs per trial: what was asked; else one where there are any, or less where more workers were asked for."""
    asked = _asked_gpu_share(config)
    if asked is not None:
        return asked
    gpus = len(_own_gpus(config.device))
    return share_gpus(gpus, config.workers) if gpus else 0.0


def _own_gpus(device: str) -> list[str]:
    """Entries for CUDA_VISIBLE_DEVICES of the GPUs that a device's name stands for."""
    if device == "cpu":
        return []
    gpus = visible_gpus()
    number = device.partition(":")[2]
    return gpus[int(number) : int(number) + 1] if number else gpus


def _asked_gpu_share(config: StudyConfig) -> float | None:
    share = 0.0 if config.device == "cpu" else config.gpus_per_trial
    if config.gpus_per_trial is not None and not math.isfinite(config.gpus_per_trial):
        raise StudyConfigError(f"gpus_per_trial must be a number, got {config.gpus_per_trial}")
    if config.gpus_per_trial is not None and config.gpus_per_trial < 0:
        raise StudyConfigError(f"gpus_per_trial must not be negative, got {config.gpus_per_trial}")
    if share is not None and share > 1 and share != int(share):
        raise StudyConfigError(f"gpus_per_trial above 1 must be a whole number, got {share}; use {int(share)}")
    return share


def count_workers(config: StudyConfig) -> int:
    """What was asked; else as many as the GPUs take, or one a core."""
    if config.workers is not None:
        return config.workers
    share, gpus = _gpu_share(config), len(_own_gpus(config.device))
    return max(1, int(gpus / share)) if share and gpus else count_cores()
