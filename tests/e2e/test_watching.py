"""A search with limits on what is measured, watched from outside by the other commands while it runs."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from results.records import Finished
from results.store import StudyStore

CROSSVIT = str(Path(sys.executable).with_name("crossvit"))
SEARCH = (CROSSVIT, "search", "--space", "smoke", "--executor", "local", "--epochs", "1", "--workers", "1")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*arguments], cwd=folder, capture_output=True, text=True, timeout=200)


def outcomes(study: Path) -> list[Finished]:
    return [event for event in StudyStore.open_readonly(study).events() if isinstance(event, Finished)]


@pytest.mark.slow
def test_limits_and_views_of_a_running_search(tmp_path: Path) -> None:
    command = (*SEARCH, "--trials", "5", "--limit", "peak_memory_mb<=0.2", "--dashboard", "--tensorboard")
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    study = tmp_path / "results/runs/smoke-digits"
    deadline = time.monotonic() + 100
    while not (study / "ledger.jsonl").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    running = run(tmp_path, CROSSVIT, "status", "smoke-digits")
    opened = run(tmp_path, CROSSVIT, "dashboard", "smoke-digits")
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert errors == ""
    assert "(macs at most 1 M, peak_memory_mb at most 0.2)" in output
    assert "of 5 trials done, running" in running.stdout
    assert f"optuna-dashboard {study / 'optuna.journal'}" in opened.stdout
    check_outcomes(study, output)
    after = run(tmp_path, CROSSVIT, "status", "smoke-digits")
    assert "5 of 5 trials done, ended: " in after.stdout


def check_outcomes(study: Path, output: str) -> None:
    ends = {outcome.trial: outcome for outcome in outcomes(study)}
    within = {trial: end.metrics["peak_memory_mb"] <= 0.2 for trial, end in ends.items()}
    assert {trial: end.status for trial, end in ends.items()} == {
        trial: "ok" if fits else "infeasible" for trial, fits in within.items()
    }
    assert set(within.values()) == {True, False}  # both kinds have been met
    assert "infeasible: peak_memory_mb is 0." in output
    assert len(list((study / "tensorboard").iterdir())) == 5
    journal = (study / "optuna.journal").read_text()
    assert journal.count('"status":"infeasible"') + journal.count('"status": "infeasible"') >= 1


def test_a_bad_limit_is_one_sentence(tmp_path: Path) -> None:
    result = run(tmp_path, *SEARCH, "--limit", "latency<=5")
    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stderr.startswith("crossvit: unknown limit 'latency'; did you mean 'latency_ms'")
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_limit_that_nothing_meets_is_a_failed_study(tmp_path: Path) -> None:
    result = run(tmp_path, *SEARCH, "--trials", "2", "--limit", "peak_memory_mb<=0.01")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "none of 2 trials succeeded; the last one said: peak_memory_mb is 0." in result.stderr
    assert (tmp_path / "results/runs/smoke-digits/report/index.html").exists()
