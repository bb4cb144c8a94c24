"""When the searcher hears of an outcome: at once, or in rounds, so that a search with many workers can be repeated."""

from __future__ import annotations

from collections.abc import Callable

from results.records import Finished


class Rounds:
    """Passes outcomes on to the searcher.

    With ``size`` 0 each is passed on as it comes: what is proposed next then depends on which worker was faster. With
    a size, trials are asked in rounds of that many; the outcomes of a round are passed on together when all are in, in
    the order of their numbers, and only then the next round is asked. Workers wait for the slowest of a round.
    """

    def __init__(self, size: int, tell: Callable[[Finished], None]) -> None:
        if size < 0:
            raise ValueError(f"a round has at least one trial, or 0 for no rounds; got {size}")
        self._size = size
        self._tell = tell
        self._asked = 0
        self._held: list[Finished] = []
        self._open = 0

    def add_asked(self) -> None:
        """A trial was asked."""
        self._asked += 1
        self._open += 1

    def add_finished(self, finished: Finished) -> None:
        """A trial's outcome is on the disk."""
        self._open -= 1
        self._held.append(finished)
        if not self._size or (self._open == 0 and self._asked % self._size == 0):
            for outcome in sorted(self._held, key=lambda outcome: outcome.trial):
                self._tell(outcome)
            self._held = []

    def may_ask(self) -> bool:
        """Whether the next trial belongs to this round, or the round is over."""
        return not self._size or self._asked % self._size != 0 or self._open == 0
