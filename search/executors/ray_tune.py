"""Ray Tune as the executor: the only module that imports ray.

Tune is driven by the session. Its searcher pulls trials, its scheduler asks whether a trial goes on, and a reusable
trainable evaluates; what a trial is, when a study ends and what is on the disk is the session's business alone.
``Tuner.restore`` is never used: a run of Tune that breaks is followed by another, and the session goes on. So is one
that has had its share of trials, since Tune keeps each trial that it ever had, with its last result.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import signal
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from search.executors.base import Evaluate, ExecutorError
from search.executors.conversation import Conversation
from search.executors.node_files import HomeFiles
from search.executors.pool_size import PoolSize, choose_size
from search.executors.ray_errors import first_line, last_line, memory_victims
from search.executors.ray_start import (
    check_answers,
    copy_code,
    only_device,
    ray_speaks_on_stderr,
    scratch_folder,
    set_environment,
)
from search.executors.tune_parts import AsksSession, EndsOnError, EvaluatesTrials, PullsTrials, WatchesTime
from search.interrupt import descendants, kill_descendants
from search.plan import Plan
from search.session import Session

_OBJECT_STORE_BYTES = 512 * 1024**2
_MAX_RUNS_FOR_NOTHING = 3

# What Tune keeps of a trial takes some 30 kB; a new run starts new workers, which takes about 10 s.
_TRIALS_PER_RUN = 1000


class _StartTimeoutError(ExecutorError):
    """Ray was not up in its time: the machine may be busy."""


class RayExecutor:
    """Runs trials as Ray Tune trials on ``workers`` reused actors, on this machine or on the cluster at ``address``.

    On a cluster, ``workers`` and ``gpus_per_trial`` at None follow from what it has. Our code is sent there; the
    dataset and the files of trials travel where a machine does not see the study's folder.
    """

    def __init__(
        self,
        workers: int | None,
        *,
        gpus_per_trial: float | None = 0.0,
        address: str | None = None,
        evaluate: Evaluate | None = None,
        trials_per_run: int = _TRIALS_PER_RUN,
    ) -> None:
        self.workers = workers
        self.gpus_per_trial = gpus_per_trial
        self._address = address
        self._evaluate = evaluate
        self._trials_per_run = trials_per_run

    def run(self, session: Session, plan: Plan) -> None:
        set_environment(joins_cluster=self._address is not None)
        runs_for_nothing = 0
        while not session.is_over():
            only = only_device(plan.device) if self._address is None else contextlib.nullcontext()
            crash: str | None
            try:
                with only, scratch_folder() as scratch, ray_speaks_on_stderr(), self._cluster(Path(scratch)):
                    crash, heard = self._run_once(session, plan, Path(scratch))
            except _StartTimeoutError as error:
                crash, heard = str(error), 0
            if crash is None:
                return
            runs_for_nothing = 0 if heard else runs_for_nothing + 1
            if runs_for_nothing == _MAX_RUNS_FOR_NOTHING:
                raise ExecutorError(f"Ray failed {runs_for_nothing} times in a row; the last time: {crash}")

    def _run_once(self, session: Session, plan: Plan, scratch: Path) -> tuple[str | None, int]:
        """Runs of Tune until one breaks: what broke it, if anything did, and how many events came in."""
        size = self._size()
        plan = replace(plan, device=_device_in_worker(plan.device, size))
        talk = Conversation(session, plan, shares_devices=size.shares_devices)
        with self._files_of(plan) as home:
            crash = None
            while crash is None and talk.allow_pulls(self._trials_per_run):
                crash = _run_tune(talk, plan, self._evaluate, size, scratch, home)
                gc.collect()  # Tune's trials hold one another
        if crash is None and not session.is_over():
            crash = "Tune ended before the study did"
            talk.abandon()
        return crash, talk.events

    @contextlib.contextmanager
    def _cluster(self, scratch: Path) -> Iterator[None]:
        try:
            import ray
        except ImportError as error:
            raise ExecutorError(f"Ray is not installed ({error}); EXECUTOR=local runs without it") from error
        check_answers(self._address)
        self._start(scratch)
        try:
            yield
        finally:
            ray.shutdown()

    def _start(self, scratch: Path) -> None:
        """Raises ExecutorError, with nothing of Ray left; it is a _StartTimeoutError where another try may do."""
        import ray

        if ray.is_initialized():
            raise ExecutorError("Ray runs in this process already; call ray.shutdown() first, or use EXECUTOR=local")
        others = descendants(os.getpid())
        try:
            with warnings.catch_warnings(), _own_signals():
                warnings.simplefilter("ignore")
                ray.init(**self._options(scratch))
        except Exception as error:  # a bare one of Ray's where its node was not up after 30 s
            ray.shutdown()
            kill_descendants(but=others)  # Ray forgets the processes of a node that did not come up
            kind = _StartTimeoutError if "timed out" in str(error).lower() else ExecutorError
            reason = first_line(error).rstrip(".")
            raise kind(f"Ray did not start: {reason}; EXECUTOR=local runs without it") from error

    def _options(self, scratch: Path) -> dict[str, Any]:
        options: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
        if self._address is not None:
            copy_code(scratch / "code")
            return {**options, "address": self._address, "runtime_env": {"working_dir": str(scratch / "code")}}
        return {
            **options,
            "address": "local",
            "num_cpus": self.workers,
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }

    def _size(self) -> PoolSize:
        """Workers and their shares, from what the cluster has where that was left open."""
        import ray

        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return choose_size(machines, self.workers, self.gpus_per_trial)

    @contextlib.contextmanager
    def _files_of(self, plan: Plan) -> Iterator[_Home | None]:
        """For workers on other machines, an actor on this one that serves and takes files."""
        if self._address is None or not plan.data_path.is_dir():
            yield None
            return
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(HomeFiles).options(num_cpus=0, scheduling_strategy=here).remote(plan)
        folder = plan.trials_dir or plan.data_path.parent
        marker = folder / f".here-{uuid.uuid4().hex}"
        folder.mkdir(parents=True, exist_ok=True)
        marker.touch()
        try:
            if not ray.get(actor.sees.remote(marker)):
                raise ExecutorError("the driver must run on a machine of the Ray cluster; start crossvit there")
            yield _Home(actor, marker)
        finally:
            marker.unlink(missing_ok=True)


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray puts a handler of its own on SIGTERM, which ends the driver with a dump of its stack: put ours back."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _device_in_worker(asked: str, size: PoolSize) -> str:
    """Ray shows each worker its own GPUs alone, so that the first one is right; without a share there is the CPU."""
    if not size.gpus:
        return "cpu" if asked == "auto" else asked
    return asked if asked == "cpu" else "cuda:0"


@dataclass(frozen=True)
class _Home:
    """How a worker reaches the driver's machine, and the file by which it sees whether it need not."""

    actor: Any
    marker: Path

    def call(self, name: str, *arguments: Any) -> Any:
        """Run a method of ``HomeFiles``. Raises OSError if that fails."""
        import ray

        try:
            return ray.get(getattr(self.actor, name).remote(*arguments))
        except ray.exceptions.RayError as error:
            raise OSError(f"{name}: {last_line(error)}") from error


