"""What each part of Ray Tune does for us, without Ray: ``ray_tune`` mixes these into Tune's own classes.

All that is known and decided is the conversation's; here Tune's way of calling is turned into its.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from results.records import Finished
from search.executors.base import close_events, load_evaluate, run_guarded, spoils_worker
from search.executors.conversation import Conversation, SpentWorkerError, pack_event, unpack_trial
from search.executors.node_files import NodeFiles
from search.executors.ray_errors import read_error


class NotInSnapshots:
    """Tune snapshots what it drives; nothing of ours belongs there, the ledger has it all."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return (object, ())


class PullsTrials(NotInSnapshots):
    """Tune's searcher: pulls from the session."""

    FINISHED: str
    talk: Conversation

    def suggest(self, trial_id: str) -> Any:
        config = None
        with self.talk.guard():
            if self.talk.error is None and not self.talk.is_run_full():
                config = self.talk.pull(trial_id)
        if config is None:
            return self.FINISHED if self.talk.is_over() or self.talk.is_run_full() else None
        return config

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        with self.talk.guard():
            self.talk.settle(trial_id, None if error else (result or {}).get("payload"))

    def save(self, checkpoint_path: str) -> None:
        return None

    def restore(self, checkpoint_path: str) -> None:
        return None


class AsksSession(NotInSnapshots):
    """Tune's scheduler: asks whether a trial goes on."""

    CONTINUE: str
    STOP: str
    talk: Conversation

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """None: Tune then gives an idle worker to a new trial.

        The base class would give it to the trial that waits longest for a worker of its own, and break that one's
        start off: where trials are shorter than such a start, one worker would do everything.
        """
        return

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        with self.talk.guard():
            if self.talk.error is None and self.talk.goes_on(trial.trial_id, result["payload"]):
                return self.CONTINUE
        return self.STOP

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        with self.talk.guard():
            payload, loss = read_error(trial)
            self.talk.settle(trial.trial_id, payload, loss)


class EndsOnError(NotInSnapshots):
    """Tune's stopper: ends the run once an error of ours waits to be raised."""

    talk: Conversation

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.talk.error is not None


class WatchesTime(NotInSnapshots):
    """Tune's callback: knows which trials have begun on which actor, and ends those that take too long."""

    talk: Conversation
    kill: Callable[[Any], None]

    def __init__(self) -> None:
        self.actors: dict[str, Any] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.actors[trial.trial_id] = trial.temporary_state.ray_actor
        self.talk.begin(trial.trial_id)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        for run_id in self.talk.overdue():
            self.kill(self.actors[run_id])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.actors.pop(trial.trial_id, None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.actors.pop(trial.trial_id, None)


class EvaluatesTrials:
    """Tune's trainable, in the worker: each step runs the evaluation up to its next rung or to its end."""

    def setup(self, config: dict[str, Any], plan: Any = None, evaluate: Any = None, home: Any = None) -> None:
        self._files = NodeFiles(plan, home.call, home.marker) if home is not None else None
        self._plan = self._files.plan if self._files is not None else plan
        self._evaluate = evaluate or load_evaluate(self._plan)
        self._open(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._close()
        self._open(new_config)
        return True

    def step(self) -> dict[str, Any]:
        event = next(self._events)
        if self._files is not None and isinstance(event, Finished):
            event = self._files.send_outcome(self._trial, event)
        elif self._files is not None:
            self._files.send(self._trial)
        payload = pack_event(event)
        if isinstance(event, Finished) and spoils_worker(event):
            raise SpentWorkerError(payload)
        return {"payload": payload, "done": isinstance(event, Finished)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        return None

    def load_checkpoint(self, checkpoint: Any) -> None:
        return None

    def cleanup(self) -> None:
        self._close()
        if self._files is not None:
            self._files.close()

    def _open(self, config: dict[str, Any]) -> None:
        self._trial = unpack_trial(config)
        if self._files is not None:
            self._files.fetch(self._trial)
        self._events = run_guarded(self._evaluate, self._trial, self._plan)

    def _close(self) -> None:
        """A trial that the session stopped is told only here, and writes its curve then."""
        close_events(self._events)
        if self._files is not None:
            self._files.send_rest(self._trial)
