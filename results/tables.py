"""A front as a table: for the terminal, for a README, for a spreadsheet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pandas as pd
from rich.markup import escape
from rich.table import Table

from results.architecture import COLUMNS, abbreviate_columns
from results.metrics import ACCURACY
from results.units import human_count, percent, with_spread

KEY_LENGTH = 8
_PIECE = 20_000
ABBREVIATION_NOTE = "architecture: fusion, patches, widths, K x (depths) of the two branches"
FRONT_NOTE = "FLOPs are multiply-adds; ± is half the interquartile range of the throughput"


class Cells(NamedTuple):
    """A table as text: ``rows[i][j]`` stands under ``header[j]``; ``numeric[j]`` columns are aligned right."""

    header: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: list[tuple[str, ...]]


def front_cells(members: pd.DataFrame) -> Cells:
    """The rows of a front (``frame.front``) in human units."""
    header = ("trial", "accuracy", "FLOPs", "params", "images/s", "key", "architecture")
    rows = [_front_row(*values) for values in zip(*(members[name] for name in _FRONT_COLUMNS))]
    return Cells(header, (True,) * 5 + (False,) * 2, rows)


def rich_table(members: pd.DataFrame, title: str = "Pareto front") -> Table:
    """For the terminal, readable at 80 columns: the architecture is abbreviated and wraps, nothing else does."""
    cells = front_cells(members.assign(architecture=_abbreviations(members)))
    caption = f"{FRONT_NOTE};\n{ABBREVIATION_NOTE}"
    table = Table(title=escape(title), caption=caption, show_edge=False, pad_edge=False, box=None)
    for name, numeric in zip(cells.header, cells.numeric):
        table.add_column(name, justify="right" if numeric else "left", no_wrap=name != "architecture")
    for row in cells.rows:
        table.add_row(*(escape(text) for text in row))
    return table


def to_markdown(members: pd.DataFrame) -> str:
    """An aligned Markdown table that ends in a newline."""
    cells = front_cells(members)
    rows = [tuple(_escape_pipe(text) for text in row) for row in cells.rows]
    widths = [max(len(text) for text in (name, *column)) for name, *column in zip(cells.header, *rows)]
    rule = ["-" * (width - 1) + ":" if right else "-" * width for width, right in zip(widths, cells.numeric)]
    lines = [_pad(cells.header, widths, cells.numeric), "| " + " | ".join(rule) + " |"]
    lines += [_pad(row, widths, cells.numeric) for row in rows]
    return "\n".join(lines) + "\n"


def to_latex(members: pd.DataFrame) -> str:
    """A tabular with the rules of booktabs, every text escaped; ends in a newline. Needs the package booktabs."""
    cells = front_cells(members)
    columns = "".join("r" if right else "l" for right in cells.numeric)
    lines = [" & ".join(_escape_latex(text) for text in row) + r" \\" for row in (cells.header, *cells.rows)]
    body = [r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    return "\n".join([f"% {FRONT_NOTE}", rf"\begin{{tabular}}{{{columns}}}", *body, r"\end{tabular}"]) + "\n"


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


def _pad(row: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    texts = (text.rjust(width) if right else text.ljust(width) for text, width, right in zip(row, widths, numeric))
    return "| " + " | ".join(texts) + " |"


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))


def _escape_pipe(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").split())


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}