def _run_tune(
    talk: Conversation, plan: Plan, evaluate: Evaluate | None, size: PoolSize, scratch: Path, home: _Home | None
) -> str | None:
    """Run Tune until the session is over; what broke it, if anything of Ray's did."""
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    parts = _make_parts(talk)
    trainable = tune.with_parameters(parts.trainable, plan=plan, evaluate=evaluate, home=home)
    tuner = tune.Tuner(
        tune.with_resources(trainable, _resources(size)),
        tune_config=tune.TuneConfig(
            search_alg=parts.searcher,
            scheduler=parts.scheduler,
            num_samples=-1,
            max_concurrent_trials=size.workers,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=f"study-{uuid.uuid4().hex[:8]}",
            storage_path=str(scratch),
            verbose=0,
            stop=parts.stopper,
            callbacks=[parts.watch],
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )
    crash = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tuner.fit()
        except Exception as error:  # Tune gives up on errors of Ray that it does not know
            crash = first_line(error)
            with talk.guard():
                _settle_crash(error, talk, parts.watch.actors)
    talk.raise_error()
    return crash


def _settle_crash(error: BaseException, talk: Conversation, actors: dict[str, Any]) -> None:
    """Tune has broken off: trials that the error names bear it, the others come again."""
    ids = {run_id: actor._actor_id.hex() for run_id, actor in actors.items()}
    for run_id, loss in memory_victims(error, ids).items():
        talk.settle(run_id, None, loss)
    talk.abandon()


def _resources(size: PoolSize) -> Callable[[dict[str, Any]], Any]:
    """What a trial takes. One that is to be alone asks in a way of its own, so that no worker of others is reused."""
    from ray.tune import PlacementGroupFactory

    bundle = {"CPU": 1.0, "GPU": size.gpus} if size.gpus else {"CPU": 1.0}
    whole = {**bundle, "GPU": float(math.ceil(size.gpus))} if size.gpus else bundle

    def choose(config: dict[str, Any]) -> Any:
        if config.get("alone"):
            return PlacementGroupFactory([whole], strategy="SPREAD")
        return PlacementGroupFactory([bundle])

    return choose


@dataclass(frozen=True)
class _Parts:
    """Tune's classes, each with what it does for us."""

    trainable: type
    searcher: Any
    scheduler: Any
    stopper: Any
    watch: Any


def _make_parts(conversation: Conversation) -> _Parts:
    import ray
    from ray.tune import Callback, Stopper, Trainable
    from ray.tune.schedulers import FIFOScheduler
    from ray.tune.search import Searcher

    class EvaluateTrial(EvaluatesTrials, Trainable):
        pass

    class PullSearcher(PullsTrials, Searcher):
        talk = conversation

    class AskScheduler(AsksSession, FIFOScheduler):
        talk = conversation

    class ErrorStopper(EndsOnError, Stopper):
        talk = conversation

    class Watch(WatchesTime, Callback):
        talk = conversation
        kill = staticmethod(ray.kill)

    return _Parts(EvaluateTrial, PullSearcher(), AskScheduler(), ErrorStopper(), Watch())
