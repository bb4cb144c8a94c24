"""Members that neither draws nor descents come upon: looked for by single changes, nearest to the limits first."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from space.space import Space, Vector

# Vectors looked at since the last member, and in all; each costs about a tenth of a millisecond.
_PATIENCE = 30_000
_MOST = 500_000


def roam(space: Space, starts: Iterable[Vector], rng: np.random.Generator) -> Iterator[Vector]:
    """Feasible vectors from ``starts`` on, each once; those that are the fewest changes away come first.

    From a member it goes to members beside it, and where there are none, over what lies least far outside the limits.
    It ends when it has met no new member for long, which does not mean that there is none.
    """
    order = itertools.count()
    seen = dict.fromkeys(starts)
    waiting = [(space.excess(vector), next(order), vector) for vector in seen]
    heapq.heapify(waiting)
    last = len(seen)
    while waiting and len(seen) < min(last + _PATIENCE, _MOST):
        excess, _, vector = heapq.heappop(waiting)
        if excess == 0:
            last = len(seen)
            yield vector
        beside = space.neighbour_vectors(vector)
        for index in rng.permutation(len(beside)):
            if beside[index] not in seen:
                seen[beside[index]] = None
                heapq.heappush(waiting, (space.excess(beside[index]), next(order), beside[index]))
