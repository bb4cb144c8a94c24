"""An evaluation that trains nothing: accuracy follows from the architecture by a formula, in microseconds.

For testing and timing the engine. It is installed with the package because worker processes import it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crossvit_core.cost import count_cost
from crossvit_core.device_lock import DeviceLock
from results.records import Finished, Rung
from search.plan import Plan
from search.trial import Trial, derive_seed

FAULTS = ("raise", "nan", "missing", "text", "kill_once", "kill", "vanish", "hang", "oom", "oom_in_company")

_EPOCHS = 3
_FUSION_BONUS = {"none": 0.0, "class_token": 0.01, "pairwise": 0.015, "all_attention": 0.02, "cross_attention": 0.03}


@dataclass(frozen=True)
class SyntheticEvaluation:
    """``seconds`` passes per epoch, or a random part of it if ``uneven``. ``faults`` maps trial numbers to what goes
    wrong there (see ``FAULTS``).

    ``starts_dir``: every start of a trial leaves a file there, so that repeated work can be counted; at its end it
    holds when and where the trial ran, as JSON. ``device``: before the epochs its lock is held alone for ``seconds``,
    then shared, as measuring and training do.
    """

    seconds: float = 0.0
    faults: Mapping[int, str] = field(default_factory=dict)
    starts_dir: Path | None = None
    device: str = ""
    uneven: bool = False

    def __call__(self, trial: Trial, plan: Plan) -> Iterator[Rung | Finished]:
        """See ``search.executors.base.Evaluate``."""
        note = self._note_start(trial)
        lock = DeviceLock(self.device) if self.device else None
        spans = {"measured": [self._measure(lock)], "trained": []}
        accuracy = synthetic_accuracy(trial)
        for epoch in range(1, _EPOCHS):
            spans["trained"].append(self._train(lock))
            metrics = {"val_accuracy": accuracy * epoch / _EPOCHS, **_costs(trial)}
            yield Rung(trial=trial.number, epoch=epoch, metrics=metrics, decision="continue")
            self._go_wrong(trial)
        spans["trained"].append(self._train(lock))
        if note is not None:
            note.write_text(json.dumps({**_whereabouts(), **spans, "ended": time.time()}))
        yield Finished(
            trial=trial.number,
            status="ok",
            arch_key=trial.arch_key,
            arch=trial.arch.to_dict(),
            seed=trial.seed,
            seconds=self.seconds * _EPOCHS,
            device="cpu",
            metrics=self._scores(trial, accuracy),
        )

    def _scores(self, trial: Trial, accuracy: float) -> dict[str, float]:
        wrong: dict[str, Any] = {"nan": math.nan, "text": "high"}
        fault = self.faults.get(trial.number, "")
        scores = {} if fault == "missing" else {"val_accuracy": wrong.get(fault, accuracy)}
        return {**scores, **_costs(trial)}

    def _measure(self, lock: DeviceLock | None) -> list[float]:
        if lock is None:
            return []
        with lock.exclusive():
            return self._pass()

    def _train(self, lock: DeviceLock | None) -> list[float]:
        with lock.shared() if lock is not None else contextlib.nullcontext():
            return self._pass()

    def _pass(self) -> list[float]:
        """Let time pass; when that began and ended."""
        start = time.time()
        time.sleep(self.seconds * (random.random() if self.uneven else 1.0))
        return [start, time.time()]

    def _note_start(self, trial: Trial) -> Path | None:
        if self.starts_dir is None:
            return None
        path = self.starts_dir / f"{trial.number}-{trial.attempt}-{os.getpid()}-{time.time_ns()}"
        path.touch()
        return path

    def _go_wrong(self, trial: Trial) -> None:
        fault = self.faults.get(trial.number)
        if fault == "raise":
            raise RuntimeError("asked to fail")
        if fault == "oom" or (fault == "oom_in_company" and not trial.alone):
            from torch import OutOfMemoryError

            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if fault == "kill" or (fault == "kill_once" and trial.attempt == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "vanish":
            os._exit(3)
        if fault == "hang":
            time.sleep(3600)


def _whereabouts() -> dict[str, Any]:
    """Which worker this is: its device, the process that started it, the code it runs."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return {"visible": visible, "parent": os.getppid(), "code": __file__}


def _costs(trial: Trial) -> dict[str, float]:
    cost = count_cost(trial.arch)
    return {"macs": cost.macs, "params": cost.params, "throughput_ips": 1e9 / cost.macs}


def synthetic_accuracy(trial: Trial) -> float:
    """Grows with log FLOPs towards 1, a little by fusion scheme, with noise of half a point from the seed."""
    macs = count_cost(trial.arch).macs
    bonus = _FUSION_BONUS.get(trial.arch.encoders[0].fusion, 0.0)
    noise = (derive_seed(trial.seed, "noise") / 2**31 - 0.5) * 0.01
    return min(0.999, 1 - 2.0 * macs**-0.2 + bonus + noise)
