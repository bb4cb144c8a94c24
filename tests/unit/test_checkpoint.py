"""A training that is cut off goes on from its checkpoint, and ends as if nothing had happened."""

from __future__ import annotations

import copy
import itertools
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from crossvit_core import PRESETS, checkpoint
from crossvit_core.checkpoint import (
    Checkpoint,
    CheckpointError,
    CheckpointFolder,
    load_checkpoint,
    save_checkpoint,
)
from crossvit_core.checkpoint_files import find_checkpoints, remove_checkpoints
from crossvit_core.config import EncoderConfig
from crossvit_core.data import ImageData, load_dataset
from crossvit_core.model import CrossViT, build_model
from crossvit_core.recipe import TrainRecipe
from crossvit_core.train import EpochResult, train_model

ARCH = PRESETS["crossvit_nano_16"].replace(in_channels=1)
IDENTITY = {"arch": "a", "seed": 1}
PLAIN = TrainRecipe(epochs=4)
EVERYTHING = TrainRecipe(
    epochs=4, mixup=0.5, drop_path=0.3, augment="shift_flip", clip_grad=1.0, ema_decay=0.9, label_smoothing=0.1
)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_dataset("digits", image_size=(16, 16), limit=300)


def make_model(recipe: TrainRecipe) -> CrossViT:
    torch.manual_seed(0)
    return build_model(ARCH, drop_path_rate=recipe.drop_path)


def open_folder(folder: Path, attempt: int = 1, **options: Any) -> CheckpointFolder:
    return CheckpointFolder(folder, IDENTITY, attempt=attempt, every_seconds=0.0, **options)


def some_checkpoint(epoch: int = 3) -> Checkpoint:
    tensors = {"model.w": torch.arange(6.0).reshape(2, 3), "random.own": torch.arange(5, dtype=torch.uint8)}
    return Checkpoint(epoch, tensors, {"curve": [{"loss": 0.1 + 0.2}], "step": 7})


def numbers(epochs: list[EpochResult]) -> list[tuple[float, ...]]:
    return [(e.epoch, e.train_loss, e.val_loss, e.val_accuracy, e.lr) for e in epochs]


@pytest.mark.parametrize("recipe", [PLAIN, EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize("cut", [1, 3, 4])
def test_broken_off_and_gone_on_with_is_bit_for_bit_the_same(
    digits: ImageData, tmp_path: Path, recipe: TrainRecipe, cut: int
) -> None:
    whole = make_model(recipe)
    expected = list(train_model(whole, digits, recipe, seed=3))
    cut_off = train_model(make_model(recipe), digits, recipe, seed=3, checkpoints=open_folder(tmp_path))
    before = list(itertools.islice(cut_off, cut))
    del cut_off
    torch.rand(11)
    resumed = make_model(recipe)
    folder = open_folder(tmp_path, attempt=2)
    assert folder.found is not None
    assert folder.found.epoch == cut
    epochs = list(train_model(resumed, digits, recipe, seed=3, checkpoints=folder))
    assert epochs[:cut] == before
    assert numbers(epochs) == numbers(expected)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values()):
        assert torch.equal(a, b), name
    assert folder.notes == []


@pytest.mark.parametrize("depth", [1, 2])
def test_a_checkpoint_from_before_parameters_were_frozen_is_gone_on_with(
    digits: ImageData, tmp_path: Path, depth: int
) -> None:
    """Those that never have a gradient did not move, nor had the optimiser a state for them, but they had a number."""
    encoder = EncoderConfig(depths=(1, 1), fusion_depth=depth)
    torch.manual_seed(0)
    model = build_model(ARCH.replace(encoders=(encoder,)))
    assert not all(parameter.requires_grad for parameter in model.parameters())
    whole, before = copy.deepcopy(model), copy.deepcopy(model).requires_grad_(True)
    expected = list(train_model(whole, digits, EVERYTHING, seed=3))
    cut_off = train_model(before, digits, EVERYTHING, seed=3, checkpoints=open_folder(tmp_path))
    list(itertools.islice(cut_off, 2))
    del cut_off
    folder = open_folder(tmp_path, attempt=2)
    assert numbers(list(train_model(model, digits, EVERYTHING, seed=3, checkpoints=folder))) == numbers(expected)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), whole.parameters()))
    assert folder.notes == []


