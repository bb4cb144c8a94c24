"""Checkpoints go when their trial is over, which only the ledger knows."""

from __future__ import annotations

import contextlib
from pathlib import Path

from crossvit_core.checkpoint_files import folders_with_checkpoints, remove_checkpoints
from results.records import Event, Finished
from results.store import trial_name
from search.session import Session


class CheckpointSweeper:
    """Listens to a session: a trial whose outcome is on the disk needs its checkpoints no more."""

    def __init__(self, trials_dir: Path) -> None:
        self._trials_dir = trials_dir

    def __call__(self, event: Event) -> None:
        if isinstance(event, Finished):
            _remove(self._trials_dir / trial_name(event.trial))

    def sweep(self, session: Session) -> None:
        """Remove what was left by a driver that was killed, or by workers that outlived theirs."""
        over = {trial_name(outcome.trial) for outcome in session.outcomes}
        for folder in folders_with_checkpoints(self._trials_dir):
            if folder.name in over:
                _remove(folder)


def _remove(folder: Path) -> None:
    with contextlib.suppress(OSError):  # it costs disk space and nothing else
        remove_checkpoints(folder)
