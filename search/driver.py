"""A session driven to its end by an executor, from wherever its ledger stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from results.units import plural
from search.checkpoint_sweeper import CheckpointSweeper
from search.executors.base import Executor
from search.plan import Plan
from search.session import Session, StudyFailedError


def drive(
    session: Session,
    executor: Executor,
    plan: Plan,
    trials_dir: Path,
    on_open: Callable[[Session], None] | None = None,
) -> None:
    """Do whatever is left to do. Raises StudyFailedError, its reason on record, if the study cannot go on."""
    sweeper = CheckpointSweeper(trials_dir)
    session.listen([sweeper])
    sweeper.sweep(session)
    if on_open is not None:
        on_open(session)
    if not session.is_over():
        try:
            executor.run(session, plan)
        except StudyFailedError as error:
            session.end(str(error))
            raise
        sweeper.sweep(session)
    session.end()


def check_success(session: Session, what: str = "trial", advice: str = "") -> None:
    """A study in which nothing worked has failed, though every trial is on record. Raises StudyFailedError."""
    outcomes = session.outcomes
    if outcomes and not any(outcome.status in ("ok", "stopped") for outcome in outcomes):
        raise StudyFailedError(
            f"none of {plural(len(outcomes), what)} succeeded; the last one said: {outcomes[-1].error}{advice}"
        )
