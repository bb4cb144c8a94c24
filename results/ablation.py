"""What an ablation found: each variant's trainings, and how far they differ from the reference's on the same seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from results.ablation_record import COMPONENT, FUSION, SOURCE_PREFIX
from results.architecture import FUSION_LABELS
from results.findings import validation_images
from results.frame import build_frame
from results.metrics import ACCURACY
from results.statistics import ALPHA, detectable_difference, holm, paired_test, seeds_needed
from results.store import StoreError, StudyStore

REFERENCE, BETTER, WORSE, ALIKE, TOO_FEW = "reference", "better", "worse", "not distinguishable", "too few pairs"


class PaperRow(NamedTuple):
    """A row of the paper's Table 6: CrossViT-S on ImageNet-1k. Accuracies in percent, giga multiply-adds, millions."""

    top1: float
    gmacs: float
    mparams: float
    top1_branches: tuple[float, float]


class Comparison(NamedTuple):
    """A variant against the reference, as fractions. ``p_holm`` is corrected for all comparisons of the ablation.

    ``enough_seeds`` would find a difference like the one seen with 80 % power after the correction (None: more than a
    thousand, or none seen); ``detectable`` is what ``n`` seeds find so. Numbers are NaN for the reference and without
    two pairs.
    """

    n: int
    verdict: str
    difference: float = math.nan
    sd: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    p_holm: float = math.nan
    enough_seeds: int | None = None
    detectable: float = math.nan


class VariantResult(NamedTuple):
    """``accuracies`` and ``losses`` by seed; ``branches`` is the mean accuracy of each branch alone, if it was scored.

    ``ips`` is the median over seeds; ``ips_iqr`` the interquartile range within a trial or over seeds, the larger.
    """

    name: str
    label: str
    accuracies: dict[str, float]
    losses: dict[str, float]
    mean: float
    sd: float
    branches: tuple[float, ...]
    macs: float
    params: float
    ips: float
    ips_iqr: float
    widths: str
    comparison: Comparison
    differences: dict[str, float]
    paper: PaperRow | None


class AblationFindings(NamedTuple):
    """All that the page and the tables tell of. ``step`` is one validation image as a fraction."""

    study_dir: Path
    study: dict[str, Any]
    environment: dict[str, Any]
    frame: pd.DataFrame
    dimension: str
    reference: str
    match: str
    step: float
    results: list[VariantResult]

    @property
    def is_of_fusion(self) -> bool:
        return self.dimension == FUSION

    @property
    def compared(self) -> list[VariantResult]:
        """The variants that were held against the reference."""
        return [result for result in self.results if math.isfinite(result.comparison.p)]

    @property
    def reference_label(self) -> str:
        return next(result.label for result in self.results if result.name == self.reference)


def load_ablation(study_dir: Path) -> AblationFindings:
    """Read an ablation's records, at any time. Raises StoreError if there is none."""
    store = StudyStore.open_readonly(study_dir)
    study, frame = store.study, build_frame(store.events())
    ablated = study.get("ablation")
    if not isinstance(ablated, Mapping):
        raise StoreError(f"study {study_dir.name!r} is no ablation; make one with crossvit ablate")
    reference, step = str(ablated["reference"]), _step(study)
    rows = {str(v["name"]): frame[frame["source"] == SOURCE_PREFIX + str(v["name"])] for v in ablated["variants"]}
    accuracies = {name: _by_seed(trials, ACCURACY) for name, trials in rows.items()}
    comparisons = compare(accuracies, reference, step)
    results = [
        _variant_result(variant, rows[name], accuracies, comparisons[name], reference, str(ablated["dimension"]))
        for name, variant in ((str(v["name"]), v) for v in ablated["variants"])
    ]
    about = (str(ablated["dimension"]), reference, str(ablated["match"]))
    return AblationFindings(study_dir, study, store.environment, frame, *about, step, results)


def compare(accuracies: Mapping[str, Mapping[str, float]], reference: str, step: float) -> dict[str, Comparison]:
    """Every variant against the reference on the seeds that both have; the family of comparisons is corrected by Holm.

    ``accuracies`` are fractions by variant and seed, ``step`` is one image of the split that they were scored on.
    """
    pairs = {name: paired_differences(own, accuracies[reference]) for name, own in accuracies.items()}
    tests = {
        name: paired_test(list(found.values()), resolution=step)
        for name, found in pairs.items()
        if name != reference and len(found) >= 2
    }
    corrected = dict(zip(tests, holm([float(test.p) for test in tests.values()]).tolist())) if tests else {}
    out: dict[str, Comparison] = {}
    for name, found in pairs.items():
        if name not in tests:
            out[name] = Comparison(len(found), REFERENCE if name == reference else TOO_FEW)
            continue
        test, p_holm = tests[name], corrected[name]
        mean, sd, low, high, p = (float(value) for value in test[1:])
        verdict = ALIKE if p_holm >= ALPHA else BETTER if mean > 0 else WORSE
        alpha = ALPHA / len(tests)  # what Holm asks of the first of them: enough for any
        plan = (seeds_needed(mean, sd, alpha), detectable_difference(sd, test.n, alpha))
        out[name] = Comparison(test.n, verdict, mean, sd, low, high, p, p_holm, *plan)
    return out


