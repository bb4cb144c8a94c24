"""A study driver to be killed: ``drive.py FOLDER TRIALS EXECUTOR SECONDS_PER_EPOCH STOPPING [ROUND]``; says 'over'.

With a ROUND it has that many workers and asks in rounds of them, else two workers and no rounds.
"""

from __future__ import annotations

import sys
from pathlib import Path

from crossvit_core.recipe import TrainRecipe
from results.store import StudyStore
from search.executors.base import Executor
from search.objectives import find_objectives
from search.optuna_searcher import OptunaSearcher
from search.plan import Plan
from search.session import Session
from search.stopping import Stopping, make_rule
from search.synthetic import SyntheticEvaluation
from space import load_space


def make_executor(name: str, workers: int, evaluate: SyntheticEvaluation) -> Executor:
    if name == "ray":
        from search.executors.ray_tune import RayExecutor

        return RayExecutor(workers, evaluate=evaluate)
    from search.executors.local import ProcessExecutor

    return ProcessExecutor(workers, evaluate)


def main(folder: Path, trials: int, executor: str, seconds: float, stopping: str, round_size: int) -> None:
    starts = folder.parent / "starts"
    starts.mkdir(exist_ok=True)
    evaluate = SyntheticEvaluation(seconds=seconds, starts_dir=starts, uneven=round_size > 1)
    objectives = find_objectives(("val_accuracy", "macs"))
    searcher = OptunaSearcher(load_space("small").space, objectives, sampler="tpe", trials=trials, seed=0)
    rule = make_rule(Stopping(stopping, max_killed=0.3, rungs=(0.34, 0.67)), objectives, epochs=3)
    with StudyStore.open(folder) if StudyStore.exists(folder) else StudyStore.create(folder, {}) as store:
        session = Session(store, searcher, trials=trials, seed=0, stopping=rule, round_size=round_size)
        make_executor(executor, round_size or 2, evaluate).run(session, Plan(TrainRecipe(), Path("unused"), None))
    print("over")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4]), sys.argv[5], int([*sys.argv, "0"][6]))
