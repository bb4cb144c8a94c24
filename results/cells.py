"""A table as text, and how it is written: for the terminal, in Markdown, in LaTeX."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from rich.markup import escape
from rich.table import Table


class Cells(NamedTuple):
    """``rows[i][j]`` stands under ``header[j]``; ``numeric[j]`` columns are aligned right."""

    header: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: list[tuple[str, ...]]

    def without(self, names: Collection[str]) -> Cells:
        """The same table with these columns left out."""
        kept = [index for index, name in enumerate(self.header) if name not in names]
        rows = [tuple(row[index] for index in kept) for row in (self.header, *self.rows)]
        return Cells(rows[0], tuple(self.numeric[index] for index in kept), rows[1:])


def rich_cells(
    cells: Cells, title: str, caption: str = "", wrapped: Collection[str] = (), tight: bool = False
) -> Table:
    """For the terminal; only the columns named in ``wrapped`` may take several lines. ``tight``: one space apart."""
    table = Table(
        title=escape(title),
        caption=escape(caption) or None,
        collapse_padding=tight,
        show_edge=False,
        pad_edge=False,
        box=None,
    )
    for name, numeric in zip(cells.header, cells.numeric):
        table.add_column(escape(name), justify="right" if numeric else "left", no_wrap=name not in wrapped)
    for row in cells.rows:
        table.add_row(*(escape(text) for text in row))
    return table


def cells_markdown(cells: Cells) -> str:
    """An aligned table that ends in a newline."""
    rows = [tuple(_escape_pipe(text) for text in row) for row in (cells.header, *cells.rows)]
    widths = [max(len(text) for text in column) for column in zip(*rows)]
    rule = ["-" * (width - 1) + ":" if right else "-" * width for width, right in zip(widths, cells.numeric)]
    header, *others = (_padded(row, widths, cells.numeric) for row in rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, rule, *others))


def cells_latex(cells: Cells) -> str:
    """A tabular with the rules of booktabs, every text escaped; ends in a newline. Needs the package booktabs."""
    columns = "".join("r" if right else "l" for right in cells.numeric)
    header, *rows = (" & ".join(_escape_latex(text) for text in row) + r" \\" for row in (cells.header, *cells.rows))
    body = [r"\toprule", header, r"\midrule", *rows, r"\bottomrule"]
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", *body, r"\end{tabular}"]) + "\n"


def _padded(row: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> Iterable[str]:
    return (text.rjust(width) if right else text.ljust(width) for text, width, right in zip(row, widths, numeric))


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
