"""How the numbers of a report came about, on what, and what they do not say."""

from __future__ import annotations

import math
from typing import Any

from results.described import mapping, validation_images
from results.epochs import describe_epochs
from results.findings import Findings
from results.metrics import ACCURACY
from results.page import bullet_list, fields_table, folded, paragraph, section
from results.repeats import RUNS
from results.report_decision import decision_caution
from results.report_timing import timing_caution
from results.units import duration, percent, plural


def measurement(findings: Findings) -> str:
    """How the numbers came about, and on what."""
    study = findings.study
    known = {"presets", "measure", "recipe", "space", "data", "stopping", "objectives"}
    rest = {name: value for name, value in study.items() if name not in known}
    text = (
        "FLOPs are multiply-adds, counted from the architecture in closed form, as are parameters. Accuracy is the "
        "share of validation images classified correctly by the trained network. Throughput is the median over several "
        "timed windows after warm-up, with its interquartile range."
    )
    return section(
        "How the numbers were measured",
        paragraph(text),
        fields_table(_at_a_glance(findings)),
        folded("Throughput protocol", fields_table(mapping(study.get("measure")))),
        folded("Machine and versions", fields_table(findings.environment)),
        folded("Data", fields_table(mapping(study.get("data")))),
        folded("Training recipe", fields_table(mapping(study.get("recipe")))),
        folded("Early stopping", fields_table(mapping(study.get("stopping")))),
        folded("Space", fields_table(mapping(study.get("space")))),
        folded("Study", fields_table(rest)),
    )


def _at_a_glance(findings: Findings) -> dict[str, Any]:
    """What must be the same for two numbers to be compared; what is not on record is left out."""
    study, environment, frame = findings.study, findings.environment, findings.frame
    data, recipe, stopping = (mapping(study.get(name)) for name in ("data", "recipe", "stopping"))
    versions = mapping(environment.get("packages"))
    finished = frame.loc[frame["order"] >= 0]
    rows = {
        "device": sorted({name for name in frame["device"] if name}),
        "machine": [name for name in (environment.get("cpu"), *(environment.get("gpus") or [])) if name],
        "versions": [f"{name} {version}" for name, version in versions.items()],
        "commit": environment.get("commit"),
        "command": environment.get("command"),
        "seed": study.get("seed"),
        "searcher": study.get("sampler"),
        "data": f"{data.get('name', '?')}, fingerprint {data.get('fingerprint', '?')}" if data else None,
        "recipe": f"{recipe['epochs']} epochs, in full below" if "epochs" in recipe else None,
        "stopping rule": stopping.get("rule"),
        "time": _time_text(finished["study_seconds"].max(), finished["seconds"].sum()) if len(finished) else None,
        "end": findings.ended,
    }
    return {name: value for name, value in rows.items() if value not in (None, "", [])}


def _time_text(wall_seconds: float, device_seconds: float) -> str:
    wall = f"{duration(wall_seconds)} by the clock, " if math.isfinite(wall_seconds) else ""
    return f"{wall}{duration(device_seconds)} of trials"


def caveats(findings: Findings) -> str:
    """What these numbers do not say."""
    items = [
        f"Accuracies are on the validation split, which the search itself used to choose{_chance_error(findings)}. "
        f"The test split {'was ' + findings.look.describe() if findings.look else 'has not been looked at'}.",
        _luck_text(findings),
        timing_caution(findings),
        _recipe_text(findings),
    ]
    return section("Read with care", bullet_list(items)) if len(findings.frame) else ""


def _luck_text(findings: Findings) -> str:
    repeats = _repeats_text(findings)
    if findings.decision is not None:
        return f"{decision_caution(findings.decision)} {repeats}"
    return (
        "The best of many is flattered by luck: expect the top of the front to lose a little when it is trained again. "
        f"{repeats} Retrain the finalists over several seeds before deciding."
    )


def _recipe_text(findings: Findings) -> str:
    epochs = describe_epochs(findings.study_dir) if findings.decision is not None else ""
    if epochs:
        return f"All architectures of the search share one recipe, and so do those trained again: {epochs}"
    return "All architectures share one short recipe. A longer one may change their order."


def _repeats_text(findings: Findings) -> str:
    if not findings.has_repeats:
        searched = "In the search, each" if findings.decision is not None else "Each"
        return f"{searched} architecture was trained once, with one seed."
    runs = findings.points.loc[findings.points["status"] == "ok", RUNS]
    most_once = (runs == 1).sum() > len(runs) / 2
    which = "; most were trained once" if most_once else f": {runs.sum():,} runs of {plural(len(runs), 'architecture')}"
    return f"Where an architecture was trained more than once, its mean counts{which}."


def _chance_error(findings: Findings) -> str:
    count = validation_images(findings.study)
    if findings.members.empty or not count:
        return ""
    decision = findings.decision
    best = decision.suggested.again.mean if decision else float(findings.members[ACCURACY].max())
    error = math.sqrt(best * (1 - best) / count)
    points = f"one image is {100 / count:.2g} points"
    spread = f", and chance alone moves {percent(best)} by about {100 * error:.2g} points" if error else ""
    return f" ({count:,} images: {points}{spread})"