def test_time_goes_on_where_the_checkpoint_stopped_it(digits: ImageData, tmp_path: Path) -> None:
    first = list(
        itertools.islice(train_model(make_model(PLAIN), digits, PLAIN, seed=3, checkpoints=open_folder(tmp_path)), 2)
    )
    folder = open_folder(tmp_path, 2)
    epochs = list(train_model(make_model(PLAIN), digits, PLAIN, seed=3, checkpoints=folder))
    for clock in ("seconds", "cpu_seconds"):
        times = [getattr(epoch, clock) for epoch in epochs]
        assert times == sorted(times)
        assert times[2] > getattr(first[1], clock) > 0


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-001-x.safetensors"
    saved = some_checkpoint()
    save_checkpoint(path, saved, IDENTITY)
    loaded = load_checkpoint(path, IDENTITY)
    assert (loaded.epoch, loaded.state) == (3, saved.state)
    assert loaded.tensors.keys() == saved.tensors.keys()
    assert all(torch.equal(loaded.tensors[name], saved.tensors[name]) for name in saved.tensors)


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ({"arch": "a", "seed": 2}, "belongs to another training: it differs in seed"),
        ({"arch": "b", "seed": 1, "recipe": {}}, "it differs in arch, recipe"),
    ],
)
def test_that_of_another_training_is_refused(tmp_path: Path, identity: dict[str, Any], message: str) -> None:
    path = tmp_path / "checkpoint-001-x.safetensors"
    save_checkpoint(path, some_checkpoint(), IDENTITY)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path, identity)


