"""The study's folder: durable, one writer, torn tails dropped."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from results.records import Asked, Finished, RecordError, Rung, decode_event, encode_event
from results.store import (
    StoreError,
    StudyBusyError,
    StudyStore,
    WriteError,
    check_new_name,
    check_study_name,
    find_studies,
    plain_name,
)

EVENTS = [
    Asked(trial=0, arch_key="ab", arch={"image_size": 16}, seed=1, source="tpe", hints={"g": 2}, time=1.5),
    Rung(trial=0, epoch=2, metrics={"val_accuracy": 0.5}, decision="continue"),
    Finished(
        trial=0,
        status="ok",
        arch_key="ab",
        arch={"image_size": 16},
        seed=1,
        seconds=2.5,
        device="cpu",
        metrics={"val_accuracy": 0.75, "macs": 12},
    ),
]


def make_store(path: Path) -> StudyStore:
    return StudyStore.create(path, {"name": path.name})


def test_events_come_back_as_written(tmp_path: Path) -> None:
    with make_store(tmp_path / "s") as store:
        for event in EVENTS:
            store.append(event)
        assert list(store.events()) == EVENTS
    with StudyStore.open_readonly(tmp_path / "s") as reader:
        assert list(reader.events()) == EVENTS
    assert find_studies(tmp_path) == ["s"]


def test_numbers_that_are_not_finite_survive_json() -> None:
    rung = Rung(trial=1, epoch=1, metrics={"a": float("inf"), "b": float("-inf"), "c": float("nan")}, decision="stop")
    back = decode_event(encode_event(rung))
    assert isinstance(back, Rung)
    assert back.metrics["a"] == float("inf")
    assert back.metrics["b"] == float("-inf")
    assert back.metrics["c"] != back.metrics["c"]


def test_unknown_events_are_refused_and_later_fields_passed_over() -> None:
    with pytest.raises(RecordError, match="unknown event 'asks'; known: asked, rung, finished"):
        decode_event({"event": "asks"})
    assert decode_event({**encode_event(EVENTS[1]), "new": 1}) == EVENTS[1]
    with pytest.raises(RecordError, match="missing"):
        decode_event({"event": "rung", "trial": 1})


@pytest.mark.parametrize("cut", [1, 20, 1000])
def test_a_torn_last_line_is_dropped_and_overwritten(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "s"
    with make_store(path) as store:
        for event in EVENTS:
            store.append(event)
    ledger = path / "ledger.jsonl"
    whole = ledger.read_bytes()
    start_of_last = whole.rstrip(b"\n").rfind(b"\n") + 1
    ledger.write_bytes(whole[: max(start_of_last, len(whole) - cut)])
    with StudyStore.open(path) as store:
        assert list(store.events()) == EVENTS[:2]
        store.append(EVENTS[2])
        assert list(store.events()) == EVENTS
    assert ledger.read_bytes() == whole


DAMAGED = (
    b"not json",
    b"[1]",
    b"\xff",
    b'{"event": "rung", "trial": 1, "epoch": 1, "metrics": {"macs": "high"}, "decision": "stop"}',
    b'{"event": "rung", "trial": 1, "epoch": 1, "metrics": {"macs": null}, "decision": "stop"}',
    b'{"event": "rung", "trial": 1, "epoch": 1, "metrics": 7, "decision": "stop"}',
)


@pytest.mark.parametrize("line", DAMAGED)
def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "s"
    with make_store(path) as store:
        store.append(EVENTS[0])
    with open(path / "ledger.jsonl", "ab") as file:
        file.write(line + b"\n")
    with pytest.raises(StoreError, match=r"ledger\.jsonl, line 2 is not an event"):
        list(StudyStore.open_readonly(path).events())


def test_only_one_process_writes(tmp_path: Path) -> None:
    path = tmp_path / "s"
    script = (
        "import sys; from pathlib import Path; from results.store import StudyStore; StudyStore.open(Path(sys.argv[1]))"
    )
    with make_store(path):
        with pytest.raises(StudyBusyError, match=rf"'s' is being written by another process \(pid {os.getpid()}\)"):
            StudyStore.open(path)
        other = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
        assert "StudyBusyError" in other.stderr
    assert subprocess.run([sys.executable, "-c", script, str(path)]).returncode == 0


def test_a_reader_may_read_while_another_writes_but_not_write(tmp_path: Path) -> None:
    with make_store(tmp_path / "s") as store:
        store.append(EVENTS[0])
        reader = StudyStore.open_readonly(tmp_path / "s")
        assert list(reader.events()) == EVENTS[:1]
        with pytest.raises(StoreError, match="opened to read only"):
            reader.append(EVENTS[1])


def test_a_ledger_without_its_study_is_adopted_by_no_other(tmp_path: Path) -> None:
    with make_store(tmp_path / "s") as store:
        store.append(EVENTS[0])
    (tmp_path / "s" / "study.json").unlink()
    for touch in (make_store, StudyStore.open, StudyStore.open_readonly):
        with pytest.raises(StoreError, match=r"has the trials of a study in its ledger\.jsonl, and no study\.json"):
            touch(tmp_path / "s")


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path: Path) -> None:
    """A file size limit makes the kernel refuse the write half way, as a full disk does."""
    script = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from results.records import Rung
from results.store import WriteError, StudyStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = StudyStore.create(Path(sys.argv[1]), {})
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
written = 0
try:
    while True:
        store.append(Rung(trial=written, epoch=1, metrics={"val_accuracy": 0.5}, decision="continue"))
        written += 1
except WriteError as error:
    print(written, error)
"""
    path = tmp_path / "s"
    run = subprocess.run([sys.executable, "-c", script, str(path), ""], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    written = int(run.stdout.split()[0])
    assert written > 3
    assert f"cannot write to {path}" in run.stdout
    with StudyStore.open(path) as store:
        assert len(list(store.events())) == written
        store.append(EVENTS[1])
        assert len(list(store.events())) == written + 1


def test_a_full_disk_leaves_the_other_files_as_they_were(tmp_path: Path) -> None:
    script = """
import resource, signal, sys
from pathlib import Path
from results.store import WriteError, StudyStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = StudyStore.create(Path(sys.argv[1]), {})
store.write_json("environment.json", {"cores": 2})
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    store.write_json("environment.json", {"cores": 2, "long": "x" * 10_000})
except WriteError as error:
    print(error)
"""
    path = tmp_path / "s"
    run = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert f"cannot write to {path}" in run.stdout
    assert StudyStore.open_readonly(path).environment == {"cores": 2}


def test_a_glance_at_the_lock_does_not_refuse_a_search(tmp_path: Path) -> None:
    make_store(tmp_path / "s").close()
    glance = open(tmp_path / "s" / "lock", encoding="utf-8")  # noqa: SIM115  closed by the timer
    fcntl.flock(glance, fcntl.LOCK_SH)
    threading.Timer(0.05, glance.close).start()
    StudyStore.open(tmp_path / "s").close()


def test_a_new_name_leaves_room_for_what_is_appended_to_it() -> None:
    longest = plain_name("photos of " + "x" * 200, suffix="-seed1")
    assert longest.endswith("-seed1")
    assert check_new_name(longest) == longest
    assert check_study_name(f"{longest}-retrain")
    with pytest.raises(StoreError, match="has 101 characters; use at most 100"):
        check_new_name("x" * 101)


def test_a_folder_that_cannot_be_made_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"cannot write to .*: a file is in the way of a folder"):
        make_store(tmp_path / "file" / "s")


def test_unknown_studies_and_other_formats(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no study 'x' in .*; there are no studies there yet"):
        StudyStore.open(tmp_path / "x")
    with make_store(tmp_path / "s"):
        pass
    with pytest.raises(StoreError, match="studies there: s"):
        StudyStore.open_readonly(tmp_path / "x")
    with pytest.raises(StoreError, match="'s' exists already"):
        make_store(tmp_path / "s")
    (tmp_path / "s" / "study.json").write_text('{"format": 99}')
    with pytest.raises(StoreError, match="has format 99; this version reads format 1"):
        StudyStore.open(tmp_path / "s")
    (tmp_path / "s" / "study.json").write_text("{")
    with pytest.raises(StoreError, match="is damaged"):
        StudyStore.open(tmp_path / "s")


@pytest.mark.parametrize("name", ["a/b", "../a", "", ".", "..", ".hidden", "a b", "x" * 200, "a\n"])
def test_names_that_could_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(StoreError, match="is not a plain file name"):
        check_study_name(name)


def test_a_refused_append_is_an_error_of_the_ledger() -> None:
    assert issubclass(WriteError, StoreError)
