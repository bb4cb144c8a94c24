"""A searcher that walks a list: studies whose trials are known before they begin (ablations, retraining)."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import NamedTuple

from crossvit_core.config import ArchConfig
from results.records import Asked, Finished
from search.searcher import Proposal


class ListedTrial(NamedTuple):
    """An architecture and the seed to train it with; ``source`` is what the ledger calls it.

    ``arch_key`` is the key that a ledger has for it already, which may be that of an earlier version.
    """

    arch: ArchConfig
    seed: int
    source: str
    arch_key: str = ""


class ListSearcher:
    """Proposes the items in their order, trial N the item N. One architecture may come with several seeds.

    The list may grow at its end between two runs of a study; what was asked already must stay where it is.
    """

    def __init__(self, items: Sequence[ListedTrial]) -> None:
        self._items = tuple(items)

    def ask(self, number: int, taken: Container[str]) -> Proposal | None:
        """See ``Searcher.ask``, but for ``taken``: that an architecture was tried with another seed is no reason."""
        if number >= len(self._items):
            return None
        item = self._items[number]
        return Proposal(item.arch, item.source, seed=item.seed, arch_key=item.arch_key)

    def restore(self, asked: Asked) -> None:
        """See ``Searcher.restore``: nothing is to be learned."""

    def tell(self, finished: Finished) -> None:
        """See ``Searcher.tell``: nothing is to be learned."""
