"""The report command, from its words on."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from results.figures import FigureFormatError
from results.records import Ended
from search.cli import _exit_code, app
from search.reporting import show_report


def call(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    app(["report", *words], standalone_mode=False)
    return capsys.readouterr().out


def test_one_study(typical_study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = call(capsys, "s", "--runs-dir", str(tmp_path))
    assert "Pareto front" in out
    assert out.endswith(f"report: {tmp_path / 's' / 'report' / 'index.html'}\n")
    assert not (tmp_path / "s" / "report" / "figures").exists()


def test_a_study_without_a_front_says_why(new_study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = new_study()
    for speed in ("900", "1.1 k", "1.2 k"):
        study.add(
            None, 2000, status="infeasible", error=f"throughput_ips is {speed}, allowed is throughput_ips at least 5 k"
        )
    study.add(None, 2000, status="infeasible", error="macs is 2 M, allowed is macs at most 1 M; a note")
    out = call(capsys, "s", "--runs-dir", str(tmp_path))
    told = "all 4 trials were infeasible; the commonest reason, of 3 trials: allowed is throughput_ips at least 5 k"
    assert out.startswith(f"no front: {told}\nreport: ")
    page = (tmp_path / "s" / "report" / "index.html").read_text(encoding="utf-8")
    assert f"{told}, so there is no front." in page
    assert "yet" not in page[: page.index("Trials without a result")].partition("<h1>")[2]


def test_a_search_that_is_over_is_not_said_to_be_trained_yet(
    new_study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = new_study()
    study.add(None, 2000, status="infeasible", error="macs 2 M over 1 M")
    for _ in range(2):
        study.add(status="failed", error="out of memory")
    assert call(capsys, "s", "--runs-dir", str(tmp_path)).startswith("no front: none has been trained to the end yet\n")
    study.store.append(Ended(reason="all trials are done"))
    out = call(capsys, "s", "--runs-dir", str(tmp_path))
    told = "none was trained to the end (1 infeasible, 2 failed); the commonest reason, of 2 trials: out of memory"
    assert out.startswith(f"no front: {told}\n")


def test_several_studies_are_compared(new_study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b", "c"):
        new_study(name).add(0.9, 1000)
    out = call(capsys, "a", "b", "c", "--runs-dir", str(tmp_path))
    page = tmp_path / "compare-a+b+c" / "index.html"
    assert out == f"comparison: {page}\n"
    assert page.is_file()


def test_a_machine_without_a_browser_still_has_its_report(
    typical_study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    console = Console(file=io.StringIO(), width=200)
    show_report(tmp_path / "s", console, "svg")
    assert "no figures: they need a Chromium" in console.file.getvalue()  # type: ignore[attr-defined]
    assert (tmp_path / "s" / "report" / "index.html").is_file()


def test_an_unknown_format_is_told_before_anything_is_written(typical_study: Any, tmp_path: Path) -> None:
    with pytest.raises(FigureFormatError) as caught:
        app(["report", "s", "--runs-dir", str(tmp_path), "--figures", "gif"], standalone_mode=False)
    assert _exit_code(caught.value) == 2
    assert not (tmp_path / "s" / "report").exists()
