"""What ``bench`` timed of a study's front on its own, and how it takes the place of the search's own timings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from results.units import with_spread

FILE_NAME = "bench.json"


@dataclass(frozen=True)
class Timing:
    """Images per second, their interquartile range, and what was wrong while they were measured.

    ``more`` are the other numbers of the measurement, by their columns in a table of trials.
    """

    ips: float
    iqr: float
    flags: tuple[str, ...]
    device: str
    more: Mapping[str, float]

    @property
    def columns(self) -> dict[str, float]:
        return {"throughput_ips": self.ips, "throughput_iqr": self.iqr, **self.more}

    def text(self) -> str:
        return with_spread(self.ips, self.iqr) + (f" ({', '.join(self.flags)})" if self.flags else "")


def read_timings(study_dir: Path, frame: pd.DataFrame) -> dict[str, Timing]:
    """By arch_key, as ``bench`` timed trials of ``frame`` on their own; maybe none."""
    try:
        rows = json.loads((study_dir / FILE_NAME).read_text(encoding="utf-8"))["timings"]
        by_trial = {int(row["trial"]): _read_timing(row) for row in rows}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    # Throughput is of the architecture: it holds for the other trials that trained the same one.
    timed = frame.loc[frame["trial"].isin(list(by_trial)) & (frame["arch_key"] != ""), ["trial", "arch_key"]]
    return {str(key): by_trial[int(trial)] for trial, key in zip(timed["trial"], timed["arch_key"])}


def with_timings(rows: pd.DataFrame, timings: Mapping[str, Timing]) -> pd.DataFrame:
    """The rows of a table of trials with the timings where there are; the others keep the search's own."""
    found = _timed(rows, timings)
    if found.empty:
        return rows
    timed = pd.DataFrame([timings[key].columns for key in found], index=found.index)
    # What the search noted of its own measurement must not stand beside another one, be it empty.
    mine = [name for name in _COLUMNS if name in rows]
    rows = rows.copy()
    rows.loc[found.index, mine] = timed.reindex(columns=mine)
    return rows


def timed_rows(rows: pd.DataFrame, timings: Mapping[str, Timing]) -> pd.DataFrame:
    """The rows whose throughput is from ``bench``."""
    return rows.loc[_timed(rows, timings).index]


def _timed(rows: pd.DataFrame, timings: Mapping[str, Timing]) -> pd.Series:
    """The keys of the rows that were timed on their own, on the kind of device that the search ran on.

    On one axis there must be no timings of several kinds.
    """
    known = rows.loc[rows["arch_key"].isin(list(timings)), ["arch_key", "device"]]
    same = [_is_same_kind(timings[key].device, device) for key, device in zip(known["arch_key"], known["device"])]
    return known.loc[same, "arch_key"]


def _is_same_kind(one: str, other: str) -> bool:
    return not one or not other or one.partition(":")[0] == other.partition(":")[0]


def _read_timing(row: Mapping[str, Any]) -> Timing:
    flags = tuple(str(flag) for flag in row.get("flags", ()))
    more = {column: float(row[name]) for name, column in _MORE.items() if name in row}
    device = str(row.get("device") or "")
    return Timing(float(row["ips"]), float(row["iqr"]), flags, device, {**more, "throughput_flags": float(len(flags))})


_MORE = {"ratio": "throughput_ratio", "ratio_iqr": "throughput_ratio_iqr", "contention": "throughput_contention"}
_COLUMNS = ("throughput_ips", "throughput_iqr", *_MORE.values(), "throughput_flags")
