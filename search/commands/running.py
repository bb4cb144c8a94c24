"""How commands run a study: shown as it goes, ended by Ctrl-C with the words that go on with it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NoReturn

from search import interrupt

if TYPE_CHECKING:
    from rich.console import Console

    from search.list_searcher import ListedTrial
    from search.session import Session
    from search.study import Study


def run_shown(
    run: Callable[..., Session],
    console: Console,
    header: Callable[[Session], Iterable[str]],
    items: Sequence[ListedTrial] = (),
) -> Session:
    """Run a study with its progress on the console; ``run`` takes ``listeners`` and ``on_open`` as ``run_study`` does.

    ``header`` says which study it is, as soon as it is open: of one that is refused nothing is to be said but why.
    ``items`` are those of a study that trains a list. Ctrl-C ends the command with exit code 130.
    """
    from search.list_searcher import name_runs
    from search.progress import SearchProgress

    def show_open(session: Session) -> None:
        for line in header(session):
            console.print(line, markup=False, soft_wrap=True)
        progress.open(session)

    try:
        with SearchProgress(console, name_runs(items)) as progress:
            return run(listeners=[progress], on_open=show_open)
    except KeyboardInterrupt:
        _end_interrupted(console)


def describe_surplus(study: Study) -> list[str]:
    """What to say of an open study that was asked for fewer trials than it has begun."""
    from results.store import StudyStore
    from results.units import plural

    begun = StudyStore.open_readonly(study.path).study["trials"]
    if begun <= study.trials:
        return []
    return [f"it has {plural(begun, 'trial')} already, more than the {study.trials:,} asked for: no new one is begun"]


def _end_interrupted(console: Console) -> NoReturn:
    from search.environment import command_line

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    console.print(f"interrupted; what finished is kept. To go on:\n  {command_line()}", markup=False, soft_wrap=True)
    raise SystemExit(interrupt.EXIT_INTERRUPTED) from None
