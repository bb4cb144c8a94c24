"""A front as a table: for the terminal, for a README, for a spreadsheet."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from rich.table import Table

from results.architecture import COLUMNS, abbreviate_columns
from results.cells import Cells, cells_latex, cells_markdown, rich_cells
from results.metrics import ACCURACY, cost_metric
from results.units import human_count, percent, with_spread

KEY_LENGTH = 8
_PIECE = 20_000
ABBREVIATION_NOTE = "architecture: fusion, patches, widths, K x (depths) of the two branches"
FRONT_NOTE = "FLOPs are multiply-adds; ± is half the interquartile range of the throughput"


def name_front(cost: str) -> str:
    """What a front over the cost is called; the usual one is that over FLOPs."""
    return "front" if cost == "macs" else f"front in accuracy and {cost_metric(cost).label}"


def has_own_column(cost: str) -> bool:
    """Whether the cost is none of those that every table of a front shows."""
    return cost not in _FRONT_COLUMNS


def front_cells(members: pd.DataFrame, cost: str = "macs") -> Cells:
    """The rows of a front (``frame.front``) in human units, with the cost that it is over."""
    header = ("trial", "accuracy", "FLOPs", "params", "images/s", "key", "architecture")
    rows = [_front_row(*values) for values in zip(*(members[name] for name in _FRONT_COLUMNS))]
    cells = Cells(header, (True,) * 5 + (False,) * 2, rows)
    if not has_own_column(cost):
        return cells
    metric = cost_metric(cost)
    written = [metric.label, *(metric.write(value) for value in members[cost])]
    lines = [(*row[:2], text, *row[2:]) for row, text in zip((cells.header, *cells.rows), written)]
    return Cells(lines[0], (True, *cells.numeric), lines[1:])


def rich_table(members: pd.DataFrame, cost: str = "macs") -> Table:
    """For the terminal, readable at 80 columns: the architecture is abbreviated and wraps, nothing else does."""
    cells = front_cells(members.assign(architecture=_abbreviations(members)), cost)
    shown = cells.without(("params", "key")) if has_own_column(cost) else cells  # or there is no room for words
    return rich_cells(
        shown, f"Pareto {name_front(cost)}", f"{FRONT_NOTE};\n{ABBREVIATION_NOTE}", wrapped=("architecture",)
    )


def to_markdown(members: pd.DataFrame, cost: str = "macs") -> str:
    """An aligned Markdown table that ends in a newline."""
    return cells_markdown(front_cells(members, cost))


def to_latex(members: pd.DataFrame, cost: str = "macs") -> str:
    """A tabular with the rules of booktabs."""
    return f"% {FRONT_NOTE}\n{cells_latex(front_cells(members, cost))}"


def to_csv(rows: pd.DataFrame) -> str:
    """All columns and full digits; a missing number is an empty field."""
    return "".join(csv_pieces(rows))


def csv_pieces(rows: pd.DataFrame) -> Iterator[str]:
    """``to_csv`` piece by piece: of millions of rows the whole text is never held."""
    for start in range(0, max(len(rows), 1), _PIECE):
        yield rows.iloc[start : start + _PIECE].to_csv(index=False, lineterminator="\n", header=start == 0)


_FRONT_COLUMNS = ("trial", ACCURACY, "macs", "params", "throughput_ips", "throughput_iqr", "arch_key", "architecture")


def _abbreviations(members: pd.DataFrame) -> list[str]:
    return [abbreviate_columns(row) for row in members[list(COLUMNS)].to_dict("records")]


def _front_row(
    trial: int, accuracy: float, macs: float, params: float, ips: float, iqr: float, key: str, words: str
) -> tuple[str, ...]:
    counts = (human_count(macs), human_count(params), with_spread(ips, iqr))
    return (str(trial), percent(accuracy), *counts, key[:KEY_LENGTH], words)
