"""What quantising a trial showed: one line of JSON a point, from which every table and plot is made again.

A trial's points lie in ``<study>/quantized/<trial>/points.jsonl``. They are simulated: an accuracy at certain bits,
never a speed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from results.metrics import ACCURACY
from results.pareto import minimised, pareto_mask
from results.repeats import find_retraining
from results.store import TRIALS_FOLDER, WEIGHTS_FILE, WriteError, trial_name

FOLDER, POINTS_FILE = "quantized", "points.jsonl"
FULL, SINGLE, MIXED = "full", "single", "mixed"
COSTS = ("bit_operations", "model_bytes")
FULL_BITS = 32
SEARCH, RETRAINED = "search", "retrained"
_SETTINGS = ("calibration_images", "alpha", "rho")


@dataclass(frozen=True)
class QuantizedPoint:
    """One measured point.

    ``precision``: "full", "single" (all tensors at ``bits``, patch embeddings and heads at 8) or "mixed" (their mean
    at most ``bits``, chosen tensor by tensor: ``assignment``). ``kl``: divergence from the full-precision class
    probabilities on the validation split, mean per image. ``weight_bits``, ``activation_bits`` and ``mean_bits`` are
    weighted by elements, of weights, of one image's activations, of both. ``bit_operations``: the sum of multiply-adds
    x bits x bits, of one image. ``weights`` is the digest of the weights file.
    """

    trial: int
    arch_key: str
    method: str
    precision: str
    bits: float
    val_accuracy: float
    kl: float
    weight_bits: float
    activation_bits: float
    mean_bits: float
    model_bytes: int
    bit_operations: int
    num_val_images: int
    weights: str
    calibration_images: int
    alpha: float
    rho: float
    device: str
    torch: str
    seconds: float
    assignment: dict[str, int] = field(default_factory=dict)

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for two points that answer the same question."""
        asked = (self.weights, self.method, self.precision, self.bits, self.calibration_images, self.alpha, self.rho)
        return self.trial, *asked


def trial_folder(study_dir: Path, trial: int) -> Path:
    """Where a trial's points lie."""
    return study_dir / FOLDER / trial_name(trial)


