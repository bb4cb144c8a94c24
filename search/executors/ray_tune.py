"""Ray Tune as the executor: the only module that imports ray.

Tune is driven by the session. Its searcher pulls trials, its scheduler asks whether a trial goes on, and a reusable
trainable evaluates; what a trial is, when a study ends and what is on the disk is the session's business alone.
``Tuner.restore`` is never used: a killed driver starts a new run, and the session goes on from its ledger.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crossvit_core.config import ArchConfig
from results.records import Finished, Rung, decode_event, encode_event
from search.executors.base import Evaluate, ExecutorError, stopped_outcome
from search.plan import Plan
from search.session import Session
from search.trial import Trial

_OBJECT_STORE_BYTES = 512 * 1024**2

# Read by Ray when it is imported. Nothing is reported to anybody, nothing is written beside the study's folder.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_THRESHOLD_S": "60",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
}


class RayExecutor:
    """Runs trials as Ray Tune trials on ``workers`` reused actors, on this machine or on the cluster at ``address``."""

    def __init__(
        self,
        workers: int,
        *,
        gpus_per_trial: float = 0.0,
        address: str | None = None,
        evaluate: Evaluate | None = None,
    ) -> None:
        self._workers = workers
        self._gpus_per_trial = gpus_per_trial
        self._address = address
        self._evaluate = evaluate

    def run(self, session: Session, plan: Plan) -> None:
        _set_environment()
        with tempfile.TemporaryDirectory(prefix="crossvit-tune-") as scratch, self._cluster():
            _run_tune(session, plan, self._evaluate, self._workers, self._gpus_per_trial, Path(scratch))

    @contextlib.contextmanager
    def _cluster(self) -> Iterator[None]:
        try:
            import ray
        except ImportError as error:
            raise ExecutorError(f"Ray is not installed ({error}); EXECUTOR=local runs without it") from error
        options: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
        if self._address is None:
            options |= {
                "address": "local",
                "num_cpus": self._workers,
                "include_dashboard": False,
                "object_store_memory": _OBJECT_STORE_BYTES,
            }
        else:
            options["address"] = self._address
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ray.init(**options)
        except (ConnectionError, RuntimeError, OSError, ValueError) as error:
            raise ExecutorError(f"Ray did not start: {error}; EXECUTOR=local runs without it") from error
        try:
            yield
        finally:
            ray.shutdown()


def _run_tune(
    session: Session, plan: Plan, evaluate: Evaluate | None, workers: int, gpus_per_trial: float, scratch: Path
) -> None:
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    conversation = _conversation(session, plan)
    trainable = tune.with_resources(
        tune.with_parameters(_trainable_class(), plan=plan, evaluate=evaluate),
        {"cpu": 1, "gpu": gpus_per_trial} if gpus_per_trial else {"cpu": 1},
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=conversation.searcher,
            scheduler=conversation.scheduler,
            num_samples=-1,
            max_concurrent_trials=workers,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="study",
            storage_path=str(scratch),
            verbose=0,
            stop=conversation.stopper,
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuner.fit()
    conversation.raise_error()


def _trainable_class() -> type:
    from ray import tune

    class EvaluateTrial(tune.Trainable):
        """One Tune trial: each step runs the evaluation up to its next rung or to its end."""

        def setup(self, config: dict[str, Any], plan: Any = None, evaluate: Any = None) -> None:
            self._plan = plan
            self._evaluate = evaluate or _load_evaluate(plan)
            self._open(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._close()
            self._open(new_config)
            return True

        def step(self) -> dict[str, Any]:
            event = next(self._events)
            return {"payload": json.dumps(encode_event(event)), "done": isinstance(event, Finished)}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            return None

        def load_checkpoint(self, checkpoint: Any) -> None:
            return None

        def cleanup(self) -> None:
            self._close()

        def _open(self, config: dict[str, Any]) -> None:
            self._events = self._evaluate(_unpack(config), self._plan)

        def _close(self) -> None:
            close = getattr(self._events, "close", None)
            if close is not None:
                close()

    return EvaluateTrial


def _load_evaluate(plan: Plan) -> Evaluate:
    from search.evaluate import evaluate, prepare_worker

    prepare_worker(plan.threads)
    return evaluate


def _pack(trial: Trial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "arch": json.dumps(trial.arch.to_dict()),
        "arch_key": trial.arch_key,
        "seed": trial.seed,
        "attempt": trial.attempt,
    }


def _unpack(config: dict[str, Any]) -> Trial:
    arch = ArchConfig.from_dict(json.loads(config["arch"]))
    return Trial(config["number"], arch, config["arch_key"], config["seed"], config["attempt"])


class _Conversation:
    """What Tune's callbacks share: the session, which Tune trial is which of ours, and an error to pass on."""

    def __init__(self, session: Session, plan: Plan) -> None:
        self.session = session
        self.plan = plan
        self.error: BaseException | None = None
        self.searcher: Any = None
        self.scheduler: Any = None
        self.stopper: Any = None
        self._trials: dict[str, Trial] = {}
        self._started: dict[str, float] = {}

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Tune snapshots what it drives; nothing of ours belongs there, the ledger has it all."""
        return (object, ())

    def pull(self, trial_id: str) -> dict[str, Any] | None:
        trial = self.session.next_trial()
        if trial is None:
            return None
        self._trials[trial_id] = trial
        self._started[trial_id] = time.perf_counter()
        return _pack(trial)

    def is_over(self) -> bool:
        return self.error is not None or self.session.is_over()

    def goes_on(self, trial_id: str, result: dict[str, Any]) -> bool:
        rung = decode_event(json.loads(result["payload"]))
        if not isinstance(rung, Rung) or self.session.report(rung) == "continue":
            return True
        trial = self._trials.pop(trial_id)
        seconds = round(time.perf_counter() - self._started[trial_id], 3)
        self.session.record(stopped_outcome(trial, rung, seconds, ""))
        return False

    def settle(self, trial_id: str, result: dict[str, Any] | None) -> None:
        """A Tune trial is over: with its outcome, or because its worker was lost."""
        trial = self._trials.pop(trial_id, None)
        if trial is None:
            return
        event = decode_event(json.loads(result["payload"])) if result and "payload" in result else None
        if isinstance(event, Finished) and event.trial == trial.number:
            self.session.record(event)
        else:
            self.session.record_lost(trial, "its worker process was lost")

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Tune swallows some errors of its callbacks: keep ours, and let Tune end."""
        try:
            yield
        except Exception as error:
            self.error = self.error or error

    def raise_error(self) -> None:
        if self.error is not None:
            raise self.error


