"""The table of a choice as a terminal shows it."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from results.selection_table import Score, SelectionRow, rich_selection, selection_markdown

TESTED = Score(0.457, 0.439, 0.476)


@pytest.mark.parametrize("latency_ms", [math.nan, 12.34])
@pytest.mark.parametrize("test", [Score(), TESTED])
def test_every_finalist_has_one_line_of_80_columns(test: Score, latency_ms: float) -> None:
    again = Score(0.468, 0.442, 0.493)
    costs = (304e6, 32e6, 123_721.0, 4_480.2, latency_ms)
    rows = [SelectionRow(trial, 0.464, again, 3, 0.375, *costs, test, trial == 8) for trial in (8, 12_345)]
    shown = io.StringIO()
    Console(file=shown, width=80).print(rich_selection(rows, "Choice of study s"))
    lines = shown.getvalue().splitlines()
    assert len(lines) == 2 + len(rows)
    assert "…" not in shown.getvalue()
    assert ("45.7 %" in lines[2]) == (test is TESTED)
    assert ("12.3 ms" in lines[2]) == (math.isfinite(latency_ms) and test is not TESTED)
    assert ("12.3 ms" in selection_markdown(rows, "Choice of study s", ())) == math.isfinite(latency_ms)
