"""One free choice of a space: a path into the architecture and the values it may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from space.paths import Tree, get_path, set_path


@dataclass(frozen=True)
class Dimension:
    """``choices`` are tried as given. Without a place in an architecture (an encoder beyond its K) it is inactive."""

    path: str
    choices: tuple[Any, ...]

    @property
    def ordered(self) -> bool:
        """Whether neighbouring choices are alike: numbers in rising order."""
        numbers = all(isinstance(c, (int, float)) and not isinstance(c, bool) for c in self.choices)
        return numbers and all(a < b for a, b in zip(self.choices, self.choices[1:]))

    def is_active(self, tree: Tree) -> bool:
        return bool(get_path(tree, self.path))

    def write(self, tree: Tree, index: int) -> None:
        """Put choice number ``index`` into the tree."""
        set_path(tree, self.path, self.choices[index])

    def read(self, tree: Tree) -> int | None:
        """The choice that the tree holds: 0 if inactive, None if it holds no choice of this dimension."""
        values = get_path(tree, self.path)
        if not values:
            return 0
        first = _plain(values[0])
        if any(_plain(value) != first for value in values):
            return None
        return next((index for index, choice in enumerate(self.choices) if _plain(choice) == first), None)

    def precedence(self) -> tuple[int, int]:
        """Sort key of the order in which dimensions apply: the count of encoders, then '*', then single places."""
        return (0 if self.path == "num_encoders" else 1, 0 if "*" in self.path else 1)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
