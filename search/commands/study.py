"""``crossvit report``, ``status`` and ``dashboard``: a study on disk, looked at."""

from __future__ import annotations

from typing import Annotated

import typer

from search.commands.options import RUNS_DIR, RunsDir, StudyName


def report(
    studies: Annotated[list[str], typer.Argument(metavar="STUDY...", help="Name of the study; of several to compare.")],
    figures: Annotated[str, typer.Option(help="Also write every plot as a file: png or svg.")] = "",
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Write a study's report again and show its front; of several studies, a page that compares them."""
    from rich.console import Console

    from results.store import check_study_name
    from search.reporting import show_comparison, show_report

    console = Console(highlight=False)
    if len(studies) == 1:
        show_report(runs_dir / check_study_name(studies[0]), console, figures)
    else:
        show_comparison(runs_dir, studies, console, figures)


def status(
    study: StudyName,
    follow: Annotated[bool, typer.Option("--follow", help="Go on showing it until the search ends.")] = False,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Say how a study stands, also while it runs: trials, best accuracy, time left."""
    from rich.console import Console

    from results.store import check_study_name
    from search.status import read_status, show_status, watch_status

    study_dir = runs_dir / check_study_name(study)
    show_status(watch_status(study_dir) if follow else [read_status(study_dir)], Console(highlight=False))


def dashboard(
    study: StudyName,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Write a study's journal for optuna-dashboard and say how to open it."""
    from results.store import check_study_name
    from search.optuna_journal import describe_opening, write_journal

    print(describe_opening(write_journal(runs_dir / check_study_name(study))))