def _conversation(session: Session, plan: Plan) -> _Conversation:
    from ray.tune import Stopper
    from ray.tune.schedulers import FIFOScheduler
    from ray.tune.search import Searcher

    talk = _Conversation(session, plan)

    class PullSearcher(Searcher):
        """Pulls from the session."""

        def suggest(self, trial_id: str) -> Any:
            config = None
            with talk.guard():
                if talk.error is None:
                    config = talk.pull(trial_id)
            if config is None:
                return Searcher.FINISHED if talk.is_over() else None
            return config

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            with talk.guard():
                talk.settle(trial_id, None if error else result)

        def save(self, checkpoint_path: str) -> None:
            return None

        def restore(self, checkpoint_path: str) -> None:
            return None

    class AskScheduler(FIFOScheduler):
        """Asks the session."""

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            with talk.guard():
                if talk.error is None and talk.goes_on(trial.trial_id, result):
                    return FIFOScheduler.CONTINUE
            return FIFOScheduler.STOP

    class ErrorStopper(Stopper):
        """Ends the run once an error of ours waits to be raised."""

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return talk.error is not None

    talk.searcher, talk.scheduler, talk.stopper = PullSearcher(), AskScheduler(), ErrorStopper()
    return talk


def _set_environment() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # A token in the home folder keeps other users of the machine out; without a home that can be written there is none.
    mode = "token" if os.access(Path.home(), os.W_OK) else "disabled"
    os.environ.setdefault("RAY_AUTH_MODE", mode)
