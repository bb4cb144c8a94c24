"""Networks from elsewhere that were measured beside a study: ``baselines.csv`` in its folder, one row a network.

A person may write the file as well: ``name`` and any of the other columns. Columns of their own stay.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from results.metrics import ACCURACY
from results.repeats import SPREAD
from results.store import StoreError, write_durably

FILE_NAME = "baselines.csv"

_NUMBERS = (
    "macs",
    "params",
    "throughput_ips",
    "throughput_iqr",
    "throughput_ratio",
    "latency_ms",
    ACCURACY,
    SPREAD,
    "seeds",
)
_TEXTS = ("accuracies", "image_size", "device", "note")
COLUMNS = ("name", *_NUMBERS, *_TEXTS)


def load_baselines(study_dir: Path) -> pd.DataFrame:
    """One row a network, in the order of measuring; none if there is no file. Raises StoreError for a damaged one.

    Columns: name; macs, params; throughput_ips, throughput_iqr, throughput_ratio, latency_ms as in the trials;
    val_accuracy, the mean over ``seeds`` runs (NaN unless trained), accuracy_sd, their standard deviation (NaN for
    fewer than two), and accuracies, those of all runs as text; image_size as '16x16', device, and a note: flags of the
    measurement, operators that were not counted.
    """
    blank = dict.fromkeys(COLUMNS, "")
    rows = [{**blank, **row, "name": row["name"] or "baseline"} for row in _read_rows(study_dir / FILE_NAME)]
    frame = pd.DataFrame(rows, columns=list(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)])))
    try:
        for name in _NUMBERS:
            frame[name] = [float(text or "nan") for text in frame[name]]
    except ValueError as error:
        raise StoreError(f"{study_dir / FILE_NAME} is damaged: column {name}: {error}") from error
    return frame


def save_baseline(folder: Path, name: str, found: Mapping[str, Any]) -> None:
    """Write what was ``found`` of a network into its row; what is not among it stays as it was.

    The file is replaced whole; several processes may do so at a time. Raises StoreError.
    """
    path = folder / FILE_NAME
    try:
        with _alone(folder):
            rows = _read_rows(path)
            row = next((row for row in rows if row.get("name") == name), None)
            if row is None:
                rows.append(row := {"name": name})
            row.update({key: _as_text(value) for key, value in found.items()})
            write_durably(path, _to_csv(rows))
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While this lasts no other process changes the file. It is replaced whole, so that its folder is locked."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def accuracies_of(folder: Path, name: str) -> list[float]:
    """Validation accuracies of the runs of a network so far, in the order of their seeds."""
    row = next((row for row in _read_rows(folder / FILE_NAME) if row.get("name") == name), {})
    try:
        return [float(text) for text in row.get("accuracies", "").split()]
    except ValueError as error:
        raise StoreError(f"{folder / FILE_NAME} is damaged: accuracies of {name}: {error}") from error


def fold_accuracies(accuracies: Sequence[float]) -> dict[str, Any]:
    """The columns of a row that tell of its runs."""
    return {
        ACCURACY: round(float(np.mean(accuracies)), 6),
        SPREAD: round(float(np.std(accuracies, ddof=1)), 6) if len(accuracies) > 1 else math.nan,
        "seeds": len(accuracies),
        "accuracies": " ".join(f"{accuracy:.6g}" for accuracy in accuracies),
    }


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    try:
        table = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""), strict=True)
        rows, names = list(table), table.fieldnames or []
    except (ValueError, OSError, csv.Error) as error:
        raise StoreError(f"{path} is damaged: {error}") from error
    if "name" not in names:
        raise StoreError(f"{path} is damaged: it has no column 'name'")
    if any(None in row for row in rows):
        raise StoreError(f"{path} is damaged: a row has more values than there are columns")
    return [{key: value or "" for key, value in row.items()} for row in rows]


def _to_csv(rows: Sequence[Mapping[str, str]]) -> str:
    text = io.StringIO(newline="")
    columns = dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)])
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _as_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    return str(value)
