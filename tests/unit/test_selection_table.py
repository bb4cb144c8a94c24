"""The table of a choice as a terminal shows it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from results.selection_table import Score, SelectionRow, rich_selection

TESTED = Score(0.457, 0.439, 0.476)


@pytest.mark.parametrize("test", [Score(), TESTED])
def test_every_finalist_has_one_line_of_80_columns(test: Score) -> None:
    rows = [
        SelectionRow(
            trial, 0.464, Score(0.468, 0.442, 0.493), 3, 0.375, 304e6, 32e6, 123_721.0, 4_480.2, test, trial == 8
        )
        for trial in (8, 12_345)
    ]
    shown = io.StringIO()
    Console(file=shown, width=80).print(rich_selection(rows, "Choice of study s"))
    lines = shown.getvalue().splitlines()
    assert len(lines) == 2 + len(rows)
    assert "…" not in shown.getvalue()
    assert ("45.7 %" in lines[2]) == (test is TESTED)
