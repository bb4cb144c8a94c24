"""A table of trials that grows event by event and is held by columns: a study may have millions of trials."""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray


class TrialTable:
    """Values by trial and column: numbers as doubles, words as their places among the distinct ones.

    A trial's ``row`` is its place in the order in which trials were first heard of; what comes out is in the order of
    their numbers. What was never set is NaN, or ''.
    """

    def __init__(self) -> None:
        self._rows: dict[int, int] = {}
        self._numbers: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))
        self._words: defaultdict[str, _Words] = defaultdict(_Words)
        self._order: NDArray[np.intp] = np.empty(0, dtype=np.intp)

    def row(self, trial: int) -> int:
        """The row of a trial, a new one if it was not heard of."""
        return self._rows.setdefault(trial, len(self._rows))

    def set_numbers(self, row: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            _put(self._numbers[name], row, value, math.nan)

    def set_words(self, row: int, words: Mapping[str, str]) -> None:
        for name, word in words.items():
            self._words[name].put(row, word)

    def number_names(self) -> set[str]:
        return set(self._numbers)

    def trials(self) -> NDArray[np.int64]:
        """Their numbers, in order: (num_trials,)."""
        return np.sort(self._trials())

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column in the order of the trials' numbers: (num_trials,)."""
        return _filled(self._numbers[name], len(self._rows), math.nan, np.float64)[self._in_order()]

    def codes(self, name: str) -> NDArray[np.int32]:
        """A column of words in the order of the trials' numbers, as places in ``distinct(name)``: (num_trials,)."""
        return _filled(self._words[name].codes, len(self._rows), 0, np.int32)[self._in_order()]

    def distinct(self, name: str) -> list[str]:
        """The words of a column, the first of them ''."""
        return list(self._words[name].known)

    def _trials(self) -> NDArray[np.int64]:
        return np.fromiter(self._rows, dtype=np.int64, count=len(self._rows))

    def _in_order(self) -> NDArray[np.intp]:
        if len(self._order) != len(self._rows):
            self._order = np.argsort(self._trials(), kind="stable")
        return self._order


class _Words:
    def __init__(self) -> None:
        self.codes: array[int] = array("i")
        self.known = {"": 0}

    def put(self, row: int, word: str) -> None:
        _put(self.codes, row, self.known.setdefault(word, len(self.known)), 0)


def decoded(codes: NDArray[np.int32], words: Sequence[str]) -> pd.Series:
    """The words that codes stand for, as pandas' own strings."""
    return pd.Series(pd.Series(words, dtype="str").array.take(codes))


def _put(column: array, row: int, value: float, missing: float) -> None:
    if row < len(column):
        column[row] = value
        return
    if row > len(column):
        column.extend([missing] * (row - len(column)))
    column.append(value)


def _filled(column: array, length: int, missing: float, dtype: type) -> NDArray:
    values: NDArray = np.full(length, missing, dtype=dtype)
    values[: len(column)] = column
    return values
