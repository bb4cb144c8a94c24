"""Quantised points of a trial that was retrained since: never those of two networks as one list."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from results.findings import load_findings
from results.quantization import QuantizedPoint, append_point, latest_points, load_quantized, trial_folder
from results.quantization import weights_digest as digest
from results.report import write_report

POINT: dict[str, Any] = {
    "trial": 2, "arch_key": "key00002", "method": "base", "precision": "single", "kl": 0.01, "weight_bits": 8.0,
    "activation_bits": 8.0, "mean_bits": 8.0, "model_bytes": 1000, "num_val_images": 200, "calibration_images": 128,
    "alpha": 0.0, "rho": 0.0, "device": "cpu", "torch": "2", "seconds": 1.0,
}  # fmt: skip


def add(study_dir: Path, weights: str, bits: float, accuracy: float, **changes: Any) -> None:
    full = {"method": "none", "precision": "full", "calibration_images": 0} if bits == 32 else {}
    found = {"weights": weights, "bits": bits, "val_accuracy": accuracy, "bit_operations": int(1e6 * bits**2)}
    point = QuantizedPoint(**{**POINT, **full, **found, **changes})
    append_point(trial_folder(study_dir, point.trial), point)


@pytest.fixture
def quantised_twice(typical_study: Any, new_study: Any) -> Path:
    """Trial 2 quantised with the weights of the search, retrained, quantised again."""
    folder: Path = typical_study.path
    kept = folder / "trials" / "00002" / "weights.safetensors"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(b"of the search")
    add(folder, digest(kept), 32, 0.90)
    add(folder, digest(kept), 8, 0.895)
    new_study("s-retrain", retrain_of="s").add(0.85, 200_000, key="key00002")
    add(folder, "sha256-again", 32, 0.85)
    add(folder, "sha256-again", 8, 0.84)
    return folder


def listed(study_dir: Path) -> list[list[str]]:
    """Trial, weights, method, bits and accuracy of each row of the report's section."""
    page = write_report(study_dir).read_text(encoding="utf-8")
    section = page[page.index("Fewer bits") : page.index("How the search went")]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", section)
    return [cells[start : start + 5] for start in range(0, len(cells), 7)]


def test_only_the_weights_that_were_quantised_last_are_listed(quantised_twice: Path) -> None:
    assert listed(quantised_twice) == [
        ["2", "retrained", "symmetric", "8", "84.0 %"],
        ["2", "retrained", "full precision", "32", "85.0 %"],
    ]


def test_the_weights_of_the_search_are_named_so_also_beside_a_retraining(typical_study: Any, new_study: Any) -> None:
    kept = typical_study.path / "trials" / "00002" / "weights.safetensors"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(b"of the search")
    new_study("s-retrain", retrain_of="s").add(0.85, 200_000, key="key00003")
    add(typical_study.path, digest(kept), 32, 0.90)
    add(typical_study.path, digest(kept), 8, 0.89)
    assert set(load_findings(typical_study.path).quantized["origin"]) == {"search"}


def test_points_calibrated_in_another_way_are_no_part_of_the_list(typical_study: Any) -> None:
    folder = typical_study.path
    add(folder, "sha256-1", 32, 0.90)
    add(folder, "sha256-1", 8, 0.87, calibration_images=16)
    add(folder, "sha256-1", 8, 0.89)
    kept = latest_points(load_quantized(folder))
    assert kept[["bits", "calibration_images"]].values.tolist() == [[32, 0], [8, 128]]


def test_a_study_without_points_stays_without(typical_study: Any) -> None:
    assert load_findings(typical_study.path).quantized.empty
