"""A search space: a base architecture, dimensions over its fields, and limits that every member respects."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from crossvit_core.config import ArchConfig, ArchError
from crossvit_core.cost import Cost, count_cost
from space.dimension import Dimension
from space.limits import Limit, format_number
from space.paths import NUM_ENCODERS, Tree, from_tree, set_path, to_tree

Vector = tuple[int, ...]

# Bounds on the work of one call; each step costs about a tenth of a millisecond.
_REJECTIONS = 64
_WALKS = 24
_WALK_STEPS = 60
_RING_LIMIT = 600
_ENUMERABLE = 20_000
_REACH_STARTS = 12
_UNBUILDABLE = 1e3


class SpaceError(ValueError):
    """A space, or an architecture for a space, that does not hold together."""


class Space:
    """Architectures that the search may propose. All of them can be built and lie within the limits.

    A *vector* holds one choice index per dimension, in the order of ``dimensions``; inactive dimensions are 0, so that
    one architecture has one vector.
    """

    def __init__(
        self,
        name: str,
        base: ArchConfig,
        dimensions: tuple[Dimension, ...],
        limits: tuple[Limit, ...] = (),
        fixed: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.dimensions = dimensions
        self.limits = limits
        self.fixed = dict(fixed or {})
        self._order = sorted(range(len(dimensions)), key=lambda i: dimensions[i].precedence())
        tree = to_tree(base)
        for path in sorted(self.fixed, key=lambda p: p != NUM_ENCODERS):
            set_path(tree, path, self.fixed[path])
        self._base_tree = tree
        self._excess = functools.lru_cache(maxsize=200_000)(self._count_excess)

    @property
    def base(self) -> ArchConfig:
        """The architecture that holds what no dimension changes."""
        return from_tree(copy.deepcopy(self._base_tree))

    def for_data(self, *, num_classes: int, in_channels: int) -> Space:
        """This space with the classes and channels of a dataset."""
        base = self.base.replace(num_classes=num_classes, in_channels=in_channels)
        return Space(self.name, base, self.dimensions, self.limits)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that says exactly which space was searched."""
        return {
            "name": self.name,
            "base": self.base.to_dict(),
            "dimensions": {dimension.path: list(dimension.choices) for dimension in self.dimensions},
            "limits": {limit.metric: {"min": limit.minimum, "max": limit.maximum} for limit in self.limits},
        }

    # Members --------------------------------------------------------------------------------------------------------

    def size(self) -> int:
        """Number of combinations of active choices, before limits."""
        counts = next((d.choices for d in self.dimensions if d.path == NUM_ENCODERS), None)
        total = 0
        for count in counts or (len(self._base_tree["encoders"]),):
            tree = copy.deepcopy(self._base_tree)
            set_path(tree, NUM_ENCODERS, count)
            free = [d for d in self.dimensions if d.path != NUM_ENCODERS and d.is_active(tree)]
            total += math.prod(len(d.choices) for d in free)
        return total

    def decode(self, vector: Vector) -> ArchConfig:
        """The architecture of a vector."""
        return from_tree(self._tree(vector))

    def encode(self, arch: ArchConfig) -> Vector:
        """The vector of an architecture. Raises SpaceError if it is no member, limits aside."""
        tree = to_tree(arch)
        indices = [dimension.read(tree) for dimension in self.dimensions]
        for dimension, index in zip(self.dimensions, indices):
            if index is None:
                raise SpaceError(f"{dimension.path} of this architecture is none of {list(dimension.choices)}")
        vector = tuple(index or 0 for index in indices)
        if self.decode(vector) != arch:
            raise SpaceError(f"this architecture differs from the space {self.name!r} in a field that is not free")
        return vector

    def validate(self, arch: ArchConfig) -> list[str]:
        """Why the architecture is no feasible member; empty if it is one."""
        problems = arch.violations()
        if problems:
            return problems
        cost = count_cost(arch)
        problems = [
            f"{limit.metric} is {format_number(getattr(cost, limit.metric))}; the space allows {limit.describe()}"
            for limit in self.limits
            if limit.excess(cost)
        ]
        try:
            self.encode(arch)
        except SpaceError as error:
            problems.append(str(error))
        return problems

    def is_feasible(self, vector: Vector) -> bool:
        return self._excess(vector) == 0

    def canonical(self, vector: Vector) -> Vector:
        """The vector with its inactive dimensions at 0."""
        tree = self._tree(vector)
        return tuple(i if d.is_active(tree) else 0 for d, i in zip(self.dimensions, vector))

    def active_dimensions(self, vector: Vector) -> list[int]:
        """Positions of the dimensions that have a place in this architecture."""
        tree = self._tree(vector)
        return [i for i, dimension in enumerate(self.dimensions) if dimension.is_active(tree)]

    def vectors(self) -> Iterator[Vector]:
        """All feasible vectors. Their number may be astronomical: see ``size``."""
        seen: set[Vector] = set()
        for vector in itertools.product(*(range(len(d.choices)) for d in self.dimensions)):
            canonical = self.canonical(vector)
            if canonical == vector and canonical not in seen and self.is_feasible(vector):
                seen.add(canonical)
                yield vector

    def neighbours(self, arch: ArchConfig) -> Iterator[ArchConfig]:
        """Every feasible architecture that differs in one dimension."""
        for vector in self.neighbour_vectors(self.encode(arch)):
            if self.is_feasible(vector):
                yield self.decode(vector)

    def neighbour_vectors(self, vector: Vector) -> list[Vector]:
        """Vectors with one active dimension changed, feasible or not."""
        changed = (
            (*vector[:position], choice, *vector[position + 1 :])
            for position in self.active_dimensions(vector)
            for choice in range(len(self.dimensions[position].choices))
            if choice != vector[position]
        )
        return list(dict.fromkeys(self.canonical(other) for other in changed))

    # Proposals ------------------------------------------------------------------------------------------------------

    def random_vector(self, rng: np.random.Generator) -> Vector:
        """Choices drawn at random, feasible or not."""
        return self.canonical(tuple(int(rng.integers(len(d.choices))) for d in self.dimensions))

    def sample(self, rng: np.random.Generator) -> ArchConfig:
        """A feasible architecture. Raises SpaceError, naming the limit that binds, if none is found."""
        return self.decode(self.sample_vector(rng))

    def sample_vector(self, rng: np.random.Generator) -> Vector:
        """As ``sample``: uniform where the limits leave enough room, else by a walk towards them."""
        for _ in range(_REJECTIONS):
            vector = self.random_vector(rng)
            if self.is_feasible(vector):
                return vector
        for _ in range(_WALKS):
            vector = self._walk(self.random_vector(rng), rng)
            if self.is_feasible(vector):
                return vector
        members = list(self.vectors()) if self.size() <= _ENUMERABLE else []
        if members:
            return members[int(rng.integers(len(members)))]
        raise SpaceError(self._explain_empty())

    def nearest(
        self, vector: Vector, rng: np.random.Generator, accept: Callable[[ArchConfig], bool]
    ) -> ArchConfig | None:
        """The feasible architecture that ``accept`` takes with the fewest dimensions changed; None if none is left.

        Ties are broken at random. Beyond two changes it samples; a space small enough is searched to the last member.
        """
        start = self.canonical(vector)
        inner = self.neighbour_vectors(start)
        for ring in ([start], inner, self._second_ring(inner, rng)):
            found = self._first_accepted(_shuffled(ring, rng), accept)
            if found is not None:
                return found
        walk = self._walk(start, rng)
        sampled = (self.sample_vector(rng) for _ in range(_REJECTIONS))
        found = self._first_accepted(itertools.chain([walk], self.neighbour_vectors(walk), sampled), accept)
        if found is None and self.size() <= _ENUMERABLE:
            found = self._first_accepted(self.vectors(), accept)
        return found

    def reach(self, metric: str) -> tuple[int, int]:
        """Smallest and largest value of a metric over the space, limits aside (coordinate descent, several starts)."""
        rng = np.random.default_rng(0)
        starts = [self._walk(self.random_vector(rng), rng, self._unbuildable) for _ in range(_REACH_STARTS)]
        values = [self._extreme(start, metric, sign) for start in starts for sign in (1, -1)]
        known = [value for value in values if value is not None]
        if not known:
            raise SpaceError(f"space {self.name!r}: no combination of choices can be built")
        return min(known), max(known)

    # Inside ---------------------------------------------------------------------------------------------------------

    def _tree(self, vector: Vector) -> Tree:
        tree = copy.deepcopy(self._base_tree)
        for position in self._order:
            self.dimensions[position].write(tree, vector[position])
        return tree

    def _cost(self, vector: Vector) -> Cost | None:
        try:
            return count_cost(self.decode(vector))
        except ArchError:
            return None

    def _count_excess(self, vector: Vector) -> float:
        """0 for a feasible vector; else how far it is from one."""
        cost = self._cost(vector)
        return self._unbuildable(vector) if cost is None else sum(limit.excess(cost) for limit in self.limits)

    def _unbuildable(self, vector: Vector) -> float:
        return _UNBUILDABLE * len(self.decode(vector).violations())

    def _walk(
        self, vector: Vector, rng: np.random.Generator, distance: Callable[[Vector], float] | None = None
    ) -> Vector:
        """Descend to a vector at distance 0, or to one that no single change improves."""
        measure = distance or self._excess
        current = measure(vector)
        for _ in range(_WALK_STEPS):
            if current == 0:
                break
            options = _shuffled(self.neighbour_vectors(vector), rng)
            best = min(options, key=measure, default=vector)
            if measure(best) >= current:
                break
            vector, current = best, measure(best)
        return vector

    def _extreme(self, vector: Vector, metric: str, sign: int) -> int | None:
        def value(candidate: Vector) -> float:
            cost = self._cost(candidate)
            return math.inf if cost is None else sign * getattr(cost, metric)

        current = value(vector)
        while True:
            best = min(self.neighbour_vectors(vector), key=value, default=vector)
            if value(best) >= current:
                return None if math.isinf(current) else int(sign * current)
            vector, current = best, value(best)

    def _second_ring(self, inner: list[Vector], rng: np.random.Generator) -> Iterator[Vector]:
        pairs = (vector for middle in _shuffled(inner, rng) for vector in self.neighbour_vectors(middle))
        return itertools.islice(pairs, _RING_LIMIT)

    def _first_accepted(self, vectors: Any, accept: Callable[[ArchConfig], bool]) -> ArchConfig | None:
        for vector in vectors:
            if self.is_feasible(vector):
                arch = self.decode(vector)
                if accept(arch):
                    return arch
        return None

    def _explain_empty(self) -> str:
        for limit in self.limits:
            low, high = self.reach(limit.metric)
            alone = Limit(limit.metric, limit.minimum, limit.maximum)
            if (alone.maximum is not None and low > alone.maximum) or (alone.minimum or 0) > high:
                return (
                    f"space {self.name!r} is empty: the limit {limit.describe()} binds; its choices reach "
                    f"{limit.metric} from {format_number(low)} to {format_number(high)}"
                )
        joint = " and ".join(limit.describe() for limit in self.limits) or "the base"
        return f"space {self.name!r}: found no architecture that meets {joint} at once; widen one of them"


def _shuffled(items: Any, rng: np.random.Generator) -> list[Any]:
    pool = list(items)
    return [pool[i] for i in rng.permutation(len(pool))]
