"""Curves for TensorBoard: read back from the event files, for every trial that ended, whole and only once."""

from __future__ import annotations

import importlib.util
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from results.records import Finished, Rung
from results.store import StudyStore
from search.mirrors import open_mirrors
from search.tensorboard import FOLDER, TensorBoardMirror

pytestmark = pytest.mark.skipif(importlib.util.find_spec("tensorboardX") is None, reason="needs tensorboardX")


def read_events(folder: Path) -> Iterator[Any]:
    """Of a file of records: length, checksum, data, checksum. TensorBoard passes over what its checksums belie."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    (path,) = folder.iterdir()
    assert ".tfevents." in path.name  # by which TensorBoard finds it
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        header, record = data[:8], data[12 : 12 + length]
        assert data[8:12] == struct.pack("<I", masked_crc32c(header))
        assert data[12 + length : 16 + length] == struct.pack("<I", masked_crc32c(record))
        yield Event.FromString(record)
        data = data[16 + length :]


def read_scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Tag to step to value, from the one event file of a trial."""
    scalars: dict[str, dict[int, float]] = {}
    for event in read_events(folder):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                scalars.setdefault(value.tag, {})[event.step] = value.simple_value
    return scalars


def test_every_ended_trial_has_its_curve(typical_study: Any) -> None:
    TensorBoardMirror(typical_study.path).close()
    folder = typical_study.path / FOLDER
    assert sorted(path.name for path in folder.iterdir()) == [f"{trial:05d}" for trial in range(9)]
    scalars = read_scalars(folder / "00003")
    assert scalars["val_accuracy"] == {1: pytest.approx(0.5), 2: pytest.approx(0.95)}
    assert scalars["final/macs"] == {2: 800_000}
    first, about, *_ = read_events(folder / "00003")
    assert first.file_version == "brain.Event:2"
    assert about.summary.value[0].tag == "architecture/text_summary"
    # A stopped trial whose worker left no curve has its rungs.
    assert read_scalars(folder / "00005")["val_accuracy"] == {1: pytest.approx(0.99)}


def test_it_follows_and_leaves_alone_what_is_there(typical_study: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = typical_study.path / FOLDER
    with open_mirrors(("tensorboard",), typical_study.path) as (mirror,):
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
        rung = Rung(trial=9, epoch=3, metrics={"val_accuracy": 0.25, "val_loss": float("nan")}, decision="stop")
        mirror(rung)
        assert not (folder / "00009").exists()
        about: dict = {"arch_key": "k", "arch": {}, "seed": 0, "seconds": 1.0, "device": "cpu"}
        mirror(Finished(trial=9, status="stopped", metrics={"val_accuracy": 0.25}, **about))
    assert read_scalars(folder / "00009")["val_accuracy"] == {3: 0.25}
    with open_mirrors(("tensorboard",), typical_study.path):
        pass
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_disk_that_takes_no_more_costs_one_sentence(typical_study: Any) -> None:
    """A process that may write no file of more than 100 bytes; to its very end, it says nothing else."""
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); from pathlib import Path\n"
        "from search.mirrors import open_mirrors\n"
        f"with open_mirrors(('tensorboard',), Path({str(typical_study.path)!r})): pass"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.stderr == "crossvit: tensorboard is no longer kept up to date: [Errno 27] File too large\n"
    assert run.returncode == 0
    assert list((typical_study.path / FOLDER).iterdir()) == []


def test_a_damaged_curve_falls_back_on_the_rungs(new_study: Callable[..., Any], tmp_path: Path) -> None:
    study = new_study()
    study.add(0.9, 1000, rung=0.5, curve=(0.5, 0.9))
    path = study.path
    (StudyStore.open_readonly(path).trial_dir(0) / "curve.jsonl").write_text('{"epoch": 1, "val')
    TensorBoardMirror(path)
    assert read_scalars(path / FOLDER / "00000")["val_accuracy"] == {1: 0.5}
