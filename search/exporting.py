"""From a trial of a study to a verified file: its kept weights, its data's validation images, the file re-timed."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from crossvit_core.artefact import ExportError, describe
from crossvit_core.atomic_file import write_atomically
from crossvit_core.data import ImageData
from crossvit_core.device_info import describe_device
from crossvit_core.export import Exported, ExportFormat, export_model, find_format, time_runner
from crossvit_core.measure import Throughput
from crossvit_core.model import CrossViT
from crossvit_core.train import open_split
from crossvit_core.weights import WeightsError, load_model
from results.store import StudyStore, trial_name
from search.plan import MeasurePlan
from search.study_data import open_study_data
from search.trained import Trained, find_trained

_LARGEST_SAMPLE = 512  # validation images; more would only take longer


@dataclass(frozen=True)
class TrialExport:
    """A verified file, where its weights come from, and how fast file and network are, each on one CPU thread."""

    exported: Exported
    trained: Trained
    format_name: str
    speed: Throughput
    network_speed: Throughput


def export_trial(
    study_dir: Path,
    trial: int,
    format_name: str,
    out: Path | None = None,
    *,
    force: bool = False,
    origin: str = "auto",
    pairs: int = 60,
    moved_to: str | None = None,
) -> TrialExport:
    """Export a trial of a study to ``out`` (without it, into the study's folder) and time the file.

    ``origin`` as in ``find_trained``, ``moved_to`` as in ``open_study_data``. What was measured is written beside the
    file, as ``<out>.json``. Raises ExportError, DataError, StoreError; MismatchError for a file that differs from the
    network.
    """
    form = find_format(format_name)
    form.check()
    trained = find_trained(study_dir, trial, origin)
    study = StudyStore.open_readonly(study_dir).study
    data = open_study_data(study_dir, moved_to)
    model = _load(trained)
    dataset = {"name": Path(data.name).name, "fingerprint": data.fingerprint}
    source = {**trained.describe(), "asked_study": study_dir.name, "asked_trial": trial, "data": dataset}
    about = describe(trained.arch, mean=data.mean, std=data.std, class_names=data.class_names, source=source)
    target = _target(study_dir, trial, format_name, form, out)
    exported = export_model(model, target, form, about, validation_images(data), force=force)
    batch_size = MeasurePlan.of_study(study).batch_size
    speeds = [time_runner(run, about, batch_size=batch_size, pairs=pairs) for run in (form.open(exported.path), model)]
    outcome = TrialExport(exported, trained, format_name, speeds[0], speeds[1])
    _write_report(outcome)
    return outcome


def validation_images(data: ImageData) -> Tensor:
    """Validation images as the network reads them, (N, C, H, W), evenly from all of the split."""
    split = open_split(data, "val", "cpu")
    every = max(1, -(-len(split) // _LARGEST_SAMPLE))
    images, _ = split.batch(split.rows[::every])
    return images


def _load(trained: Trained) -> CrossViT:
    try:
        return load_model(trained.weights, trained.arch).float()
    except WeightsError as error:
        raise ExportError(str(error)) from error


def _target(study_dir: Path, trial: int, format_name: str, form: ExportFormat, out: Path | None) -> Path:
    kind = ".timm" if format_name == "timm" else ""
    default = f"{study_dir.name}-{trial_name(trial)}{kind}{form.suffix}"
    if out is None:
        return study_dir / "export" / default
    return out / default if out.is_dir() else out


def _write_report(outcome: TrialExport) -> None:
    exported = outcome.exported
    content = {
        "format": outcome.format_name,
        "about": exported.about,
        "tolerance": exported.tolerance,
        "agreements": [dataclasses.asdict(each) for each in exported.agreements],
        "throughput": dataclasses.asdict(outcome.speed),
        "network_throughput": dataclasses.asdict(outcome.network_speed),
        "device": describe_device("cpu"),
        "threads": torch.get_num_threads(),
    }
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(exported.path.with_name(f"{exported.path.name}.json"), text.encode())
