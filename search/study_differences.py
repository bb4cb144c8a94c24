"""What was changed between the study that is there and the one that is asked for, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from results.units import plural

_MOST_SHOWN = 5
_LONGEST = 80


def describe_differences(stored: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """The fields that differ, as 'recipe.epochs: 1, now 2'; of many the first. Empty if there are none.

    Another space is the whole answer: it recommends most of the rest.
    """
    names = [(study.get("space") or {}).get("name") for study in (stored, asked)]
    if names[0] != names[1]:
        return [f"space: {_shortened(names[0])}, now {_shortened(names[1])}"]
    found = list(_differences("", stored, asked))
    more = len(found) - _MOST_SHOWN
    return [*found[:_MOST_SHOWN], *([f"and {more} more"] if more > 0 else [])]


def _differences(path: str, stored: Any, asked: Any) -> Iterator[str]:
    if stored == asked:
        return
    if isinstance(stored, dict) and isinstance(asked, dict):
        for key in {**stored, **asked}:
            yield from _differences(f"{path}.{key}" if path else key, stored.get(key), asked.get(key))
    elif _are_alike(stored, asked):
        for index, (before, now) in enumerate(zip(stored, asked)):
            yield from _differences(f"{path}.{index}", before, now)
    else:
        yield f"{path}: {_shortened(stored)}, now {_shortened(asked)}"


def _are_alike(stored: Any, asked: Any) -> bool:
    """Whether two lists of parts can be told apart part by part; two lists of objectives only under equal names."""
    are_parts = _is_list_of_dicts(stored) and _is_list_of_dicts(asked) and len(stored) == len(asked)
    return are_parts and [item.get("metric") for item in stored] == [item.get("metric") for item in asked]


def _is_list_of_dicts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _shortened(value: Any) -> str:
    text = _text(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if _is_list_of_dicts(value):
        metrics = [item.get("metric") for item in value]
        return ", ".join(metrics) if all(metrics) else plural(len(value), "part")
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items() if item is not None)
    return str(value)
