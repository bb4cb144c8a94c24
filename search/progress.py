"""What a person sees while a search runs: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from results.architecture import abbreviate_columns, arch_columns
from results.records import Asked, Event, Finished
from results.units import duration, human_count, per_second, percent
from search.pace import Pace
from search.session import Session
from search.standing import Standing


class SearchProgress:
    """Listens to the session's events. Use as a context manager around the run.

    On a terminal one line per finished trial scrolls above a bar with the best accuracy, the hypervolume and the time
    left; elsewhere each line carries them.

    ``runs`` are the names of the trials of a study that trains a list. Nothing is searched there: no hypervolume is
    shown, and the best is one run of several of its network.
    """

    def __init__(self, console: Console, runs: Sequence[str] = ()) -> None:
        self._console = console
        self._runs = tuple(runs)
        self._standing = Standing()
        self._total = 0
        self._done = 0
        self._done_before = 0
        self._start = time.monotonic()
        self._pace = Pace()
        self._bar: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> SearchProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def open(self, session: Session) -> None:
        """Take in what earlier runs of this study left, and start to show."""
        self._total = session.trials
        self._standing = Standing.of_study(session.study)
        for outcome in session.outcomes:
            self._standing.add(outcome)
        self._done = self._done_before = len(session.outcomes)
        if self._done:
            going_on = "" if session.is_over() else "going on: "
            are_done = "trial is done" if self._total == 1 else "trials are done"
            self._console.print(f"{going_on}{self._done} of {self._total} {are_done}", markup=False)
        if self._console.is_terminal and not session.is_over():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total} trials"),
            )
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("starting workers", total=self._total, completed=self._done)
            self._bar.start()

    def __call__(self, event: Event) -> None:
        self._pace.observe(event)
        if isinstance(event, Asked):
            self._refresh()
        elif isinstance(event, Finished):
            self._on_finished(event)

    def _note_start(self, finished: Finished) -> None:
        """Once, from the first outcome: how long workers took to get ready."""
        if self._bar is None and self._done == self._done_before + 1:
            waited = time.monotonic() - self._start - finished.seconds
            self._console.print(f"first trial under way after {max(0.0, waited):.0f} s", markup=False)

    def _on_finished(self, finished: Finished) -> None:
        self._done += 1
        self._standing.add(finished)
        self._note_start(finished)
        width = len(str(self._total))
        name = self._name(finished.trial, width)
        line = f"[{self._done:>{width}}/{self._total}] {name} {_outcome_words(finished)}"
        standing = self._describe_standing()
        if self._bar is None and standing:
            line += f"  | {standing}"
        style = None if finished.status == "ok" else "yellow"
        self._console.print(line, style=style, markup=False, soft_wrap=True)
        self._refresh()

    def _name(self, trial: int, width: int) -> str:
        """The list may have become shorter than what an earlier process asked for: such a run has its number."""
        number = f"#{trial:<{width}}"
        if not self._runs:
            return number
        name = self._runs[trial] if trial < len(self._runs) else number
        return f"{name:<{max(map(len, self._runs))}}"

    def _describe_standing(self) -> str:
        best, volume = self._standing.best_accuracy, None if self._runs else self._standing.hypervolume()
        parts = [
            "" if best is None else f"{'best single run' if self._runs else 'best'} {percent(best)}",
            "" if volume is None else f"hypervolume {volume:.3f}",
            self._time_left(),
        ]
        return "  ".join(filter(None, parts))

    def _time_left(self) -> str:
        seconds = self._pace.seconds_left(self._total - self._done)
        return "" if seconds is None else f"{duration(seconds)} left"

    def _refresh(self) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, description=self._describe_standing())


def _outcome_words(finished: Finished) -> str:
    metrics = finished.metrics
    if finished.status not in ("ok", "stopped"):
        return f"{finished.status}: {finished.error}"
    parts = [
        f"{percent(metrics['val_accuracy']):>7}",
        f"{human_count(metrics['macs']):>6} FLOPs" if "macs" in metrics else "",
        f"{per_second(metrics['throughput_ips']):>7} img/s" if "throughput_ips" in metrics else "",
        f"{finished.seconds:3.0f} s",
        abbreviate_columns(arch_columns(finished.arch)),
        "(stopped early)" if finished.status == "stopped" else "",
    ]
    return "  ".join(filter(None, parts))
