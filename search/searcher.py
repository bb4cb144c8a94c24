"""What the session needs of a search algorithm. It never runs anything and never loops."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any, Protocol

from crossvit_core.config import ArchConfig
from results.records import Asked, Finished


@dataclass(frozen=True)
class Proposal:
    """An architecture to try. ``hints`` is whatever ``restore`` needs beyond the architecture, as JSON data.

    ``seed`` is what to train it with; without one the session derives it from the study's seed and the architecture.
    ``arch_key`` is for an architecture that another ledger knows under the key of an earlier version.
    """

    arch: ArchConfig
    source: str
    hints: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    arch_key: str = ""


class Searcher(Protocol):
    """A function of its seed, the trial's number and what it was told before: nothing else may change a proposal."""

    def ask(self, number: int, taken: Container[str]) -> Proposal | None:
        """The proposal for trial ``number``: feasible, its key not in ``taken``. None when nothing is left."""
        ...

    def restore(self, asked: Asked) -> None:
        """Learn of a trial that was not asked of it: of an earlier process, or enqueued; in the order of the ledger."""
        ...

    def tell(self, finished: Finished) -> None:
        """Learn how a trial ended. Called once per trial."""
        ...