def append_point(folder: Path, point: QuantizedPoint) -> None:
    """Add a point; it is on the disk on return. Raises WriteError."""
    line = json.dumps(asdict(point), separators=(",", ":"), allow_nan=False).encode() + b"\n"
    path = folder / POINTS_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # What a writer that was killed left without an end must not swallow this line.
        torn = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
        with open(path, "ab") as file:
            file.write(b"\n" + line if torn else line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise WriteError(f"cannot write to {path}: {error.strerror or error}") from error


def read_points(folder: Path) -> list[QuantizedPoint]:
    """A trial's points in the order of measuring, each question once with its last answer; a torn line is dropped."""
    path = folder / POINTS_FILE
    if not path.is_file():
        return []
    return list({point.key: point for point in _parse(path)}.values())


def load_quantized(study_dir: Path) -> pd.DataFrame:
    """All points of a study, one row each with the fields of ``QuantizedPoint`` but the assignment; maybe none."""
    folders = sorted((study_dir / FOLDER).glob("[0-9]*"))
    return to_frame([point for folder in folders for point in read_points(folder)])


def to_frame(points: list[QuantizedPoint]) -> pd.DataFrame:
    """One row a point."""
    columns = [name for name in QuantizedPoint.__dataclass_fields__ if name != "assignment"]
    return pd.DataFrame([{name: getattr(point, name) for name in columns} for point in points], columns=columns)


def comparable(points: pd.DataFrame, weights: str, settings: Mapping[str, float]) -> pd.DataFrame:
    """The points of these weights that were calibrated so, where it matters: full precision first, most bits first.

    ``settings`` are values of the columns ``calibration_images``, ``alpha`` and ``rho``.
    """
    alike = points["weights"] == weights
    for name, value in settings.items():
        alike &= points[name].isin([0, value])
    rank = points["precision"].map({FULL: 0, SINGLE: 1, MIXED: 2})
    order = points.assign(rank=rank, fewest=-points["bits"])[alike].sort_values(["rank", "method", "fewest"])
    return points.loc[order.index]


def latest_points(points: pd.DataFrame) -> pd.DataFrame:
    """Of each trial the points of the weights that were quantised last, calibrated as they were last.

    A trial that was retrained since has points of two networks: as one list, they would be a network that is not there.
    """
    kept = [_latest_of_trial(rows) for _, rows in points.groupby("trial", sort=False)]
    return pd.concat(kept, ignore_index=True) if kept else points


def _latest_of_trial(rows: pd.DataFrame) -> pd.DataFrame:
    weights = str(rows["weights"].iloc[-1])
    alike = rows[rows["weights"] == weights]
    # 0 stands where a setting does not matter.
    last = {name: next(iter(alike.loc[alike[name] != 0, name].tolist()[::-1]), 0) for name in _SETTINGS}
    return comparable(rows, weights, last)


def weights_digest(path: Path) -> str:
    """What tells one file of weights from another in the points."""
    return f"sha256-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


def add_origin(points: pd.DataFrame, study_dir: Path) -> pd.DataFrame:
    """The points with a column ``origin``: "search" for the weights that the trial kept there, else "retrained"."""
    found = {pair: _origin(study_dir, *pair) for pair in set(zip(points["trial"], points["weights"]))}
    return points.assign(origin=[found[pair] for pair in zip(points["trial"], points["weights"])])


def _origin(study_dir: Path, trial: int, weights: str) -> str:
    """A study without a retraining has but one; deleted files of weights are taken for what the points are not of."""
    if find_retraining(study_dir) is None:
        return SEARCH
    own = study_dir / TRIALS_FOLDER / trial_name(trial) / WEIGHTS_FILE
    return SEARCH if own.is_file() and weights_digest(own) == weights else RETRAINED


def deployment_candidates(points: pd.DataFrame, cost: str = "bit_operations") -> pd.DataFrame:
    """The points that no other beats in accuracy and cost ("bit_operations" or "model_bytes"), cheapest first.

    Full precision takes part, at 32 bits. Raises ValueError for another cost.
    """
    if cost not in COSTS:
        raise ValueError(f"no candidates by {cost!r}; known: {', '.join(COSTS)}")
    if points.empty:
        return points
    values = minimised(points[[ACCURACY, cost]].to_numpy(dtype=float), (True, False))
    return points[np.asarray(pareto_mask(values))].sort_values([cost, "trial", "method"], kind="stable")


def beside(members: pd.DataFrame, quantized: pd.DataFrame) -> pd.DataFrame:
    """The members of a front that may stand beside quantised points (with ``origin``), as ``full_precision`` has them.

    A quantised trial has a point at full precision of its own. Beside retrained weights the search's accuracies are
    flattered by luck, so none of them is shown.
    """
    if (quantized["origin"] == RETRAINED).any():
        return full_precision(members.iloc[:0])
    measured = quantized.loc[quantized["precision"] == FULL, "trial"]
    return full_precision(members[~members["trial"].isin(measured)])


def full_precision(members: pd.DataFrame) -> pd.DataFrame:
    """Trials of a study as points at 32 bits, so that they can stand beside quantised ones: trial, accuracy, costs."""
    return pd.DataFrame(
        {
            "trial": members["trial"],
            "arch_key": members["arch_key"],
            "method": "none",
            "precision": FULL,
            "bits": float(FULL_BITS),
            ACCURACY: members[ACCURACY],
            "bit_operations": members["macs"] * FULL_BITS**2,
            "model_bytes": members["params"] * FULL_BITS // 8,
            "origin": SEARCH,
        }
    )


def _parse(path: Path) -> Iterator[QuantizedPoint]:
    for line in path.read_bytes().splitlines():
        try:
            point = QuantizedPoint(**json.loads(line))
        except (ValueError, TypeError):
            continue
        if math.isfinite(point.val_accuracy):
            yield point
