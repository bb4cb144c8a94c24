"""Files between the driver's machine and one that shares no disk with it, without Ray in between."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from crossvit_core import PRESETS
from crossvit_core.data import ImageData, load_dataset, open_cached
from crossvit_core.data_cache import CacheError
from crossvit_core.recipe import TrainRecipe
from results.records import Finished, Rung
from search.executors import node_files
from search.executors.conversation import pack_trial
from search.executors.node_files import HomeFiles, NodeFiles
from search.executors.tune_parts import EvaluatesTrials
from search.plan import Plan
from search.trial import Trial

ARCH = PRESETS["crossvit_nano_16"]
TRIAL = Trial(7, ARCH, ARCH.key(), seed=1)
FINISHED = Finished(
    trial=7, status="ok", arch_key=ARCH.key(), arch={}, seed=1, seconds=1.0, device="cpu", metrics={}, error=""
)


@pytest.fixture
def data(tmp_path: Path) -> ImageData:
    return load_dataset("digits", image_size=(16, 16), limit=200, cache_dir=tmp_path / "home" / "data")


@pytest.fixture
def plan(tmp_path: Path, data: ImageData) -> Plan:
    assert data.cache_path is not None
    return Plan(TrainRecipe(), data.cache_path, tmp_path / "home" / "trials")


class Wire:
    """Calls the home's methods, renamed paths standing for disks that are not shared; counts what passes."""

    def __init__(self, plan: Plan) -> None:
        self.home = HomeFiles(plan)
        self.calls: list[str] = []
        self.cut = False

    def __call__(self, name: str, *arguments: Any) -> Any:
        if self.cut:
            raise OSError("the machine is gone")
        self.calls.append(name)
        return getattr(self.home, name)(*arguments)


def elsewhere(plan: Plan) -> Plan:
    """The plan as a machine has it that does not see the driver's paths."""
    return Plan(plan.recipe, Path("/not/there/data"), Path("/not/there/trials"))


@pytest.fixture
def wire(plan: Plan) -> Wire:
    return Wire(plan)


def open_node(plan: Plan, wire: Callable[..., Any], tmp_path: Path, shared: bool = False) -> NodeFiles:
    marker = tmp_path / "marker"
    if shared:
        marker.touch()
    return NodeFiles(plan if shared else elsewhere(plan), wire, marker, cache_dir=tmp_path / "node")


def test_the_dataset_comes_over_whole_and_once(
    plan: Plan, wire: Wire, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_files, "CHUNK_BYTES", 1000)
    node = open_node(plan, wire, tmp_path)
    assert node.plan.data_path == tmp_path / "node" / data.fingerprint
    there = open_cached(node.plan.data_path)
    assert there.fingerprint == data.fingerprint
    assert np.array_equal(there.images, data.images)
    assert wire.calls.count("read_data") > data.images.nbytes / 1000
    wire.calls.clear()
    assert open_node(plan, wire, tmp_path).plan.data_path == node.plan.data_path
    assert wire.calls == ["data_fingerprint"]
    node.close()


def test_a_shared_disk_is_used_as_it_is(plan: Plan, wire: Wire, tmp_path: Path) -> None:
    node = open_node(plan, wire, tmp_path, shared=True)
    assert node.plan == plan
    node.fetch(TRIAL)
    assert node.send(TRIAL) == ""
    assert wire.calls == ["data_fingerprint"]


def test_a_transfer_that_breaks_leaves_no_dataset(plan: Plan, wire: Wire, tmp_path: Path) -> None:
    def breaks(name: str, *arguments: Any) -> Any:
        if name == "read_data" and arguments[0] == "meta.json":
            raise OSError("the machine is gone")
        return wire(name, *arguments)

    with pytest.raises(OSError, match="the machine is gone"):
        open_node(plan, breaks, tmp_path)
    assert not list((tmp_path / "node").glob("*/meta.json"))
    open_node(plan, wire, tmp_path).close()


def test_a_dataset_that_arrives_damaged_is_refused(plan: Plan, wire: Wire, tmp_path: Path) -> None:
    def flips(name: str, *arguments: Any) -> Any:
        content = wire(name, *arguments)
        return content[:-1] + b"!" if name == "read_data" and arguments[0] == "images.npy" and content else content

    with pytest.raises(CacheError, match=r"images.npy is damaged"):
        open_node(plan, flips, tmp_path)
    open_cached(open_node(plan, wire, tmp_path).plan.data_path)


