"""A choice as a table: for the terminal and for selection.md."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.table import Table

from results.cells import Cells, cells_markdown, rich_cells
from results.metrics import COSTS
from results.units import MISSING, human_count, percent, with_spread

_INTERVAL = "95 %"

NOTE = (
    "again: mean over fresh seeds, with its 95 % interval; best: probability of being the best, which counts finalists "
    "as alike until their runs say otherwise; search: the accuracy that the search saw, which flatters whoever was "
    "picked for it, so it has no part in this"
)
TEST_NOTE = (
    "test: the one look at the test split, whose images had no part in any choice; mean over the same seeds, with its "
    "95 % interval"
)


class Score(NamedTuple):
    """A mean accuracy (a fraction) and its interval; NaN is not known."""

    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan

    def texts(self) -> tuple[str, str]:
        """The mean and the interval, as '98.5 %' and '97.1-99.3'."""
        known = math.isfinite(self.low) and math.isfinite(self.high)
        return percent(self.mean), f"{100 * self.low:.1f}-{100 * self.high:.1f}" if known else MISSING


class SelectionRow(NamedTuple):
    """One finalist. ``num_seeds`` counts its fresh runs; ``latency_ms`` is NaN where nobody asked for it."""

    trial: int
    search_accuracy: float
    again: Score
    num_seeds: int
    p_best: float
    macs: float
    params: float
    throughput_ips: float
    throughput_iqr: float
    latency_ms: float = math.nan
    test: Score = Score()
    is_suggested: bool = False


def selection_cells(rows: Sequence[SelectionRow]) -> Cells:
    """The finalists in human units; a column of latencies or of tests only when there is something in it."""
    has_test = any(math.isfinite(row.test.mean) for row in rows)
    has_latency = any(math.isfinite(row.latency_ms) for row in rows)
    more = (*("latency",) * has_latency, *("test", _INTERVAL) * has_test)
    header = ("", "trial", "search", "again", _INTERVAL, "seeds", "best", "FLOPs", "params", "images/s", *more)
    numeric = (False, *(True,) * (len(header) - 1))
    write_latency = COSTS["latency_ms"].write
    texts = [
        (*_texts(row), *(write_latency(row.latency_ms),) * has_latency, *row.test.texts() * has_test) for row in rows
    ]
    return Cells(header, numeric, texts)


def rich_selection(rows: Sequence[SelectionRow], title: str) -> Table:
    """For the terminal, a row a line of 80 columns; the suggestion is marked with an arrow.

    Parameters are left out, throughput where there are latencies, and both where there are test scores; selection.md
    has them all.
    """
    cells = selection_cells(rows)
    left_out = {"params"}
    if "latency" in cells.header:
        left_out = {"params", "images/s"}
    if "test" in cells.header:
        left_out = {"params", "images/s", "latency"}
    return rich_cells(cells.without(left_out), title)


def selection_notes(rows: Sequence[SelectionRow]) -> list[str]:
    """What the columns mean."""
    return [NOTE, TEST_NOTE] if any(math.isfinite(row.test.mean) for row in rows) else [NOTE]


def selection_markdown(rows: Sequence[SelectionRow], title: str, paragraphs: Iterable[str]) -> str:
    """The table under its title, then the paragraphs; ends in a newline."""
    table = cells_markdown(selection_cells(rows)).rstrip()
    return "\n\n".join([f"# {title}", table, *paragraphs]) + "\n"


def _texts(row: SelectionRow) -> tuple[str, ...]:
    return (
        "->" if row.is_suggested else "",
        str(row.trial),
        percent(row.search_accuracy),
        *row.again.texts(),
        str(row.num_seeds) if row.num_seeds else MISSING,
        percent(row.p_best),
        human_count(row.macs),
        human_count(row.params),
        with_spread(row.throughput_ips, row.throughput_iqr),
    )
