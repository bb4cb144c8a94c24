"""The test split is looked at once, and what was seen stays on record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from results.store import StoreError, WriteError
from results.test_ledger import LEDGER_NAME, SecondLookError, TestedRun, add_score, open_look, read_look

RUNS = [
    TestedRun(trial=trial, arch_key=f"k{trial}", run=run, seed=run, weights="ab") for run, trial in enumerate((7, 7, 9))
]
NOON = 1_700_000_000.0


def open_for(folder: Path, runs: list[TestedRun] = RUNS, fingerprint: str = "f"):  # type: ignore[no-untyped-def]
    return open_look(folder, runs, fingerprint, 269, clock=lambda: NOON)


def test_a_closed_split_has_no_look(tmp_path: Path) -> None:
    assert read_look(tmp_path) is None
    with pytest.raises(StoreError, match="none that the test split was opened for"):
        add_score(tmp_path, 0, 0.5)


def test_the_opening_is_on_disk_before_it_returns_and_scores_follow(tmp_path: Path) -> None:
    look = open_for(tmp_path)
    assert read_look(tmp_path) == look
    assert look.missing == tuple(RUNS)
    add_score(tmp_path, 1, 0.975)
    seen = read_look(tmp_path)
    assert seen is not None
    assert seen.accuracies == {1: 0.975}
    assert [run.run for run in seen.missing] == [0, 2]
    assert seen.describe() == (
        "opened on 2023-11-14 22:13:20 UTC for trial 7 (97.5 %), trial 9 (1 run, not scored yet)"
    )


def test_the_same_runs_go_on_and_nothing_is_scored_twice(tmp_path: Path) -> None:
    open_for(tmp_path)
    add_score(tmp_path, 0, 0.9)
    again = open_look(tmp_path, list(reversed(RUNS)), "f", 269)
    assert (again.time, again.accuracies) == (NOON, {0: 0.9})
    with pytest.raises(StoreError, match="run 0 is none"):
        add_score(tmp_path, 0, 0.99)
    assert len((tmp_path / LEDGER_NAME).read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("runs", "fingerprint"),
    [
        (RUNS[:2], "f"),
        ([*RUNS, TestedRun(3, "k3", 3, 3, "ab")], "f"),
        ([*RUNS[:2], TestedRun(9, "k9", 2, 2, "other weights")], "f"),
        (RUNS, "other data"),
    ],
)
def test_a_second_look_is_refused_and_says_what_was_seen(
    tmp_path: Path, runs: list[TestedRun], fingerprint: str
) -> None:
    open_for(tmp_path)
    add_score(tmp_path, 2, 0.5)
    before = (tmp_path / LEDGER_NAME).read_bytes()
    with pytest.raises(SecondLookError, match=r"opened on 2023-11-14 .* for trial 7 .*trial 9 \(50.0 %\)"):
        open_for(tmp_path, runs, fingerprint)
    assert (tmp_path / LEDGER_NAME).read_bytes() == before


def test_a_torn_line_is_cut_off_and_was_never_acted_on(tmp_path: Path) -> None:
    path = tmp_path / LEDGER_NAME
    path.write_bytes(b'{"event":"opened","ti')
    assert read_look(tmp_path) is None
    open_for(tmp_path)
    with open(path, "ab") as file:
        file.write(b'{"event":"scored","run":0')
    assert open_for(tmp_path).accuracies == {}
    add_score(tmp_path, 0, 0.25)
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["opened", "scored"]
    look = read_look(tmp_path)
    assert look is not None
    assert look.accuracies == {0: 0.25}


def test_a_damaged_ledger_keeps_the_split_closed(tmp_path: Path) -> None:
    (tmp_path / LEDGER_NAME).write_bytes(b'{"event":"scored","run":0,"test_accuracy":1}\n')
    with pytest.raises(StoreError, match=r"line 1 is damaged .* stays closed"):
        open_for(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_what_cannot_be_written_down_is_not_opened(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(WriteError, match="the test split was not read"):
        open_for(tmp_path)
    tmp_path.chmod(0o700)


def test_a_folder_in_the_way_is_a_write_error(tmp_path: Path) -> None:
    (tmp_path / LEDGER_NAME).mkdir()
    with pytest.raises(WriteError, match="the test split was not read"):
        open_for(tmp_path)


def test_a_process_killed_right_after_opening_has_looked(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from results.test_ledger import TestedRun, open_look\n"
        "open_look(Path(sys.argv[1]), [TestedRun(7, 'k7', 0, 0, 'ab')], 'f', 269)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)]).returncode == -9
    with pytest.raises(SecondLookError, match="not scored yet"):
        open_for(tmp_path)
    assert open_look(tmp_path, [TestedRun(7, "k7", 0, 0, "ab")], "f", 269).missing
