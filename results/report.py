"""A study's report: one HTML page that opens offline, and its tables as files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from results.frame import front, load_frame
from results.metrics import COSTS, cost_metric
from results.page import escape, page
from results.report_sections import SECTIONS, Findings
from results.store import StudyStore, WriteError
from results.tables import to_csv, to_markdown


def write_report(study_dir: Path) -> Path:
    """Write report/index.html, front.csv, front.md and trials.csv into the study's folder; returns the page's path.

    The same records give the same bytes. Works at any time: before the first trial, while the study runs, after it.
    Raises StoreError if the study cannot be read or the folder cannot be written.
    """
    findings = load_findings(study_dir)
    files = {
        "trials.csv": to_csv(findings.frame),
        "front.csv": to_csv(findings.members),
        "front.md": to_markdown(findings.members),
        "index.html": build_page(findings),
    }
    folder = study_dir / "report"
    try:
        folder.mkdir(exist_ok=True)
        for name, text in files.items():
            _replace(folder / name, text)
    except OSError as error:
        raise WriteError(f"cannot write the report to {folder}: {error.strerror or error}") from error
    return folder / "index.html"


def load_findings(study_dir: Path) -> Findings:
    """All that a report tells of, read once."""
    store = StudyStore.open_readonly(study_dir)
    study, frame = store.study, load_frame(study_dir)
    cost = primary_cost(study)
    return Findings(study_dir, study, store.environment, frame, cost_metric(cost), front(frame, cost))


def primary_cost(study: Mapping[str, Any]) -> str:
    """The cost among the study's objectives; FLOPs if there is none."""
    metrics = [str(objective.get("metric", "")) for objective in study.get("objectives") or []]
    return next((metric for metric in metrics if metric in COSTS), "macs")


def build_page(findings: Findings) -> str:
    """The page as one text."""
    title = str(findings.study.get("name") or findings.study_dir.name)
    header = f'<header><p class="eyebrow">CrossViT architecture search</p><h1>{escape(title)}</h1></header>\n'
    return page(f"{title}: architecture search", header, *(build(findings) for build in SECTIONS))


def _replace(path: Path, text: str) -> None:
    """A page that is being read must not be seen half written."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
