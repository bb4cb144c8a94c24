"""How small and how large the members of a space can get, and which limit leaves it empty."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from space.space import Space, Vector

_STARTS = 12


def find_reach(space: Space, metric: str) -> tuple[int, int] | None:
    """Smallest and largest value of a metric, limits aside (coordinate descent, several starts); None if nothing can
    be built."""
    rng = np.random.default_rng(0)
    starts = [space.walk(space.random_vector(rng), rng, space.unbuildable) for _ in range(_STARTS)]
    values = [_extreme(space, start, metric, sign) for start in starts for sign in (1, -1)]
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if known else None


def explain_empty(space: Space) -> str:
    """Why no member of the space was found: the limit that binds, and what the choices reach."""
    for limit in space.limits:
        low, high = space.reach(limit.metric)
        if (limit.maximum is not None and low > limit.maximum) or (limit.minimum or 0) > high:
            window, least, most = limit.describe_beside(low, high)
            return (
                f"space {space.name!r} is empty: the limit {window} binds; its choices reach "
                f"{limit.metric} from {least} to {most}"
            )
    wanted = [limit.describe() for limit in space.limits] + ["that every branch is read"]
    return f"space {space.name!r}: found no architecture that meets {' and '.join(wanted)} at once; widen one of them"


def _extreme(space: Space, vector: Vector, metric: str, sign: int) -> int | None:
    def value(candidate: Vector) -> float:
        cost = space.cost(candidate)
        return math.inf if cost is None else sign * getattr(cost, metric)

    current = value(vector)
    while True:
        best = min(space.neighbour_vectors(vector), key=value, default=vector)
        if value(best) >= current:
            return None if math.isinf(current) else int(sign * current)
        vector, current = best, value(best)
