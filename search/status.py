"""How a study stands, told from its ledger by any process at any time: also while another one writes it."""

from __future__ import annotations

import fcntl
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.records import STATUSES, Asked, Ended, Event, Finished, Rung
from results.store import StoreError, StudyStore
from results.units import duration, percent, plural, quantity
from search.pace import Pace
from search.standing import Standing

if TYPE_CHECKING:
    from rich.console import Console

_QUIET_SECONDS = 600.0
_REFRESH_SECONDS = 2.0


@dataclass(frozen=True)
class StudyStatus:
    """The standing of one study. ``None`` is what cannot be known yet.

    ``budget`` is the study's number of trials, or how many were asked for if that is more. ``counts`` has an entry per
    final status, ``open_trials`` are asked and not finished. ``rate`` is finished trials per second of the process that
    last worked on it. ``age_seconds`` is since the last event; ``alive`` says whether a process holds the study's lock;
    ``end`` is why the study is over, if it is; ``resume`` the command that goes on. ``is_listed``: whether it trains a
    list, nothing being searched; then it has no hypervolume.
    """

    name: str
    budget: int
    counts: dict[str, int]
    open_trials: int
    best_accuracy: float | None
    hypervolume: float | None
    rate: float | None
    age_seconds: float | None
    alive: bool
    end: str
    resume: str
    is_listed: bool = False

    @property
    def done(self) -> int:
        return sum(self.counts.values())

    @property
    def seconds_left(self) -> float | None:
        """At the present rate; None while it is unknown or nothing runs."""
        return max(0, self.budget - self.done) / self.rate if self.rate and self.alive else None

    @property
    def is_interrupted(self) -> bool:
        """Whether there is work left and nobody is at it."""
        return not self.alive and not self.end and (self.open_trials > 0 or self.done < self.budget)


def read_status(study_dir: Path, clock: float | None = None) -> StudyStatus:
    """The standing at the time ``clock`` (now). Raises StoreError for a study that cannot be read."""
    store = StudyStore.open_readonly(study_dir)
    study = store.study
    budget = study.get("trials", 0)
    if not isinstance(budget, int):
        raise StoreError(f"{study_dir / 'study.json'} is damaged: trials is {budget!r}")
    alive, is_listed = is_being_written(study_dir), _trains_a_list(study)
    tally = _Tally(store.events(), Standing.of_study(study))
    now = time.time() if clock is None else clock
    return StudyStatus(
        name=study_dir.name,
        budget=max(budget, tally.asked()),
        counts=tally.counts,
        open_trials=len(tally.open),
        best_accuracy=tally.standing.best_accuracy,
        hypervolume=None if is_listed else tally.standing.hypervolume(),
        rate=tally.pace.rate(),
        age_seconds=max(0.0, now - tally.last_time) if tally.last_time else None,
        alive=alive,
        end=tally.end,
        resume=str(store.environment.get("command", "")),
        is_listed=is_listed,
    )


def is_being_written(study_dir: Path) -> bool:
    """Whether a process, anywhere on this machine, holds the study's lock."""
    try:
        with open(study_dir / "lock", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def describe_status(status: StudyStatus) -> list[str]:
    """The standing in a few plain lines."""
    lines = [f"study {status.name}: {_headline(status)}", f"  trials: {_counts(status)}"]
    if status.best_accuracy is not None:
        volume = "" if status.hypervolume is None else f"; hypervolume {status.hypervolume:.3f}"
        what = "best single run" if status.is_listed else "best accuracy"
        lines.append(f"  {what}: {percent(status.best_accuracy)}{volume}")
    pace = [quantity(60 * status.rate, "trials a minute")] if status.rate else []
    if status.seconds_left is not None:
        pace.append(f"{duration(status.seconds_left)} left")
    if pace:
        lines.append(f"  pace: {', '.join(pace)}")
    if status.age_seconds is not None:
        lines.append(f"  last event: {duration(status.age_seconds)} ago")
    return [*lines, *_hints(status)]


def watch_status(study_dir: Path) -> Iterator[StudyStatus]:
    """The standing again and again, until nobody works on the study any more. Raises StoreError."""
    while True:
        start = time.monotonic()
        status = read_status(study_dir)
        yield status
        if not status.alive:
            return
        # A long ledger takes a while to read: watching must not cost the search a core.
        time.sleep(max(_REFRESH_SECONDS, 10 * (time.monotonic() - start)))


def show_status(statuses: Iterable[StudyStatus], console: Console) -> None:
    """Show one standing after the other: in place on a terminal, in a log when trials have ended."""
    from rich.live import Live
    from rich.text import Text

    if not console.is_terminal:
        shown = None
        for status in statuses:
            if (status.done, status.alive) != shown:
                console.print("\n".join(describe_status(status)), markup=False, soft_wrap=True)
            shown = (status.done, status.alive)
        return
    with Live(console=console, auto_refresh=False) as live:
        for status in statuses:
            live.update(Text("\n".join(describe_status(status))), refresh=True)


class _Tally:
    """What the events of a ledger add up to."""

    def __init__(self, events: Iterable[Event], standing: Standing) -> None:
        self.counts = dict.fromkeys(STATUSES, 0)
        self.open: set[int] = set()
        self.last_time = 0.0
        self.standing = standing
        self.end = ""
        self.pace = Pace()
        for event in events:
            self._add(event)

    def asked(self) -> int:
        """How many trials there are, over or not: enqueued networks are asked for beyond the study's number, too."""
        return sum(self.counts.values()) + len(self.open)

    def _add(self, event: Event) -> None:
        self.last_time = max(self.last_time, event.time)
        if isinstance(event, Ended):
            self.end = event.reason
        elif not isinstance(event, Rung):
            self.end = ""
        self.pace.observe(event)
        if isinstance(event, Asked):
            self.open.add(event.trial)
        elif isinstance(event, Finished):
            self._add_finished(event)

    def _add_finished(self, finished: Finished) -> None:
        self.open.discard(finished.trial)
        self.counts[finished.status] = self.counts.get(finished.status, 0) + 1
        self.standing.add(finished)


def _headline(status: StudyStatus) -> str:
    done = f"{status.done:,} of {plural(status.budget, 'trial')} done"
    if status.alive:
        return f"{done}, running"
    if status.end:
        return f"{done}, ended: {status.end}"
    return f"{done}, {'interrupted' if status.is_interrupted else 'complete'}"


def _counts(status: StudyStatus) -> str:
    counts = Counter({name: count for name, count in status.counts.items() if count})
    open_word = "running" if status.alive else "open"
    parts = [f"{count:,} {name}" for name, count in counts.items()]
    return ", ".join([*parts, *([f"{status.open_trials:,} {open_word}"] if status.open_trials else [])]) or "none yet"


def _hints(status: StudyStatus) -> list[str]:
    if status.is_interrupted:
        left = f"with {plural(status.open_trials, 'trial')} open" if status.open_trials else "before its end"
        command = f":\n  {status.resume}" if status.resume else ", repeat the command that started it"
        return [f"its driver is gone {left}; what finished is kept. To go on{command}"]
    if status.alive and status.age_seconds is not None and status.age_seconds > _QUIET_SECONDS:
        return ["its driver is alive, but nothing has been heard for long: look at its output"]
    return []


def _trains_a_list(study: dict[str, Any]) -> bool:
    """A retraining or an ablation: several runs of each network, of which reports show the mean."""
    return "retrain_of" in study or "ablation" in study
