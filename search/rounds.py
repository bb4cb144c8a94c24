"""When searcher and stopping rule hear of a trial: at once, or in rounds, so that many workers can be repeated."""

from __future__ import annotations

import math
from collections.abc import Callable

from results.records import Asked, Event, Finished, Rung
from search.stopping import StoppingRule


class Rounds:
    """Passes on what trials came to: outcomes to ``tell``, and to ``rule`` what it compares other trials with.

    With ``size`` 0 each event is passed on as it comes: what is proposed or stopped next then depends on which worker
    was faster. With a size, trials are asked in rounds of that many; the events of a round are passed on together when
    all its trials are over, in the order of their numbers, and only then the next round is asked. A trial is so judged
    by the rounds before its own, and workers wait for the slowest of a round.
    """

    def __init__(self, size: int, tell: Callable[[Finished], None], rule: StoppingRule) -> None:
        if size < 0:
            raise ValueError(f"a round has at least one trial, or 0 for no rounds; got {size}")
        self._size = size
        self._tell = tell
        self._rule = rule
        self._asked = 0
        self._held: list[Rung | Finished] = []
        self._open = 0

    def observe(self, event: Event) -> None:
        """Learn of an event that is on the disk; of each once, in their order."""
        if isinstance(event, Asked):
            self._asked += 1
            self._open += 1
        self._open -= isinstance(event, Finished)
        if not isinstance(event, self._rule.compares):
            self._rule.observe(event)
        if isinstance(event, (Rung, Finished)):
            self._held.append(event)
        if not self._size or self._is_over():
            self._pass_on()

    def may_ask(self) -> bool:
        """Whether the next trial belongs to this round, or the round is over."""
        return not self._size or self._asked % self._size != 0 or self._open == 0

    def _is_over(self) -> bool:
        return self._open == 0 and self._asked % self._size == 0

    def _pass_on(self) -> None:
        for event in sorted(self._held, key=_place):
            if isinstance(event, self._rule.compares):
                self._rule.observe(event)
            if isinstance(event, Finished):
                self._tell(event)
        self._held = []


def _place(event: Rung | Finished) -> tuple[int, float]:
    """By trial, and within a trial as it went."""
    return event.trial, math.inf if isinstance(event, Finished) else event.epoch
