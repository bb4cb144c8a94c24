"""An evaluation that trains nothing: accuracy follows from the architecture by a formula, in microseconds.

For testing and timing the engine. It is installed with the package because worker processes import it.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from crossvit_core.cost import count_cost
from results.records import Finished, Rung
from search.plan import Plan
from search.trial import Trial, derive_seed

FAULTS = ("raise", "nan", "kill_once", "kill", "vanish")

_EPOCHS = 3
_FUSION_BONUS = {"none": 0.0, "class_token": 0.01, "pairwise": 0.015, "all_attention": 0.02, "cross_attention": 0.03}


@dataclass(frozen=True)
class SyntheticEvaluation:
    """``seconds`` passes per epoch. ``faults`` maps trial numbers to what goes wrong there (see ``FAULTS``).

    ``starts_dir``: every start of a trial leaves a file there, so that repeated work can be counted.
    """

    seconds: float = 0.0
    faults: Mapping[int, str] = field(default_factory=dict)
    starts_dir: Path | None = None

    def __call__(self, trial: Trial, plan: Plan) -> Iterator[Rung | Finished]:
        """See ``search.executors.base.Evaluate``."""
        self._note_start(trial)
        accuracy = synthetic_accuracy(trial)
        for epoch in range(1, _EPOCHS):
            time.sleep(self.seconds)
            metrics = {"val_accuracy": accuracy * epoch / _EPOCHS}
            yield Rung(trial=trial.number, epoch=epoch, metrics=metrics, decision="continue")
            self._go_wrong(trial)
        time.sleep(self.seconds)
        cost = count_cost(trial.arch)
        wrong = self.faults.get(trial.number) == "nan"
        yield Finished(
            trial=trial.number,
            status="ok",
            arch_key=trial.arch_key,
            arch=trial.arch.to_dict(),
            seed=trial.seed,
            seconds=self.seconds * _EPOCHS,
            device="cpu",
            metrics={
                "val_accuracy": math.nan if wrong else accuracy,
                "macs": cost.macs,
                "params": cost.params,
                "throughput_ips": 1e9 / cost.macs,
            },
        )

    def _note_start(self, trial: Trial) -> None:
        if self.starts_dir is not None:
            name = f"{trial.number}-{trial.attempt}-{os.getpid()}-{time.time_ns()}"
            (self.starts_dir / name).touch()

    def _go_wrong(self, trial: Trial) -> None:
        fault = self.faults.get(trial.number)
        if fault == "raise":
            raise RuntimeError("asked to fail")
        if fault == "kill" or (fault == "kill_once" and trial.attempt == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "vanish":
            os._exit(3)


def synthetic_accuracy(trial: Trial) -> float:
    """Grows with log FLOPs towards 1, a little by fusion scheme, with noise of half a point from the seed."""
    macs = count_cost(trial.arch).macs
    bonus = _FUSION_BONUS[trial.arch.encoders[0].fusion]
    noise = (derive_seed(trial.seed, "noise") / 2**31 - 0.5) * 0.01
    return min(0.999, 1 - 2.0 * macs**-0.2 + bonus + noise)
