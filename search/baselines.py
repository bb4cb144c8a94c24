"""Networks from elsewhere, measured as a study measures its trials and, if asked, trained by its recipe on its data.

A network that cannot be built, measured or trained as asked says so in one line; the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from crossvit_core.baseline_flops import NetworkCount, count_network
from crossvit_core.baselines import PREFIX, BaselineError, Wanted, build_baseline, parse_timm_name
from crossvit_core.config import ArchConfig, ArchError, Size
from crossvit_core.cost import count_cost
from crossvit_core.device_info import device_id, free_memory
from crossvit_core.device_lock import DeviceLock
from crossvit_core.measure import measure_throughput
from crossvit_core.measure_latency import measure_latency
from crossvit_core.model import CrossViT, build_model
from crossvit_core.positions import with_image_size
from crossvit_core.recipe import TrainRecipe
from crossvit_core.train import DivergedError
from results.baselines import fold_accuracies
from results.store import StudyStore
from search.baseline_training import BaselineEpoch, Training, train_runs
from search.enqueue import load_arch
from search.outcomes import OUT_OF_MEMORY, first_line, is_memory_error
from search.plan import MeasurePlan

Watch = Callable[[BaselineEpoch], None]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all networks of one run are built for, and how they are measured."""

    wanted: Wanted = field(default_factory=Wanted)
    protocol: MeasurePlan = field(default_factory=MeasurePlan)
    amp: bool = False
    device: str = "cpu"
    runs_dir: Path


@dataclass(frozen=True)
class Found:
    """Columns of ``results.baselines`` that are now known of a network; or why there are no more, in one line."""

    name: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


def check_names(names: Sequence[str], runs_dir: Path) -> None:
    """Raise BaselineError, ArchError or StoreError for a name that means nothing, before anything is measured."""
    called: dict[str, str] = {}
    for name in names:
        if name.startswith(PREFIX):
            parse_timm_name(name)
        else:
            _load_ours(name, runs_dir)
        row = row_name(name)
        if (other := called.setdefault(row, name)) != name:
            raise BaselineError(f"{other} and {name} would both be called {row!r}; rename one")


def row_name(name: str) -> str:
    """What a network is called where it is drawn: a JSON file by its own name, without folders and suffix."""
    return Path(name).stem if name.endswith(".json") else name


def study_setting(study_dir: Path, device: str, pairs: int) -> Setting:
    """The images, classes, recipe and protocol of a study. Raises StoreError."""
    study = StudyStore.open_readonly(study_dir).study
    data, recipe = study["data"], TrainRecipe.from_dict(study["recipe"])
    height, width = data["image_size"]
    return Setting(
        wanted=Wanted((height, width), data["in_channels"], data["num_classes"], recipe.drop_path),
        protocol=replace(MeasurePlan.of_study(study), pairs=pairs),
        amp=recipe.amp,
        device=device,
        runs_dir=study_dir.parent,
    )


def bench_networks(
    names: Sequence[str], setting: Setting, training: Training | None = None, watch: Watch = lambda epoch: None
) -> Iterator[Found]:
    """Count and measure each network, then train what ``training`` still lacks; all of one before the next.

    Yields what is found as soon as it is, so that it can be kept; ``watch`` is told of every epoch. Nothing that a
    network does raises.
    """
    for name in dict.fromkeys(names):
        row = row_name(name)
        try:
            yield Found(row, _measured(name, setting))
            if training is not None:
                yield from _trained(name, setting, training, watch)
        except (ArchError, DivergedError) as error:
            yield Found(row, problem=str(error))
        except Exception as error:  # anybody's network, on anybody's device
            kind = f"{OUT_OF_MEMORY} on {setting.device}" if is_memory_error(error) else type(error).__name__
            yield Found(row, problem=f"{kind}: {first_line(error)}")
        free_memory(setting.device)


def _measured(name: str, setting: Setting) -> dict[str, Any]:
    torch.manual_seed(0)
    model, size = _build(name, setting)
    count = _count(model, size, setting.wanted.in_channels)
    common: dict[str, Any] = {
        "size": size,
        "in_channels": setting.wanted.in_channels,
        "device": setting.device,
        "amp": setting.amp,
        "lock": DeviceLock(setting.device),
    }
    plan = setting.protocol
    speed = measure_throughput(model, batch_size=plan.batch_size, pairs=plan.pairs, window_ms=plan.window_ms, **common)
    latency = measure_latency(model, **common)
    return {
        "macs": count.macs,
        "params": count.params,
        "throughput_ips": speed.ips,
        "throughput_iqr": speed.iqr,
        "throughput_ratio": speed.ratio,
        "latency_ms": latency.ms,
        "image_size": f"{size[0]}x{size[1]}",
        "device": device_id(setting.device),
        "note": "; ".join(filter(None, [count.note, ", ".join(speed.flags)])),
    }


def _trained(name: str, setting: Setting, training: Training, watch: Watch) -> Iterator[Found]:
    """One ``Found`` a run; those on record count and are not repeated."""
    row = row_name(name)
    for step in train_runs(row, lambda: _build(name, setting)[0], training, setting.device):
        if isinstance(step, BaselineEpoch):
            watch(step)
            continue
        for note in step.notes:
            yield Found(row, problem=f"{row}: {note}")
        yield Found(row, fold_accuracies(step.accuracies))


def _build(name: str, setting: Setting) -> tuple[nn.Module, Size]:
    """The network with random weights, and the size that it reads."""
    wanted = setting.wanted
    if name.startswith(PREFIX):
        return build_baseline(name, wanted)
    arch = _fitted(_load_ours(name, setting.runs_dir), name, wanted)
    return build_model(arch, drop_path_rate=wanted.drop_path), arch.size


def _count(model: nn.Module, size: Size, in_channels: int) -> NetworkCount:
    """In closed form where there is one: fvcore finds the same."""
    if not isinstance(model, CrossViT):
        return count_network(model, size, in_channels)
    cost = count_cost(model.arch)
    return NetworkCount(cost.params, cost.macs)


def _load_ours(name: str, runs_dir: Path) -> ArchConfig:
    try:
        return load_arch(name, runs_dir).check()
    except ArchError as error:
        raise BaselineError(f"{error}; a network of timm is written {PREFIX}NAME") from error


def _fitted(arch: ArchConfig, name: str, wanted: Wanted) -> ArchConfig:
    changed = arch.replace(in_channels=wanted.in_channels, num_classes=wanted.num_classes)
    try:
        return changed if wanted.size is None else with_image_size(changed, wanted.size).check()
    except ArchError as error:
        raise BaselineError(f"{name}: {error}") from error
