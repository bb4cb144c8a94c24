"""Views of a study for other people's tools, kept up to date while it runs: Optuna's dashboard, TensorBoard.

The ledger is the record; a mirror is written from it and never read back. One that breaks is given up, in one line on
the error stream, and the search goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from results.records import Event


class MirrorError(ValueError):
    """A view that was asked for and cannot be kept; the message says why and what to do."""


class Mirror(Protocol):
    """Made from a study's folder, it shows what the ledger holds; called with each later event, it follows."""

    def __call__(self, event: Event) -> None: ...

    def close(self) -> None: ...


def find_mirrors(settings: Mapping[str, Any], **asked: bool) -> tuple[str, ...]:
    """Names of the mirrors that the command (``asked``) or the space's file (``settings``) wants.

    Raises MirrorError for a setting that is no truth value, and for a mirror whose package is missing.
    """
    wanted = []
    for name in MIRRORS:
        setting = settings.get(name, False)
        if not isinstance(setting, bool):
            raise MirrorError(f"{name} must be true or false, got {setting!r}")
        if setting or asked.get(name, False):
            wanted.append(name)
    if "tensorboard" in wanted:
        from search.tensorboard import check_installed

        check_installed()
    return tuple(wanted)


@contextmanager
def open_mirrors(names: tuple[str, ...], run_dir: Path) -> Iterator[list[Callable[[Event], None]]]:
    """Listeners that keep these mirrors of the study in ``run_dir`` up to date."""
    with ExitStack() as stack:
        guarded = [_Guarded(name, run_dir) for name in names]
        for mirror in guarded:
            stack.callback(mirror.close)
        yield [*guarded]


class _Guarded:
    """A mirror that cannot hurt the search."""

    def __init__(self, name: str, run_dir: Path) -> None:
        self._name = name
        self._mirror: Mirror | None = None
        with self._guard():
            self._mirror = MIRRORS[name](run_dir)

    def __call__(self, event: Event) -> None:
        with self._guard():
            if self._mirror is not None:
                self._mirror(event)

    def close(self) -> None:
        with self._guard():
            if self._mirror is not None:
                self._mirror.close()

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever it is: no view is worth a search
            self._mirror = None
            print(f"crossvit: {self._name} is no longer kept up to date: {error}", file=sys.stderr)


def _open_journal(run_dir: Path) -> Mirror:
    from search.optuna_journal import JournalMirror

    return JournalMirror(run_dir)


def _open_tensorboard(run_dir: Path) -> Mirror:
    from search.tensorboard import TensorBoardMirror

    return TensorBoardMirror(run_dir)


MIRRORS: dict[str, Callable[[Path], Mirror]] = {
    "dashboard": _open_journal,
    "tensorboard": _open_tensorboard,
}
