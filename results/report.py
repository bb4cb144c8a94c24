"""A study's report: one HTML page that opens offline, and its tables as files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from results.findings import Findings, load_findings
from results.page import escape, page
from results.report_sections import SECTIONS
from results.store import WriteError
from results.tables import csv_pieces, to_csv, to_latex, to_markdown


def write_report(study_dir: Path) -> Path:
    """Write report/index.html, front.csv, front.md, front.tex and trials.csv into the study's folder; returns the page.

    The same records give the same bytes. Works at any time: before the first trial, while the study runs, after it.
    Raises StoreError if the study cannot be read or the folder cannot be written.
    """
    return write_findings(load_findings(study_dir))


def write_findings(findings: Findings) -> Path:
    """``write_report`` of what has been read already."""
    return write_files(findings.study_dir / "report", report_files(findings)) / "index.html"


def report_files(findings: Findings) -> dict[str, Iterable[str]]:
    """The files of a report by their names, each as the pieces of its text."""
    return {
        "trials.csv": csv_pieces(findings.frame),
        "front.csv": to_csv(findings.members),
        "front.md": to_markdown(findings.members, findings.cost.name),
        "front.tex": to_latex(findings.members, findings.cost.name),
        "index.html": build_page(findings),
    }


def write_files(folder: Path, files: Mapping[str, Iterable[str]]) -> Path:
    """Write texts, or their pieces, into a folder, each whole or not at all; returns it. Raises WriteError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, pieces in files.items():
            _replace(folder / name, [pieces] if isinstance(pieces, str) else pieces)
    except OSError as error:
        raise WriteError(f"cannot write the report to {folder}: {error.strerror or error}") from error
    return folder


def build_page(findings: Findings) -> str:
    """The page as one text."""
    title = findings.name
    header = f'<header><p class="eyebrow">CrossViT architecture search</p><h1>{escape(title)}</h1></header>\n'
    return page(f"{title}: architecture search", header, *(build(findings) for build in SECTIONS))


def _replace(path: Path, pieces: Iterable[str]) -> None:
    """A page that is being read must not be seen half written."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(pieces)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
