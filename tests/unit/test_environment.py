"""The command that goes on with a study, as its owner would have to type it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from search.environment import command_line, in_runs_dir

BIN = str(Path(sys.executable).parent)


@pytest.mark.parametrize(
    ("arguments", "make", "cluster", "expected"),
    [
        (["search", "--data", "my photos"], None, None, "crossvit search --data 'my photos' --trials 9"),
        (["search", "--trials", "4"], None, "auto", "RAY_ADDRESS=auto crossvit search --trials 9"),
        (["search", "--trials=4"], None, None, "crossvit search --trials 9"),
        (["search", "--ray-address", "h:1"], None, "h:1", "crossvit search --ray-address h:1 --trials 9"),
        ([], "make search SPACE=paper TRIALS=4", None, "make search SPACE=paper TRIALS=9"),
        ([], "make search SPACE=paper", "ray://a b", "RAY_ADDRESS='ray://a b' make search SPACE=paper TRIALS=9"),
    ],
)
def test_the_same_cluster_and_another_budget(
    arguments: list[str], make: str | None, cluster: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [shutil.which("crossvit", path=BIN), *arguments])
    monkeypatch.setenv("PATH", BIN)
    for name, value in (("CROSSVIT_MAKE_COMMAND", make), ("RAY_ADDRESS", cluster)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert command_line(trials=9) == expected


def test_a_command_that_no_shell_finds_by_its_name_is_called_by_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [f"{BIN}/crossvit", "search"])
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.delenv("CROSSVIT_MAKE_COMMAND", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert command_line() == f"{BIN}/crossvit search"


def test_commands_of_make_name_a_folder_that_is_not_the_usual(tmp_path: Path) -> None:
    assert in_runs_dir("make select STUDY=s", Path("results/runs")) == "make select STUDY=s"
    elsewhere = in_runs_dir("make select STUDY=s", tmp_path / "my runs")
    assert elsewhere == f"make select STUDY=s RUNS_DIR='{tmp_path}/my runs'"


def test_a_notebook_has_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/ipykernel_launcher.py"])
    monkeypatch.delenv("CROSSVIT_MAKE_COMMAND", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert command_line() == ""