def test_a_damaged_one_is_refused_whichever_byte_it_is(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-001-x.safetensors"
    save_checkpoint(path, some_checkpoint(), IDENTITY)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        try:
            loaded = load_checkpoint(path, IDENTITY)
        except CheckpointError:
            continue
        assert loaded.state == some_checkpoint().state, place
        assert all(torch.equal(loaded.tensors[k], v) for k, v in some_checkpoint().tensors.items()), place
    for length in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            load_checkpoint(path, IDENTITY)


class Mine:
    """Runs a command where it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        import os

        return (os.system, (self.command,))


def test_a_pickle_in_its_place_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-001-x.safetensors"
    path.write_bytes(pickle.dumps(Mine(f"touch {tmp_path}/executed")))
    with pytest.raises(CheckpointError):
        load_checkpoint(path, IDENTITY)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("damage", ["torn", "another", "tensors"])
def test_what_cannot_be_used_means_starting_over_and_a_note(digits: ImageData, tmp_path: Path, damage: str) -> None:
    expected = list(train_model(make_model(PLAIN), digits, PLAIN, seed=3))
    path = tmp_path / "checkpoint-001-x.safetensors"
    save_checkpoint(path, some_checkpoint(), {"arch": "b"} if damage == "another" else IDENTITY)
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-10])
    folder = open_folder(tmp_path, 2)
    epochs = list(train_model(make_model(PLAIN), digits, PLAIN, seed=3, checkpoints=folder))
    assert numbers(epochs) == numbers(expected)
    assert len(folder.notes) == 1
    assert ("started over" if damage == "tensors" else "not used") in folder.notes[0]


def test_an_orphan_spoils_nothing(tmp_path: Path) -> None:
    """A worker of an earlier attempt that was thought dead writes on: the later attempt's file stays as it is."""
    orphan = open_folder(tmp_path, attempt=1)
    orphan.save(1, some_checkpoint().tensors, {"step": 1})
    current = open_folder(tmp_path, attempt=2)
    current.save(2, some_checkpoint().tensors, {"step": 2})
    assert len(list(find_checkpoints(tmp_path))) == 1
    twin_of_another_driver = open_folder(tmp_path, attempt=2)
    orphan.save(1, some_checkpoint().tensors, {"step": 1})
    twin_of_another_driver.save(1, some_checkpoint().tensors, {"step": 1})
    orphan.save(1, some_checkpoint().tensors, {"step": 1})
    current.save(5, some_checkpoint().tensors, {"step": 5})
    latest = open_folder(tmp_path, attempt=3)
    assert latest.found is not None
    assert latest.found.epoch == 5


def test_it_is_due_at_its_epochs_and_after_its_time(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, IDENTITY, epochs=(2, 5), every_seconds=0.2)
    assert [epoch for epoch in range(1, 7) if folder.is_due(epoch)] == [2, 5]
    time.sleep(0.25)
    assert folder.is_due(1)
    folder.save(1, some_checkpoint().tensors, {})
    assert not folder.is_due(3)


def test_saving_takes_a_small_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After saving that took long the next is due as much later: 300 MB an epoch would halve a GPU's pace."""
    folder = CheckpointFolder(tmp_path, IDENTITY, every_seconds=0.2)
    start = time.monotonic()
    folder.save(1, some_checkpoint().tensors, {})
    took = time.monotonic() - start
    monkeypatch.setattr(checkpoint, "_QUICK_SECONDS", took / 4)  # whatever the disk: four times as long as is quick
    time.sleep(0.25)
    assert not folder.is_due(2)
    time.sleep(0.6)
    assert folder.is_due(2)
    monkeypatch.setattr(checkpoint, "_QUICK_SECONDS", 3600.0)
    folder.save(2, some_checkpoint().tensors, {})
    time.sleep(0.25)
    assert folder.is_due(3)


def test_what_the_caller_adds_is_kept(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    assert folder.extra == {}
    folder.extra["metrics"] = {"throughput_ips": 12.5}
    folder.save(1, some_checkpoint().tensors, {"step": 1})
    assert open_folder(tmp_path).extra == {"metrics": {"throughput_ips": 12.5}}


def test_a_full_disk_costs_the_checkpoint_not_the_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    folder = open_folder(tmp_path / "file" / "trial")
    for epoch in (1, 2):
        folder.save(epoch, some_checkpoint().tensors, {})
    assert folder.notes == ["checkpoint not kept: Not a directory"]


_WRITER = """
import sys, torch
from pathlib import Path
from crossvit_core.checkpoint import CheckpointFolder
folder = CheckpointFolder(Path(sys.argv[1]), {"arch": "a", "seed": 1}, every_seconds=0.0)
epoch = 0
while True:
    epoch += 1
    folder.save(epoch, {"model.w": torch.full((1_000_000,), float(epoch))}, {"step": epoch})
    print(epoch, flush=True)
"""


def test_killed_while_it_writes_the_one_before_is_whole(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = [int(writer.stdout.readline()) for _ in range(3)]
        writer.kill()
        said += [int(line) for line in writer.stdout if line.endswith("\n")]
    folder = open_folder(tmp_path)
    assert folder.notes == []
    assert folder.found is not None
    assert folder.found.epoch >= said[-1]
    assert torch.equal(folder.found.tensors["model.w"], torch.full((1_000_000,), float(folder.found.epoch)))


def test_removing_leaves_the_other_files_of_the_trial(tmp_path: Path) -> None:
    for name in ("kept", "emptied"):
        open_folder(tmp_path / name).save(1, some_checkpoint().tensors, {})
        (tmp_path / name / ".checkpoint-001-x.safetensors.abc.tmp").touch()
    (tmp_path / "kept" / "curve.jsonl").touch()
    for name in ("kept", "emptied", "absent"):
        remove_checkpoints(tmp_path / name)
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == [
        "kept",
        "kept/curve.jsonl",
    ]
