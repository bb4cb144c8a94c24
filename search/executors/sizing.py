"""The executor by name, sized to the machine or the cluster."""

from __future__ import annotations

from crossvit_core.config import suggest
from search.environment import count_cores, count_gpus, visible_gpus
from search.executors.base import Executor
from search.study_config import StudyConfig, StudyConfigError

EXECUTORS = ("ray", "local")


def make_executor(config: StudyConfig) -> Executor:
    """The executor by name, sized to the machine. Raises StudyConfigError for sizes that make no sense."""
    if config.executor not in EXECUTORS:
        raise StudyConfigError(f"unknown executor {config.executor!r}; {suggest(config.executor, EXECUTORS)}")
    if config.workers is not None and config.workers < (0 if config.executor == "local" else 1):
        raise StudyConfigError(f"workers must be at least 1 (0 with EXECUTOR=local: in-process), got {config.workers}")
    if config.executor == "local":
        return _make_local_executor(count_workers(config), config)
    from search.executors.ray_tune import RayExecutor

    if config.ray_address is not None:  # the cluster says what it has
        return RayExecutor(config.workers, gpus_per_trial=_asked_gpu_share(config), address=config.ray_address)
    return RayExecutor(count_workers(config), gpus_per_trial=_gpu_share(config))


def _make_local_executor(workers: int, config: StudyConfig) -> Executor:
    from search.executors.local import InProcessExecutor, ProcessExecutor

    if not workers:
        return InProcessExecutor()
    spread = config.device in ("auto", "cuda") and _gpu_share(config) > 0
    return ProcessExecutor(workers, gpus=visible_gpus() if spread else ())


def _gpu_share(config: StudyConfig) -> float:
    """GPUs per trial: what was asked, else one where there are any, else none."""
    asked = _asked_gpu_share(config)
    if asked is not None:
        return asked
    uses_gpu = config.device != "cpu" and count_gpus() > 0
    return 1.0 if uses_gpu else 0.0


def _asked_gpu_share(config: StudyConfig) -> float | None:
    share = 0.0 if config.device == "cpu" else config.gpus_per_trial
    if config.gpus_per_trial is not None and config.gpus_per_trial < 0:
        raise StudyConfigError(f"gpus_per_trial must not be negative, got {config.gpus_per_trial}")
    if share is not None and share > 1 and share != int(share):
        raise StudyConfigError(f"gpus_per_trial above 1 must be a whole number, got {share}; use {int(share)}")
    return share


def count_workers(config: StudyConfig) -> int:
    return config.workers if config.workers is not None else _default_workers(_gpu_share(config))


def _default_workers(gpus_per_trial: float) -> int:
    if gpus_per_trial and count_gpus():
        return max(1, int(count_gpus() / gpus_per_trial))
    return count_cores()