def test_what_a_trial_writes_comes_home(
    plan: Plan, wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_files, "CHUNK_BYTES", 10)
    node = open_node(plan, wire, tmp_path)
    there = node.plan.trial_dir(7)
    there.mkdir()
    (there / "checkpoint-001-a.safetensors").write_bytes(b"0123456789" * 5)
    (there / "empty").touch()
    assert node.send(TRIAL) == ""
    here = plan.trial_dir(7)
    assert (here / "checkpoint-001-a.safetensors").read_bytes() == b"0123456789" * 5
    wire.calls.clear()
    node.send(TRIAL)
    assert wire.calls == []
    (there / "weights.safetensors").write_bytes(b"w" * 25)
    assert node.send_outcome(TRIAL, FINISHED) == FINISHED
    assert sorted(path.name for path in here.iterdir()) == [
        "checkpoint-001-a.safetensors",
        "empty",
        "weights.safetensors",
    ]
    assert not there.exists()
    node.close()


def test_a_checkpoint_is_found_by_the_next_machine(plan: Plan, wire: Wire, tmp_path: Path) -> None:
    folder = plan.trial_dir(7)
    folder.mkdir(parents=True)
    (folder / "checkpoint-001-a.safetensors").write_bytes(b"state")
    (folder / "curve.jsonl").write_bytes(b"not needed")
    node = open_node(plan, wire, tmp_path)
    node.fetch(TRIAL)
    assert [path.name for path in node.plan.trial_dir(7).iterdir()] == ["checkpoint-001-a.safetensors"]
    wire.calls.clear()
    node.send(TRIAL)
    assert wire.calls == []
    node.close()


def test_files_that_cannot_be_brought_back_are_a_note(plan: Plan, wire: Wire, tmp_path: Path) -> None:
    node = open_node(plan, wire, tmp_path)
    node.plan.trial_dir(7).mkdir()
    (node.plan.trial_dir(7) / "weights.safetensors").write_bytes(b"w")
    wire.cut = True
    outcome = node.send_outcome(TRIAL, FINISHED)
    assert (outcome.status, outcome.error) == ("ok", "files of the trial not brought back: the machine is gone")
    node.fetch(TRIAL)
    node.close()


def keeps_files(trial: Trial, plan: Plan) -> Iterator[Rung | Finished]:
    """As the real evaluation does: a checkpoint at the rung, the curve at the end or when told to end."""
    folder = plan.trial_dir(trial.number)
    folder.mkdir(exist_ok=True)
    (folder / "checkpoint-001-a.safetensors").write_bytes(b"state")
    try:
        yield Rung(trial=trial.number, epoch=1, metrics={}, decision="continue")
    finally:
        (folder / "curve.jsonl").write_bytes(b"{}")
    yield dataclasses.replace(FINISHED, trial=trial.number)


def open_worker(plan: Plan, wire: Wire, tmp_path: Path) -> EvaluatesTrials:
    """Tune's trainable at the trial, on a machine that has the dataset but does not see the study."""
    worker = EvaluatesTrials()
    hidden = dataclasses.replace(plan, trials_dir=Path("/not/there/trials"))
    worker.setup(pack_trial(TRIAL), hidden, keeps_files, SimpleNamespace(call=wire, marker=tmp_path / "marker"))
    return worker


def go_on_with_another(worker: EvaluatesTrials) -> None:
    assert worker.reset_config(pack_trial(dataclasses.replace(TRIAL, number=8)))


@pytest.mark.parametrize("leave", [go_on_with_another, EvaluatesTrials.cleanup])
def test_what_a_stopped_trial_wrote_comes_home_and_leaves_its_worker(
    plan: Plan, wire: Wire, tmp_path: Path, leave: Callable[[EvaluatesTrials], object]
) -> None:
    worker = open_worker(plan, wire, tmp_path)
    there, here = worker._plan.trial_dir(7), plan.trial_dir(7)
    worker.step()
    assert [path.name for path in here.iterdir()] == ["checkpoint-001-a.safetensors"]
    (here / "checkpoint-001-a.safetensors").unlink()  # as the driver does once the outcome is on the disk
    (there / "checkpoint-001-a.safetensors").write_bytes(b"state that could not be sent")
    leave(worker)
    assert [path.name for path in here.iterdir()] == ["curve.jsonl"]
    assert not there.exists()
    worker.cleanup()


def test_a_home_that_cannot_be_reached_keeps_no_worker_from_its_next_trial(
    plan: Plan, wire: Wire, tmp_path: Path
) -> None:
    worker = open_worker(plan, wire, tmp_path)
    there = worker._plan.trial_dir(7)
    worker.step()
    wire.cut = True
    go_on_with_another(worker)
    assert not there.exists()
    wire.cut = False
    worker.step()
    assert worker.step()["done"]
    assert {path.name for path in plan.trial_dir(8).iterdir()} == {"checkpoint-001-a.safetensors", "curve.jsonl"}
    worker.cleanup()


def test_no_name_leads_out_of_the_trials_folder(plan: Plan, wire: Wire) -> None:
    wire("write_trial", 7, "../../escaped", 0, b"x", "t", True)
    assert (plan.trial_dir(7) / "escaped").read_bytes() == b"x"
    with pytest.raises(FileNotFoundError):
        wire("read_data", "../../../../etc/passwd", 0)
