"""Choices with which nothing can be built, and which entry of a space file is to blame for them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from space.space import Space, Vector

# Enough to meet a pair of choices that one in a hundred combinations has; rarer ones are walked to.
_PINNED_TRIES = 600
_WALKS = 3


@dataclass(frozen=True)
class DeadChoice:
    """A choice of a dimension with which nothing can be built, and why."""

    path: str
    index: int
    choice: Any
    problem: str

    def describe(self) -> str:
        return f"{self.path}: the choice {self.choice!r} can never be built: {self.problem}"


def find_dead_choices(space: Space, rng: np.random.Generator) -> list[DeadChoice]:
    """All of them: those for which neither draws nor walks come upon an architecture that can be built."""
    return [
        DeadChoice(dimension.path, index, choice, problem)
        for position, dimension in enumerate(space.dimensions)
        for index, choice in enumerate(dimension.choices)
        if (problem := _find_problem(space, position, index, rng))
    ]


def is_about(problem: str, path: str) -> bool:
    """Does a sentence of ``ArchConfig.violations`` speak of the field at ``path``, and of no other part's?

    'branch 0: embed_dim 50 ...' is about branches.0.embed_dim and branches.*.embed_dim, not about branches.1.embed_dim.
    """
    kind, *rest = path.split(".")
    words = re.findall(r"\w+", problem)
    if kind not in ("branches", "encoders"):
        return path.rpartition(".")[2] in words
    index, field, *part = rest
    if field not in words:
        return False
    owners = re.findall(rf"\b(?:{'branch' if kind == 'branches' else 'encoder'} |{kind}\.)(\d+)", problem)
    parts = re.findall(rf"\b{field}\.(\d+)", problem) if kind == "encoders" else []
    return _may_be(index, owners) and all(_may_be(each, parts) for each in part)


def _may_be(index: str, named: list[str]) -> bool:
    return index == "*" or not named or str(int(index)) in named


def _find_problem(space: Space, position: int, index: int, rng: np.random.Generator) -> str:
    """Why no architecture with this choice can be built; empty as soon as one can."""
    problem = ""
    for _ in range(_PINNED_TRIES):
        problems = space.decode(_pinned(space, position, index, rng)).violations()
        if not problems:
            return ""
        problem = problems[0]

    def distance(vector: Vector) -> float:
        return space.unbuildable(vector) if vector[position] == index else math.inf

    walks = (space.walk(_pinned(space, position, index, rng), rng, distance) for _ in range(_WALKS))
    return "" if any(distance(vector) == 0 for vector in walks) else problem


def _pinned(space: Space, position: int, index: int, rng: np.random.Generator) -> Vector:
    vector = space.random_vector(rng)
    return (*vector[:position], index, *vector[position + 1 :])
