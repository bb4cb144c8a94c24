"""A study driver to be killed: ``drive.py FOLDER TRIALS EXECUTOR SECONDS_PER_EPOCH``. Prints 'over' at the end."""

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
from search.synthetic import SyntheticEvaluation
from space import load_space


def make_executor(name: str, evaluate: SyntheticEvaluation) -> Executor:
    if name == "ray":
        from search.executors.ray_tune import RayExecutor

        return RayExecutor(2, evaluate=evaluate)
    from search.executors.local import ProcessExecutor

    return ProcessExecutor(2, evaluate)


def main(folder: Path, trials: int, executor: str, seconds: float) -> None:
    starts = folder.parent / "starts"
    starts.mkdir(exist_ok=True)
    evaluate = SyntheticEvaluation(seconds=seconds, starts_dir=starts)
    searcher = OptunaSearcher(
        load_space("small").space, find_objectives(("val_accuracy", "macs")), sampler="tpe", trials=trials, seed=0
    )
    with StudyStore.open(folder) if StudyStore.exists(folder) else StudyStore.create(folder, {}) as store:
        session = Session(store, searcher, trials=trials, seed=0)
        make_executor(executor, evaluate).run(session, Plan(TrainRecipe(), Path("unused"), None))
    print("over")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4]))
