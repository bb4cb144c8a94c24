"""A searcher that walks a list: studies whose trials are known before they begin (ablations, retraining)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from typing import NamedTuple

from crossvit_core.config import ArchConfig
from results.ablation_record import SOURCE_PREFIX
from results.records import Asked, Finished
from search.searcher import Proposal

# Before the number that a search gave the trial, as the source of its retrainings.
TRIAL_PREFIX = "trial:"


class ListedTrial(NamedTuple):
    """An architecture and the seed to train it with; ``source`` is what the ledger calls it.

    ``arch_key`` is the key that a ledger has for it already, which may be that of an earlier version.
    """

    arch: ArchConfig
    seed: int
    source: str
    arch_key: str = ""


def name_runs(items: Sequence[ListedTrial]) -> list[str]:
    """What each is called in the tables of its study, and which of its runs it is: 'trial 3, run 1 of 2'."""
    totals, seen = Counter(item.source for item in items), Counter[str]()
    names = []
    for item in items:
        seen[item.source] += 1
        names.append(f"{_name_source(item.source)}, run {seen[item.source]} of {totals[item.source]}")
    return names


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


def _name_source(source: str) -> str:
    """'trial 3', or the name of the variant."""
    if source.startswith(TRIAL_PREFIX):
        return f"trial {source.removeprefix(TRIAL_PREFIX)}"
    return source.removeprefix(SOURCE_PREFIX)
