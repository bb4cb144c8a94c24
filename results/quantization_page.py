"""A trial's quantised points as a table and as a page."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich.table import Table

from results.cells import Cells, cells_markdown, rich_cells
from results.page import bullet_list, escape, figure, page, paragraph, section, table
from results.plots_quantized import OPERATIONS_NOTE, draw_quantized, point_cells
from results.report import write_files
from results.tables import to_csv

NOTE = (
    "bits: asked; w, a, both: mean bits of weights, of the activations of one image, of both, weighted by elements "
    "(patch embeddings and heads stay at 8 bits); KL: divergence from the full-precision output, per validation image; "
    "bit-ops: multiply-adds x bits x bits of one image"
)
CAVEATS = (
    "The quantisation is simulated: it shows the accuracy that is left, never a speed.",
    "SQ-b, OPT-m and Greedy MP are reconstructions of MPTQ-ViT (arXiv 2401.14895) from its abstract, third-party "
    "summaries and the code of the work it builds on: the paper's own text and code were not available.",
    "Calibrated on training images; accuracy and KL are of the validation split, the test split is not touched.",
    "Biases, norms, softmax and GELU arithmetic, positions and class tokens are not quantised.",
)


def quantized_cells(points: pd.DataFrame) -> Cells:
    """One row a point, in human units."""
    header = ("method", "bits", "accuracy", "KL", "w", "a", "both", "size", "bit-ops")
    rows = [point_cells(point) for point in points.to_dict("records")]
    return Cells(header, (False,) + (True,) * (len(header) - 1), rows)


def rich_quantized(points: pd.DataFrame, title: str) -> Table:
    """For the terminal."""
    return rich_cells(quantized_cells(points), title, NOTE, tight=True)


def quantized_markdown(points: pd.DataFrame, title: str) -> str:
    """The table under its title, and what to know of it; ends in a newline."""
    table = cells_markdown(quantized_cells(points))
    return f"# {title}\n\n{table}\n{NOTE}\n\n" + "".join(f"- {line}\n" for line in CAVEATS)


def build_page(points: pd.DataFrame, title: str) -> str:
    """The page as one text that opens offline."""
    cells = quantized_cells(points)
    images = points["num_val_images"].max()
    note = f"Dashed line: full precision. One validation image is {100 / images:.2g} points. {OPERATIONS_NOTE}"
    divergence = draw_quantized(points, quality="kl")
    heading = f'<header><p class="eyebrow">Post-training quantisation</p><h1>{escape(title)}</h1></header>\n'
    return page(
        f"{title}: quantisation",
        heading,
        section(
            "What is left",
            figure("bitops", draw_quantized(points), "Accuracy against bit-operations", note),
            figure("kl", divergence, "What changed in the output", "Tells bits apart that accuracy cannot."),
            figure("bytes", draw_quantized(points, "model_bytes"), "Accuracy against the size of the model"),
            table(cells.header, cells.numeric, cells.rows),
            paragraph(NOTE, "muted"),
        ),
        section("What to know", bullet_list(CAVEATS)),
    )


def write_quantized(folder: Path, points: pd.DataFrame, everything: pd.DataFrame, title: str) -> Path:
    """Write quantized.md and index.html of comparable points, and quantized.csv of all of a trial; returns the page.

    Raises WriteError.
    """
    files = {
        "quantized.csv": to_csv(everything),
        "quantized.md": quantized_markdown(points, title),
        "index.html": build_page(points, title),
    }
    return write_files(folder, files) / "index.html"
