"""How fast the process that works on a study gets on, for its progress and for its status."""

from __future__ import annotations

from results.records import Asked, Event, Finished, Started


class Pace:
    """Learns of events in the order of the ledger; each process counts for itself.

    It counts from the process's start, not between finishes: workers that end together leave no time between them.
    """

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._start: float | None = None
        self._last_finish = 0.0
        self._finished = 0
        self._most_at_once = 0

    def observe(self, event: Event) -> None:
        if isinstance(event, Started) or self._start is None:  # early ledgers say nothing of processes
            self._begin(event.time)
        if isinstance(event, Asked):
            self._open.add(event.trial)
            self._most_at_once = max(self._most_at_once, len(self._open))
        elif isinstance(event, Finished):
            self._open.discard(event.trial)
            self._count(event)

    def rate(self) -> float | None:
        """Finished trials per second; None until as many are over as were under way at once.

        The first to end of several that began together would say that one took all that time.
        """
        if self._start is None or self._finished < self._most_at_once or self._last_finish <= self._start:
            return None
        return self._finished / (self._last_finish - self._start)

    def seconds_left(self, trials: int) -> float | None:
        """Of so many trials that are still to be finished; None while the rate is unknown."""
        rate = self.rate()
        return trials / rate if rate else None

    def _begin(self, start: float) -> None:
        self._start = self._last_finish = start
        self._finished = 0
        self._most_at_once = len(self._open)  # what a process left open is handed out first

    def _count(self, finished: Finished) -> None:
        if finished.status == "stopped" and not finished.device:
            return  # an earlier process had it stopped, and died before it wrote so
        self._finished += 1
        self._last_finish = finished.time
