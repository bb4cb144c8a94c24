"""Where a search begins, and the order in which a small space is tried to its last member."""

from __future__ import annotations

import numpy as np

from crossvit_core.cost import count_cost
from search.trial import derive_seed
from space import Space, Vector

_POOL = 256
_REACH = 12


def start_vectors(space: Space, seed: int, count: int) -> list[Vector]:
    """A start that is spread over FLOPs and over the choices.

    A random pool is ordered by FLOPs and visited in bisecting order; near each place the member is taken that differs
    in the most dimensions from those taken before.
    """
    rng = np.random.default_rng(derive_seed(seed, "start"))
    pool = space.sample_vectors(rng, _POOL)
    pool.sort(key=lambda vector: count_cost(space.decode(vector)).macs)
    taken: list[Vector] = []
    for index in range(1, count + 1):
        place = int(_van_der_corput(index) * len(pool))
        nearby = pool[max(0, place - _REACH) : place + _REACH]
        taken.append(max(nearby, key=lambda vector: min((_distance(vector, t) for t in taken), default=0)))
    return taken


def enumerate_vectors(space: Space, seed: int) -> list[Vector]:
    """Every feasible vector, in an order that the seed decides: what is done of it is a random sample at any time.

    Raises SpaceError, naming the limit that binds, if there is none.
    """
    rng = np.random.default_rng(derive_seed(seed, "enumeration"))
    vectors = list(space.vectors()) or [space.sample_vector(rng)]
    return [vectors[i] for i in rng.permutation(len(vectors))]


def _distance(a: Vector, b: Vector) -> int:
    """Number of dimensions in which two architectures differ."""
    return sum(x != y for x, y in zip(a, b))


def _van_der_corput(index: int) -> float:
    """The index's binary digits mirrored at the point: 1/2, 1/4, 3/4, 1/8, ..."""
    value, scale = 0.0, 0.5
    while index:
        value += scale * (index & 1)
        index >>= 1
        scale /= 2
    return value
