"""One free choice of a space: a path into the architecture and the values it may take."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from space.paths import IMAGE_SIZE, NUM_ENCODERS, Tree, count_stars, get_path, set_path, shared_place


@dataclass(frozen=True)
class Dimension:
    """``choices`` are tried as given. Without a place in an architecture (an encoder beyond its K) it is inactive.

    ``finer`` are the paths of other dimensions that go before this one where they lead (``share_places``).
    """

    path: str
    choices: tuple[Any, ...]
    finer: tuple[str, ...] = ()

    @property
    def ordered(self) -> bool:
        """Whether neighbouring choices are alike: numbers in rising order."""
        numbers = all(isinstance(c, (int, float)) and not isinstance(c, bool) for c in self.choices)
        return numbers and all(a < b for a, b in zip(self.choices, self.choices[1:]))

    def is_active(self, tree: Tree) -> bool:
        return bool(get_path(tree, self.path, self.finer))

    def write(self, tree: Tree, index: int) -> None:
        """Put choice number ``index`` into the tree, before the dimensions of ``finer`` put theirs (``precedence``)."""
        set_path(tree, self.path, self.choices[index])

    def read(self, tree: Tree) -> int | None:
        """The choice that the tree holds: 0 if inactive, None if it holds no choice of this dimension."""
        values = get_path(tree, self.path, self.finer)
        if not values:
            return 0
        plain = _plain_size if self.path.endswith(IMAGE_SIZE) else _plain
        first = plain(values[0])
        if any(plain(value) != first for value in values):
            return None
        return next((index for index, choice in enumerate(self.choices) if plain(choice) == first), None)

    def precedence(self) -> tuple[int, int]:
        """Sort key of the order in which dimensions apply.

        The count of encoders, then the image size, which all branches take over, then '*', then single places.
        """
        first = (NUM_ENCODERS, IMAGE_SIZE)
        return (first.index(self.path) if self.path in first else len(first), -count_stars(self.path))


def share_places(dimensions: Sequence[Dimension]) -> tuple[Dimension, ...]:
    """The dimensions, each with those that are ``finer``: a single place goes before a '*' that stands for it too."""
    return tuple(
        replace(dimension, finer=tuple(other.path for other in dimensions if _is_finer(other.path, dimension.path)))
        for dimension in dimensions
    )


def find_rivals(dimensions: Sequence[Dimension]) -> tuple[Dimension, Dimension, str] | None:
    """Two dimensions, in their order, of which neither can go before the other at a place they share; None if all can.

    That is two with equally many stars, and a field with a part of it: of choices that are whole lists, what is left
    beside the part need not tell them apart.
    """
    for one, other in itertools.combinations(dimensions, 2):
        place = shared_place(one.path, other.path)
        if place and not (_is_finer(one.path, other.path) or _is_finer(other.path, one.path)):
            return one, other, place
    return None


def _is_finer(path: str, other: str) -> bool:
    """Whether the path stands for some of the places of the other one, and for no more."""
    same_field = path.count(".") == other.count(".") and bool(shared_place(path, other))
    return same_field and count_stars(path) < count_stars(other)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _plain_size(value: Any) -> Any:
    """A side stands for a square."""
    return [value, value] if isinstance(value, int) else _plain(value)
