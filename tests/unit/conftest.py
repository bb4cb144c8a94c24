"""Small studies written by hand, through the real store, for the tests of the results."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from results.records import Asked, Finished, Rung, Status
from results.store import StudyStore

PRESETS = [
    {"name": "nano", "arch_key": "preset-nano", "macs": 100_000, "params": 9_000},
    {"name": "micro", "arch_key": "preset-micro", "macs": 400_000, "params": 30_000},
]

STUDY: dict[str, Any] = {
    "space": {"name": "small", "limits": {"macs": {"min": None, "max": 1_000_000}}},
    "data": {"name": "digits", "fingerprint": "ab", "splits": {"train": 1000, "val": 200, "test": 200}},
    "objectives": [
        {"metric": "val_accuracy", "direction": "max", "label": "validation accuracy"},
        {"metric": "macs", "direction": "min", "label": "FLOPs (multiply-adds)"},
    ],
    "trials": 8,
    "recipe": {"epochs": 2},
    "measure": {"batch_size": 32, "pairs": 60},
    "presets": PRESETS,
    "seed": 0,
}


def make_arch(fusion: str = "cross_attention", width: int = 16) -> dict[str, Any]:
    """An architecture's record, fields at their default left out."""
    branches = [
        {"image_size": 16, "patch_size": patch, "embed_dim": w, "num_heads": 2}
        for patch, w in ((4, width), (8, 2 * width))
    ]
    encoder = {"depths": [1, 2]} if fusion == "cross_attention" else {"depths": [1, 2], "fusion": fusion}
    return {"image_size": 16, "branches": branches, "encoders": [encoder, encoder]}


class StudyWriter:
    """Writes the trials of one study, each with the next number."""

    def __init__(self, path: Path, **changes: Any) -> None:
        self.path = path
        self.next_trial = 0
        self.store = StudyStore.create(path, {"name": path.name, **STUDY, **changes})
        self.store.write_json("environment.json", {"cpu": "a CPU", "cores": 2, "gpus": []})

    def ask(self, fusion: str = "cross_attention", key: str = "", source: str = "tpe") -> int:
        """A trial that is under way."""
        trial = self.next_trial
        self.next_trial += 1
        key = key or f"key{trial:05d}"
        self.store.append(Asked(trial=trial, arch_key=key, arch=make_arch(fusion), seed=trial, source=source))
        return trial

    def add(
        self,
        accuracy: float | None = None,
        macs: float | None = None,
        *,
        status: Status = "ok",
        fusion: str = "cross_attention",
        key: str = "",
        source: str = "tpe",
        error: str = "",
        rung: float | None = None,
        curve: tuple[float, ...] = (),
        **metrics: float,
    ) -> int:
        """A trial from its asking to its end."""
        trial = self.ask(fusion, key, source)
        if rung is not None:
            seen = {"val_accuracy": rung}
            decision = "stop" if status == "stopped" else "continue"
            self.store.append(Rung(trial=trial, epoch=1, metrics=seen, decision=decision))  # type: ignore[arg-type]
        known = {"val_accuracy": accuracy, "macs": macs, "params": None if macs is None else macs / 10, **metrics}
        self.store.append(
            Finished(
                trial=trial,
                status=status,
                arch_key=key or f"key{trial:05d}",
                arch=make_arch(fusion),
                seed=trial,
                seconds=2.0,
                device="cpu",
                metrics={name: value for name, value in known.items() if value is not None},
                error=error,
            )
        )
        self.write_curve(trial, curve)
        return trial

    def write_curve(self, trial: int, accuracies: tuple[float, ...]) -> None:
        if accuracies:
            folder = self.store.trial_dir(trial)
            folder.mkdir(parents=True)
            lines = (json.dumps({"epoch": i, "val_accuracy": a}) + "\n" for i, a in enumerate(accuracies, start=1))
            (folder / "curve.jsonl").write_text("".join(lines), encoding="utf-8")


@pytest.fixture
def new_study(tmp_path: Path) -> Iterator[Callable[..., StudyWriter]]:
    """Makes an empty study of a name; keywords change what study.json says."""
    with contextlib.ExitStack() as opened:

        def make(name: str = "s", **changes: Any) -> StudyWriter:
            writer = StudyWriter(tmp_path / name, **changes)
            opened.callback(writer.store.close)
            return writer

        yield make


@pytest.fixture
def typical_study(new_study: Callable[..., StudyWriter]) -> StudyWriter:
    """Three on the front (0, 2, 3), one dominated, a tie, and one of every other end; one still under way."""
    study = new_study()
    study.add(0.80, 100_000, key="preset-nano", source="preset:nano", curve=(0.5, 0.8), throughput_ips=9000.0)
    study.add(0.79, 120_000, fusion="none", throughput_ips=9500.0, throughput_iqr=190.0)
    study.add(0.90, 200_000, fusion="pairwise", curve=(0.6, 0.9), throughput_ips=5000.0)
    study.add(0.95, 800_000, rung=0.5, curve=(0.5, 0.95), throughput_ips=1000.0)
    study.add(0.95, 900_000, fusion="class_token", throughput_ips=900.0)
    study.add(0.99, 50_000, status="stopped", rung=0.99)
    study.add(None, 2_000_000, status="infeasible", error="macs 2 M over 1 M")
    study.add(status="failed", error="DivergedError: the loss is no longer finite")
    study.add(status="lost", error="the worker died")
    study.ask()
    return study
