"""Ledgers of many trials, above all of one architecture: bounded memory, a page of sense, one sentence beyond that."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.report_scale import synthetic_events, write_ledger
from results.findings import load_findings
from results.frame import build_frame, load_frame
from results.memory import free_bytes
from results.records import Finished
from results.report import write_report
from results.store import StoreError, StudyStore
from search.finalists import Wish
from search.optuna_journal import write_journal
from search.selection import select
from search.status import read_status
from search.study import resolve_study
from search.study_config import StudyConfig
from search.study_folder import open_study

CROSSVIT = str(Path(sys.executable).with_name("crossvit"))


# A process of its own: one that is forked off a large one begins with the peak of that.
LAUNCHER = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**20)
"""


def peak_mb_of(folder: Path, command: str) -> float:
    """Peak memory of a command on the study ``s``."""
    words = [sys.executable, "-c", LAUNCHER, CROSSVIT, command, "s", "--runs-dir", str(folder)]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def test_a_table_of_trials_holds_a_few_hundred_bytes_of_each() -> None:
    frame = build_frame(synthetic_events(3000, architectures=1))
    assert frame["trial"].tolist() == list(range(3000))
    assert frame.memory_usage(deep=True).sum() / len(frame) < 800


def test_one_architecture_in_many_trials_is_one_point_on_a_small_page(tmp_path: Path) -> None:
    write_ledger(tmp_path / "s", trials=4000, architectures=1)
    findings = load_findings(tmp_path / "s")
    ok = findings.frame[findings.frame["status"] == "ok"]
    assert findings.members["runs"].tolist() == [len(ok)]
    assert findings.members["val_accuracy"].tolist() == pytest.approx([ok["val_accuracy"].mean()])
    page = write_report(tmp_path / "s")
    assert page.stat().st_size < 3e6
    text = page.read_text(encoding="utf-8")
    assert f"1 architecture was tried in 4,000 trials on synthetic; {len(ok):,} trained to the end." in text
    rows = (page.parent / "trials.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 4001 and rows[-1].startswith("3999,")


def test_curves_are_those_of_their_trials(tmp_path: Path) -> None:
    events = list(synthetic_events(50, architectures=50))
    write_ledger(tmp_path / "s", trials=50, architectures=50)
    rungs = load_findings(tmp_path / "s").rungs
    for trial in (0, 17, 49):
        curve = [(e.epoch, e.metrics["val_accuracy"]) for e in events if e.trial == trial and hasattr(e, "epoch")]  # type: ignore[union-attr]
        assert rungs[trial] == curve and len(curve) == 3
    assert list(rungs) == list(range(50)) and 50 not in rungs and -1 not in rungs


def test_status_agrees_with_the_report_and_keeps_only_the_front(tmp_path: Path) -> None:
    write_ledger(tmp_path / "s", trials=2000, architectures=500)
    frame = load_frame(tmp_path / "s")
    status = read_status(tmp_path / "s")
    assert status.counts == {name: int((frame["status"] == name).sum()) for name in status.counts}
    assert status.best_accuracy == frame.loc[frame["status"] == "ok", "val_accuracy"].max()


def test_records_of_one_architecture_are_held_once(tmp_path: Path) -> None:
    write_ledger(tmp_path / "s", trials=20, architectures=2)
    store = StudyStore.open_readonly(tmp_path / "s")
    records = [event.arch for event in store.events() if isinstance(event, Finished)]
    assert len({id(arch) for arch in records}) == 2
    assert records == [event.arch for event in synthetic_events(20, 2) if isinstance(event, Finished)]


COMMANDS: dict[str, Callable[[Path], object]] = {
    "a report": write_report,
    "a table of its trials": lambda folder: select(folder, Wish()),
    "a journal for a dashboard": write_journal,
}


@pytest.mark.parametrize("doing", COMMANDS)
def test_what_does_not_fit_into_memory_is_one_sentence(tmp_path: Path, doing: str) -> None:
    """A ledger of four terabytes: a file with a hole."""
    write_ledger(tmp_path / "s", trials=2, architectures=1)
    assert free_bytes() is not None
    os.truncate(tmp_path / "s" / "ledger.jsonl", 2**42)
    with pytest.raises(
        StoreError, match=rf"study 's' is too large for this machine: {doing} takes about .* TB of memory"
    ):
        COMMANDS[doing](tmp_path / "s")


def test_a_search_that_does_not_fit_into_memory_is_not_gone_on_with(tmp_path: Path) -> None:
    study = resolve_study(StudyConfig(space="smoke", runs_dir=tmp_path))
    open_study(study).close()
    (study.path / "ledger.jsonl").touch()
    open_study(study).close()
    os.truncate(study.path / "ledger.jsonl", 2**42)
    with pytest.raises(StoreError, match=r"going on with a search takes about .* TB of memory .* and .* are free"):
        open_study(study)


@pytest.mark.slow
def test_the_memory_of_the_commands_grows_by_little_with_each_trial(tmp_path: Path) -> None:
    """200,000 trials of one architecture, a ledger of 340 MB. benchmarks/report_scale.py was run with 2,000,000."""
    write_ledger(tmp_path / "s", trials=200_000, architectures=1)
    assert peak_mb_of(tmp_path, "status") < 100
    assert peak_mb_of(tmp_path, "select") < 500
    assert peak_mb_of(tmp_path, "report") < 600
