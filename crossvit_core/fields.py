"""What the fields of an architecture accept, and how a value that they do not accept is told."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

Size = tuple[int, int]

_LEAST_LIKENESS = 0.5  # as tini and tiny_240


class ArchError(ValueError):
    """An architecture that cannot be built; the message lists every violation."""


def as_size(value: int | Iterable[int]) -> Size:
    """An image side, or a (height, width) pair, as (height, width) in pixels."""
    if isinstance(value, bool):
        raise ArchError(f"image_size {value!r} is not a number of pixels; use an int or [height, width]")
    if isinstance(value, int):
        return (value, value)
    sides = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else ()
    if len(sides) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) for side in sides):
        number = None if sides else nearest_count(value, 0)
        nearest = f", such as {number}," if number else ""
        raise ArchError(f"image_size {value!r} is not a size; use an int{nearest} or [height, width]")
    return (sides[0], sides[1])


def suggest(name: str, known: Iterable[str]) -> str:
    """'known: a, b', led by the nearest known name when there is one: the tail of an error message."""
    options = sorted(known)
    near = next((each for each in difflib.get_close_matches(name, options) if _is_slip(name, each, options)), None)
    hint = f"did you mean {near!r}? " if near else ""
    return f"{hint}known: {', '.join(options)}"


def _is_slip(name: str, option: str, options: list[str]) -> bool:
    """Whether a name is like an option also beyond the words that all of them start with, as these tell none apart."""
    words = zip(*(each.split("_")[:-1] for each in (name, *options)))
    shared = sum(len(same[0]) + 1 for same in itertools.takewhile(lambda same: len(set(same)) == 1, words))
    typed, meant = name[shared:], option[shared:]
    if max(len(typed), len(meant)) <= 1:  # one letter for another has nothing in common with it
        return True
    return difflib.SequenceMatcher(None, typed, meant).ratio() >= _LEAST_LIKENESS


def nearest_count(value: Any, minimum: int) -> int:
    """The integer of at least ``minimum`` that comes nearest to what was given; ``minimum`` if that is no number."""
    try:
        return max(round(float(value)), minimum)
    except (TypeError, ValueError, OverflowError):
        return minimum


def is_number(value: Any) -> bool:
    """A finite int or float; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def as_tuple(name: str, value: Any, example: str) -> tuple[Any, ...]:
    """``value`` as a tuple; raises ArchError with an ``example`` of what it should be."""
    if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
        raise ArchError(f"{name} must be a list, got {value!r}; use {example}")
    return tuple(value)


def check_name(where: str, value: Any, known: tuple[str, ...]) -> list[str]:
    """The violation of a value that is none of the known names; empty if it is one."""
    return [] if value in known else [f"{where} {value!r} is unknown; {suggest(str(value), known)}"]


def is_count(value: Any, minimum: int) -> bool:
    """An integer of at least ``minimum``; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def check_count(where: str, value: Any, *, minimum: int) -> list[str]:
    """The violation of a value that is no integer of at least ``minimum``; empty if it is one."""
    if is_count(value, minimum):
        return []
    return [f"{where} must be an integer of at least {minimum}, got {value!r}; use {nearest_count(value, minimum)}"]
