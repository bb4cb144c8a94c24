"""Studies on emulated Ray clusters: ``drive_cluster.py SCENARIO FOLDER``. Prints 'over' at the end.

Each raylet is a machine of its own to Ray; one started by ``HiddenNode`` also sees an empty folder where the study is.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from crossvit_core.data import load_dataset
from crossvit_core.recipe import TrainRecipe
from results.records import Event, Finished, Rung
from results.store import StudyStore
from search.checkpoint_sweeper import CheckpointSweeper
from search.executors.ray_tune import RayExecutor
from search.objectives import find_objectives
from search.optuna_searcher import OptunaSearcher
from search.plan import MeasurePlan, Plan
from search.session import Session
from search.synthetic import SyntheticEvaluation
from search.trial import Trial
from space import load_space

SHELL = "mount -t tmpfs none {folder} && exec {ray} start --address={address} --num-cpus=2 --num-gpus=0 --block"


def run_study(
    folder: Path,
    trials: int,
    executor: RayExecutor,
    plan: Plan,
    *,
    space: str = "small",
    listener: Callable[[Event], None] = lambda event: None,
) -> None:
    members = load_space(space).space.for_data(num_classes=10, in_channels=1)
    searcher = OptunaSearcher(
        members, find_objectives(("val_accuracy", "macs")), sampler="random", trials=trials, seed=0
    )
    with StudyStore.create(folder, {}) as store:
        listeners = [listener, CheckpointSweeper(folder / "trials")]
        session = Session(store, searcher, trials=trials, seed=0, listeners=listeners)
        executor.run(session, plan)


def make_starts(folder: Path) -> Path:
    starts = folder.parent / "starts"
    starts.mkdir(parents=True)
    return starts


def share_gpus(folder: Path) -> None:
    """Two GPUs, a half of one for each trial."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 8, "num_gpus": 2})
    evaluate = SyntheticEvaluation(seconds=0.1, device="cuda:0", starts_dir=make_starts(folder))
    executor = RayExecutor(None, gpus_per_trial=0.5, address=cluster.address, evaluate=evaluate)
    run_study(folder, 16, executor, Plan(TrainRecipe(), Path("unused"), None, device="cuda:0"))
    cluster.shutdown()


def lose_node(folder: Path) -> None:
    """One of two machines dies while both are at work."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    cluster.add_node(num_cpus=2)
    doomed = cluster.add_node(num_cpus=2)
    finished: list[int] = []

    def kill_at_four(event: Event) -> None:
        if isinstance(event, Finished):
            finished.append(event.trial)
            if len(finished) == 4:
                threading.Thread(target=cluster.remove_node, args=(doomed, False)).start()

    evaluate = SyntheticEvaluation(seconds=0.5, starts_dir=make_starts(folder))
    executor = RayExecutor(None, gpus_per_trial=None, address=cluster.address, evaluate=evaluate)
    run_study(folder, 16, executor, Plan(TrainRecipe(), Path("unused"), None), listener=kill_at_four)
    cluster.shutdown()


@dataclass(frozen=True)
class DieOnce:
    """Trains for real; the first attempt at trial 1 dies after its first rung. Notes what each attempt found."""

    notes: Path

    def __call__(self, trial: Trial, plan: Plan) -> Iterator[Rung | Finished]:
        from search.evaluate import evaluate

        assert plan.trials_dir is not None
        found = len(list(plan.trial_dir(trial.number).glob("checkpoint-*")))
        (self.notes / f"{trial.number}-{trial.attempt}-{found}-{plan.trials_dir.name}").touch()
        for event in evaluate(trial, plan):
            yield event
            if (trial.number, trial.attempt) == (1, 1) and isinstance(event, Rung):
                os.kill(os.getpid(), signal.SIGKILL)


def share_nothing(folder: Path) -> None:
    """The only worker machine sees neither the dataset nor the study."""
    study = folder / "study"
    data = load_dataset("digits", image_size=(16, 16), limit=300, cache_dir=folder / "data")
    assert data.cache_path is not None
    plan = Plan(TrainRecipe(epochs=4), data.cache_path, study / "trials", rungs=(1, 2), measure=MeasurePlan(pairs=10))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    with HiddenNode(cluster, folder):
        executor = RayExecutor(
            None, gpus_per_trial=None, address=cluster.address, evaluate=DieOnce(make_starts(folder))
        )
        run_study(study, 3, executor, plan, space="smoke")
    cluster.shutdown()


class HiddenNode:
    """A machine with a file system of its own where ``folder`` is."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        ray_command = Path(sys.executable).with_name("ray")
        shell = SHELL.format(folder=folder, ray=ray_command, address=cluster.address)
        self._cluster = cluster
        self._process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", shell], stdout=sys.stderr, start_new_session=True
        )

    def __enter__(self) -> None:
        ray.init(self._cluster.address, log_to_driver=False)
        deadline = time.monotonic() + 120
        while sum(node["Alive"] for node in ray.nodes()) < 2:
            assert time.monotonic() < deadline and self._process.poll() is None, "the hidden node did not come up"
            time.sleep(0.2)
        ray.shutdown()

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(20)


@dataclass(frozen=True)
class Hog:
    """Trial 2 takes four GiB while others run."""

    synthetic: SyntheticEvaluation

    def __call__(self, trial: Trial, plan: Plan) -> Iterator[Rung | Finished]:
        for event in self.synthetic(trial, plan):
            yield event
            if trial.number == 2 and not trial.alone and isinstance(event, Rung):
                hoard = bytearray(os.urandom(2**20)) * 4096
                time.sleep(60)
                assert hoard


def run_out_of_memory(folder: Path) -> None:
    """The machine has two GiB to spare, as Ray's memory monitor sees it."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    kib = {words[0].rstrip(":"): int(words[1]) for words in lines}
    used = kib["MemTotal"] - kib["MemAvailable"]
    os.environ.update({"RAY_memory_usage_threshold": str((used + 2 * 2**20) / kib["MemTotal"])})
    evaluate = Hog(SyntheticEvaluation(seconds=0.2, starts_dir=make_starts(folder)))
    run_study(folder, 8, RayExecutor(2, evaluate=evaluate), Plan(TrainRecipe(), Path("unused"), None))


SCENARIOS: dict[str, Callable[[Path], None]] = {
    "share_gpus": share_gpus,
    "lose_node": lose_node,
    "share_nothing": share_nothing,
    "run_out_of_memory": run_out_of_memory,
}

if __name__ == "__main__":
    SCENARIOS[sys.argv[1]](Path(sys.argv[2]))
    print("over")
