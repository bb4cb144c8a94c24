"""A search space: a base architecture, dimensions over its fields, and limits that every member respects."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from crossvit_core.config import ArchConfig, ArchError
from crossvit_core.cost import Cost, count_cost
from crossvit_core.reading import unread_branches
from space.dimension import Dimension, share_places
from space.limits import Limit
from space.paths import NUM_ENCODERS, Tree, copy_tree, differences, from_tree, set_path, to_tree
from space.reach import explain_empty, find_reach
from space.roam import roam

Vector = tuple[int, ...]

# Bounds on the work of one call; each step costs about a tenth of a millisecond.
_REJECTIONS = 64
_WALKS = 24
_WALK_STEPS = 60
_RING_LIMIT = 600
MAX_ENUMERABLE = 20_000
_SEEK_WALKS = 6
# Of members that no draw comes upon, which take seconds each, and in all where draws fail.
_SOUGHT = 8
_SCARCE = 64
_UNBUILDABLE = 1e3
_UNREAD = 1.0  # as far from feasible as a count at 2.7 times its limit


class SpaceError(ValueError):
    """A space, or an architecture for a space, that does not hold together."""


class Space:
    """Architectures that the search may propose. All can be built, read every branch and lie within the limits.

    A *vector* holds one choice index per dimension, in the order of ``dimensions``; inactive dimensions are 0, so that
    one architecture has one vector. ``excess`` is how far a vector is from feasible, 0 for a member; ``key`` is the key
    of its architecture.
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
        self.dimensions = share_places(dimensions)
        self.limits = limits
        self.fixed = dict(fixed or {})
        self._order = sorted(range(len(dimensions)), key=lambda i: dimensions[i].precedence())
        self._encoder_counts = next((d.choices for d in dimensions if d.path == NUM_ENCODERS), ())
        self._given_base = base
        self._base_tree = self._fixed_tree(base)
        self.excess = functools.lru_cache(maxsize=200_000)(self._count_excess)
        self.key = functools.lru_cache(maxsize=100_000)(self._find_key)
        paths = [dimension.path for dimension in dimensions]
        self._count_position = paths.index(NUM_ENCODERS) if NUM_ENCODERS in paths else None
        self._activity = functools.cache(self._find_activity)

    @property
    def base(self) -> ArchConfig:
        """The architecture that holds what no dimension changes, with the encoders that it was given."""
        full = self._full_base
        return full.replace(encoders=full.encoders[: self._base_encoders])

    @property
    def _full_base(self) -> ArchConfig:
        """The same with as many encoders as it takes to hold all that is fixed."""
        return from_tree(copy_tree(self._base_tree))

    @property
    def _base_encoders(self) -> int:
        return int(self.fixed.get(NUM_ENCODERS, len(self._given_base.encoders)))

    @property
    def max_encoders(self) -> int:
        """K of the members that have most encoders."""
        return max(self._encoder_counts) if self._encoder_counts else self._base_encoders

    def for_data(self, *, num_classes: int, in_channels: int) -> Space:
        """This space with the classes and channels of a dataset."""
        base = self._given_base.replace(num_classes=num_classes, in_channels=in_channels)
        return Space(self.name, base, self.dimensions, self.limits, self.fixed)

    def within(self, limits: tuple[Limit, ...]) -> Space:
        """This space under other limits."""
        return Space(self.name, self._given_base, self.dimensions, limits, self.fixed)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that says exactly which space was searched."""
        return {
            "name": self.name,
            "base": self._full_base.to_dict(),
            "dimensions": {dimension.path: list(dimension.choices) for dimension in self.dimensions},
            "limits": {limit.metric: {"min": limit.minimum, "max": limit.maximum} for limit in self.limits},
        }

    # Members --------------------------------------------------------------------------------------------------------

    def size(self) -> int:
        """Number of combinations of active choices, before limits."""
        total = 0
        for count in self._encoder_counts or (len(self._base_tree["encoders"]),):
            tree = copy_tree(self._base_tree)
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
        differing = differences(tree, to_tree(self.decode(vector)))
        if differing:
            fields = ", ".join(differing[:3])
            raise SpaceError(
                f"this architecture differs from the space {self.name!r} in a field that is not free: {fields}"
            )
        return vector

    def validate(self, arch: ArchConfig) -> list[str]:
        """Why the architecture is no feasible member; empty if it is one."""
        problems = arch.violations()
        if problems:
            return problems
        cost = count_cost(arch)
        problems = [
            f"{limit.metric} is {value}; the space allows {window}"
            for limit in self.limits
            if limit.excess(cost)
            for window, value in [limit.describe_beside(getattr(cost, limit.metric))]
        ]
        problems += [
            f"branch {index} is never read: it has no block, and no fusion brings its patches to a class token; "
            f"give it a depth of 1, or another fusion"
            for index in unread_branches(arch)
        ]
        try:
            self.encode(arch)
        except SpaceError as error:
            problems.append(str(error))
        return problems

    def is_feasible(self, vector: Vector) -> bool:
        return self.excess(vector) == 0

    def canonical(self, vector: Vector) -> Vector:
        """The vector with its inactive dimensions at 0."""
        return tuple(index if active else 0 for index, active in zip(vector, self._active(vector)))

    def active_dimensions(self, vector: Vector) -> list[int]:
        """Positions of the dimensions that have a place in this architecture."""
        return [position for position, active in enumerate(self._active(vector)) if active]

    def has_place(self, position: int) -> bool:
        """Whether the dimension at ``position`` is active in any architecture."""
        counts = 1 if self._count_position is None else len(self.dimensions[self._count_position].choices)
        return any(self._activity(index)[position] for index in range(counts))

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
        """As ``sample``.

        Where the limits leave enough room, every choice is as likely as its dimension's others: members with few
        encoders come more often than their share. Elsewhere by a walk towards the limits and along them.
        """
        vector = self._draw(rng)
        if vector is None:
            vector = self._seek(rng)
        if vector is None:
            raise SpaceError(explain_empty(self))
        return vector

    def sample_vectors(self, rng: np.random.Generator, count: int) -> list[Vector]:
        """``count`` times ``sample_vector``, while draws come upon members.

        Where the limits leave less room than that, a few are looked for, and then members around those: fewer in all,
        since each takes long. Raises SpaceError if there is none.
        """
        found = list(itertools.islice(self._draws(rng), count))
        if len(found) < count:
            found += itertools.islice(iter(lambda: self._seek(rng), None), min(_SOUGHT, count - len(found)))
            around = (vector for vector in roam(self, found, rng) if vector not in found)
            found += list(itertools.islice(around, max(0, min(_SCARCE, count) - len(found))))
        if not found:
            raise SpaceError(explain_empty(self))
        return found

    def nearest_vector(
        self, vector: Vector, rng: np.random.Generator, accept: Callable[[Vector], bool]
    ) -> Vector | None:
        """The feasible vector that ``accept`` takes with the fewest dimensions changed; None if none is left.

        Ties are broken at random. Beyond two changes it samples; a space small enough is searched to the last member,
        a larger one around the members that it came upon.
        """
        start = self.canonical(vector)
        refused: list[Vector] = []
        for candidate in itertools.chain.from_iterable(self._rings(start, rng)):
            if self.is_feasible(candidate):
                if accept(candidate):
                    return candidate
                refused.append(candidate)
        others = self.vectors() if self.is_enumerable else roam(self, [start, *refused], rng)
        return next((candidate for candidate in others if accept(candidate)), None)

    def reach(self, metric: str) -> tuple[int, int]:
        """Smallest and largest value of a metric over the space, limits aside (see ``space.reach``)."""
        found = find_reach(self, metric)
        if found is None:
            raise SpaceError(f"space {self.name!r}: no combination of choices can be built")
        return found

    @property
    def is_enumerable(self) -> bool:
        """Whether the space is small enough for ``nearest_vector`` to go through all members."""
        return self.size() <= MAX_ENUMERABLE

    # Inside ---------------------------------------------------------------------------------------------------------

    def _fixed_tree(self, base: ArchConfig) -> Tree:
        """What no dimension changes: as dimensions are, the general goes before the special."""
        tree = to_tree(base)
        fixed = sorted((Dimension(path, (value,)) for path, value in self.fixed.items()), key=Dimension.precedence)
        set_path(tree, NUM_ENCODERS, self._base_encoders)
        if any(not dimension.is_active(tree) for dimension in fixed):
            set_path(tree, NUM_ENCODERS, self.max_encoders)  # or a later encoder would copy an earlier one's value
        for dimension in fixed:
            if dimension.path != NUM_ENCODERS:
                dimension.write(tree, 0)
        return tree

    def _find_key(self, vector: Vector) -> str:
        return self.decode(vector).key()

    def _active(self, vector: Vector) -> tuple[bool, ...]:
        return self._activity(None if self._count_position is None else vector[self._count_position])

    def _find_activity(self, count_index: int | None) -> tuple[bool, ...]:
        """Which dimensions have a place: of all choices, only the number of encoders decides that."""
        tree = copy_tree(self._base_tree)
        if self._count_position is not None and count_index is not None:
            self.dimensions[self._count_position].write(tree, count_index)
        return tuple(dimension.is_active(tree) for dimension in self.dimensions)

    def _tree(self, vector: Vector) -> Tree:
        tree = copy_tree(self._base_tree)
        for position in self._order:
            self.dimensions[position].write(tree, vector[position])
        return tree

    def cost(self, vector: Vector) -> Cost | None:
        try:
            return count_cost(self.decode(vector))
        except ArchError:
            return None

    def _count_excess(self, vector: Vector) -> float:
        """0 for a feasible vector; else how far it is from one."""
        try:
            arch = self.decode(vector)
            cost = count_cost(arch)
        except ArchError:
            return self.unbuildable(vector)
        return sum(limit.excess(cost) for limit in self.limits) + _UNREAD * len(unread_branches(arch))

    def unbuildable(self, vector: Vector) -> float:
        return _UNBUILDABLE * len(self.decode(vector).violations())

    def walk(
        self, vector: Vector, rng: np.random.Generator, distance: Callable[[Vector], float] | None = None
    ) -> Vector:
        """Descend to a vector at distance 0, or to one that no single change improves."""
        measure = distance or self.excess
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

    def _rings(self, start: Vector, rng: np.random.Generator) -> Iterator[Iterable[Vector]]:
        """Candidates for ``nearest_vector``, ever further from the start, made as they are needed."""
        yield [start]
        inner = self.neighbour_vectors(start)
        yield _shuffled(inner, rng)
        yield _shuffled(self._second_ring(inner, rng), rng)
        walk = self.walk(start, rng)
        yield [walk, *self.neighbour_vectors(walk)]
        yield itertools.islice(self._draws(rng), _REJECTIONS)

    def _draws(self, rng: np.random.Generator) -> Iterator[Vector]:
        """Members drawn one after the other, until a draw fails."""
        while (vector := self._draw(rng)) is not None:
            yield vector

    def _draw(self, rng: np.random.Generator) -> Vector | None:
        """A member that tries, walks or a look at all of a small space come upon.

        What is drawn must not change, or a study that goes on would not be the one that began.
        """
        for _ in range(_REJECTIONS):
            vector = self.random_vector(rng)
            if self.is_feasible(vector):
                return vector
        for _ in range(_WALKS):
            vector = self.walk(self.random_vector(rng), rng)
            if self.is_feasible(vector):
                return vector
        members = list(self.vectors()) if self.is_enumerable else []
        return members[int(rng.integers(len(members)))] if members else None

    def _seek(self, rng: np.random.Generator) -> Vector | None:
        """A member of a large space whose draws fail: on from where a few walks end."""
        if self.is_enumerable:
            return None
        return next(roam(self, [self.walk(self.random_vector(rng), rng) for _ in range(_SEEK_WALKS)], rng), None)

    def _second_ring(self, inner: list[Vector], rng: np.random.Generator) -> Iterator[Vector]:
        pairs = (vector for middle in _shuffled(inner, rng) for vector in self.neighbour_vectors(middle))
        return itertools.islice(pairs, _RING_LIMIT)


def _shuffled(items: Any, rng: np.random.Generator) -> list[Any]:
    pool = list(items)
    return [pool[i] for i in rng.permutation(len(pool))]
