"""Timing the front of a study again, alone and longer: the throughput to quote."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from crossvit_core.config import ArchConfig
from crossvit_core.device_info import describe_device
from crossvit_core.device_lock import DeviceLock
from crossvit_core.measure import Throughput, measure_throughput
from crossvit_core.model import build_model
from crossvit_core.recipe import TrainRecipe
from results.described import primary_cost
from results.frame import front, load_frame
from results.records import Asked
from results.store import StoreError, StudyStore
from search.plan import MeasurePlan

PAIRS = 200


@dataclass(frozen=True)
class Timing:
    """One member of the front, timed again."""

    trial: int
    arch_key: str
    val_accuracy: float
    macs: int
    throughput: Throughput


def time_front(
    study_dir: Path, device: str, pairs: int = PAIRS, tell: Callable[[str], None] = lambda where: None
) -> Iterator[Timing]:
    """Time the members of the fronts (FLOPs, throughput, the study's own cost) one after the other.

    ``tell`` hears which one is next. Raises StoreError for an empty front.
    """
    frame, study = load_frame(study_dir), StudyStore.open_readonly(study_dir).study
    costs = ("macs", "throughput_ips", primary_cost(study))
    trials = sorted({trial for cost in costs for trial in front(frame, cost)["trial"]})
    if not trials:
        raise StoreError(f"study {study_dir.name!r} has no finished trial to time")
    archs, protocol = _archs(study_dir, set(trials)), MeasurePlan.of_study(study)
    rows = frame[frame["trial"].isin(trials)].sort_values("macs").to_dict("records")
    for number, row in enumerate(rows, 1):
        tell(f"timing trial {row['trial']}, {number} of {len(rows)}")
        arch = archs[row["trial"]]
        torch.manual_seed(0)
        throughput = measure_throughput(
            build_model(arch).to(device),
            size=arch.size,
            in_channels=arch.in_channels,
            batch_size=protocol.batch_size,
            device=device,
            pairs=pairs,
            window_ms=protocol.window_ms,
            amp=TrainRecipe.from_dict(study["recipe"]).amp,
            lock=DeviceLock(device),
        )
        yield Timing(row["trial"], row["arch_key"], row["val_accuracy"], int(row["macs"]), throughput)


def save_timings(study_dir: Path, timings: list[Timing], device: str) -> Path:
    """Write bench.json, with the device, into the study's folder."""
    content = {"device": describe_device(device), "timings": [_row(timing) for timing in timings]}
    with StudyStore.open(study_dir) as store:
        store.write_json("bench.json", content)
    return study_dir / "bench.json"


def _row(timing: Timing) -> dict[str, Any]:
    row = {name: value for name, value in vars(timing).items() if name != "throughput"}
    return row | asdict(timing.throughput)


def _archs(study_dir: Path, trials: Container[int]) -> dict[int, ArchConfig]:
    asked = (event for event in StudyStore.open_readonly(study_dir).events() if isinstance(event, Asked))
    return {event.trial: ArchConfig.from_dict(event.arch) for event in asked if event.trial in trials}