def paired_differences(own: Mapping[str, float], reference: Mapping[str, float]) -> dict[str, float]:
    """Own less reference for every seed that both have."""
    return {seed: value - reference[seed] for seed, value in own.items() if seed in reference}


def twins(results: Sequence[VariantResult]) -> list[tuple[str, str]]:
    """Pairs of variants whose trainings ended with equal accuracy and equal loss on every seed: one function."""
    pairs = [(a, b) for index, a in enumerate(results) for b in results[index + 1 :]]
    return [(a.label, b.label) for a, b in pairs if a.losses and (a.accuracies, a.losses) == (b.accuracies, b.losses)]


def _variant_result(
    variant: Mapping[str, Any],
    trials: pd.DataFrame,
    accuracies: Mapping[str, Mapping[str, float]],
    comparison: Comparison,
    reference: str,
    dimension: str,
) -> VariantResult:
    name = str(variant["name"])
    own = accuracies[name]
    done = trials[trials["status"] == "ok"]
    values = np.array(list(own.values()))
    ips, ips_iqr = _throughput(done)
    return VariantResult(
        name=name,
        label=_label(dimension, name),
        accuracies=dict(own),
        losses=_by_seed(trials, "val_loss"),
        mean=float(values.mean()) if len(values) else math.nan,
        sd=float(values.std(ddof=1)) if len(values) > 1 else math.nan,
        branches=_branch_means(done),
        macs=float(variant["macs"]),
        params=float(variant["params"]),
        ips=ips,
        ips_iqr=ips_iqr,
        widths=str(trials["widths"].iloc[0]) if len(trials) else "",
        comparison=comparison,
        differences=paired_differences(own, accuracies[reference]),
        paper=PAPER_TABLE_6.get(name) if dimension == FUSION else None,
    )


def _label(dimension: str, name: str) -> str:
    """'cross-attention', 'patch_size 4': a bare number would say nothing in a sentence."""
    if dimension == FUSION:
        return FUSION_LABELS.get(name, name)
    if dimension == COMPONENT:
        return name.replace("_", " ")
    return f"{dimension.rpartition('.')[2]} {name}"


def _by_seed(trials: pd.DataFrame, column: str) -> dict[str, float]:
    done = trials[(trials["status"] == "ok") & np.isfinite(trials[column].to_numpy(dtype=float))]
    return {str(seed): float(value) for seed, value in zip(done["seed"], done[column])}


def _branch_means(done: pd.DataFrame) -> tuple[float, ...]:
    columns = sorted(name for name in done.columns if name.startswith("val_accuracy_branch_"))
    return tuple(float(done[name].mean()) for name in columns) if len(done) else ()


def _throughput(done: pd.DataFrame) -> tuple[float, float]:
    speeds = done["throughput_ips"].to_numpy(dtype=float)
    speeds = speeds[np.isfinite(speeds)]
    if not len(speeds):
        return math.nan, math.nan
    between = float(np.subtract(*np.percentile(speeds, (75, 25))))
    within = float(np.nan_to_num(done["throughput_iqr"].median()))
    return float(np.median(speeds)), max(between, within)


def _step(study: Mapping[str, Any]) -> float:
    count = validation_images(study)
    return 1 / count if count else 0.0


PAPER_SOURCE = "CrossViT (arXiv 2103.14899), Table 6: CrossViT-S on ImageNet-1k, one training each"

# Branches as ours: 0 is the small-patch branch, the paper's S; 1 its L.
PAPER_TABLE_6: dict[str, PaperRow] = {
    "none": PaperRow(80.2, 5.3, 23.7, (0.1, 80.2)),
    "all_attention": PaperRow(80.0, 7.6, 27.7, (0.5, 79.9)),
    "class_token": PaperRow(80.3, 5.4, 24.2, (7.6, 80.6)),
    "pairwise": PaperRow(80.3, 5.5, 24.2, (7.3, 80.3)),
    "cross_attention": PaperRow(81.0, 5.6, 26.7, (47.2, 68.1)),
}
