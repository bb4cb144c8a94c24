"""What ``crossvit report`` does, and what a search ends with: the page, the figures, and the front on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from results.plot_style import Drawn


def show_report(study_dir: Path, console: Console, figures: str = "") -> None:
    """Write a study's report, with its plots as files if a format is named, and show its front; of an ablation also its
    own page.

    Raises StoreError for a study that cannot be read, FigureFormatError for an unknown format.
    """
    from results.figures import check_format
    from results.findings import load_findings
    from results.no_front import describe_missing_front
    from results.report import write_findings
    from results.report_figures import all_figures
    from results.tables import rich_table

    fmt = check_format(figures) if figures else ""
    findings = load_findings(study_dir)
    page = write_findings(findings)
    if findings.members.empty:
        console.print(f"no front: {describe_missing_front(findings)}", markup=False, soft_wrap=True)
    else:
        console.print(rich_table(findings.members, findings.cost.name))
    if fmt:
        _write_figures(all_figures(findings), page, fmt, console)
    if "ablation" in findings.study:
        from results.ablation_page import write_ablation

        console.print(f"ablation: {write_ablation(study_dir)}", markup=False, soft_wrap=True)
    console.print(f"report: {page}", markup=False, soft_wrap=True)


def show_comparison(runs_dir: Path, studies: Sequence[str], console: Console, figures: str = "") -> None:
    """Write the page that compares several studies. Raises as ``show_report``."""
    from results.compare import load_comparison
    from results.compare_page import write_comparison
    from results.figures import check_format
    from results.plots_compare import comparison_figures

    fmt = check_format(figures) if figures else ""
    comparison = load_comparison(runs_dir, studies)
    page = write_comparison(comparison)
    if fmt:
        _write_figures(comparison_figures(comparison), page, fmt, console)
    console.print(f"comparison: {page}", markup=False, soft_wrap=True)


def _write_figures(drawn: Iterable[Drawn], page: Path, fmt: str, console: Console) -> None:
    from results.figures import write_figures

    console.print(write_figures(drawn, page.parent / "figures", fmt), markup=False, soft_wrap=True)
