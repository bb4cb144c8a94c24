"""What several commands share: options, the reading of their texts, and how a run ends."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from search.session import Session

RUNS_DIR = Path("results/runs")

RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Folder that holds the studies.")]


def split_list(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    import yaml

    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"{pair!r} is no setting; write name=value, as lr=0.001", param_hint="--set")
        settings[name.strip()] = yaml.safe_load(text)
    return settings


def ignore_signals() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def check_success(session: Session) -> None:
    """A study in which nothing worked has failed, though every trial is on record."""
    from search.session import StudyFailedError

    outcomes = session.outcomes
    if outcomes and all(outcome.status in ("failed", "lost", "infeasible") for outcome in outcomes):
        raise StudyFailedError(f"none of {len(outcomes)} trials succeeded; the last one said: {outcomes[-1].error}")
