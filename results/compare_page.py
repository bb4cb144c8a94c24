"""The page of a comparison: ``results/runs/compare-.../index.html``."""

from __future__ import annotations

import math
from pathlib import Path

from results.compare import REFERENCE_FILE, Comparison, Run, encode_reference
from results.compare_data import use_same_images
from results.compare_verdict import differing_settings, verdict
from results.frame import RUNNING
from results.metrics import ACCURACY
from results.page import bullet_list, escape, figure, page, paragraph, section, table
from results.plots_compare import comparison_figures, corner_text
from results.report import write_files
from results.units import duration, percent

MAX_SETTINGS = 40


def write_comparison(comparison: Comparison) -> Path:
    """Write the page that sets studies side by side, and the corner its volumes are measured from; returns the page.

    The corner is kept: made again when the studies have grown, the page measures from the same one. While nothing has
    been trained there is none to keep. Raises WriteError if the folder cannot be written.
    """
    files = {"index.html": build_comparison(comparison)}
    if any(not run.members.empty for run in comparison.runs):
        files[REFERENCE_FILE] = encode_reference(comparison)
    return write_files(comparison.folder, files) / "index.html"


def build_comparison(comparison: Comparison) -> str:
    """The page as one text."""
    names = ", ".join(run.name for run in comparison.runs)
    header = f'<header><p class="eyebrow">CrossViT architecture search</p><h1>{escape(names)}</h1></header>\n'
    figures = "".join(figure(one.name, one.figure, one.title, one.caption) for one in comparison_figures(comparison))
    summary = section("Side by side", _summary(comparison), figures)
    parts = (_headline(comparison), summary, _differences(comparison), _caveats(comparison))
    return page(f"Comparison of {names}", header, *parts)


def _headline(comparison: Comparison) -> str:
    running = [run.name for run in comparison.runs if (run.findings.frame["status"] == RUNNING).any()]
    empty = [run.name for run in comparison.runs if run.members.empty]
    notes = [
        f"Still without all outcomes (running, or interrupted): {', '.join(running)}." if running else "",
        f"Without a trained architecture, so missing from the plots: {', '.join(empty)}." if empty else "",
    ]
    told = paragraph(" ".join(verdict(comparison)), "headline") if verdict(comparison) else ""
    return told + "".join(paragraph(note, "notice") for note in notes if note)


def _differences(comparison: Comparison) -> str:
    """Whatever the studies were not asked for alike: a difference between them may come from any of it."""
    rows = differing_settings(comparison)
    names = [run.name for run in comparison.runs]
    if not rows:
        return section("What differs", paragraph("No setting: the studies were asked for alike, their seed included."))
    shown = [(name.replace("_", " "), *values) for name, *values in rows[:MAX_SETTINGS]]
    more = f"{len(rows) - MAX_SETTINGS:,} further settings differ." if len(rows) > MAX_SETTINGS else ""
    listing = table(("setting", *names), (False,) * (1 + len(names)), shown, kind="plain")
    return section("What differs", listing, paragraph(more, "muted") if more else "")


def _summary(comparison: Comparison) -> str:
    header = ("study", "trials", "trained", "best accuracy", "on the front", "hypervolume", "clock", "devices", "seed")
    return table(header, (False,) + (True,) * 8, [_summary_row(run) for run in comparison.runs], kind="plain")


def _summary_row(run: Run) -> tuple[str, ...]:
    frame = run.findings.frame
    clock = frame["study_seconds"].max() if len(frame) else math.nan
    return (
        run.name,
        f"{len(frame):,}",
        f"{run.findings.count('ok'):,}",
        percent(run.members[ACCURACY].max()) if len(run.members) else "-",
        f"{len(run.members):,}",
        f"{run.volumes[-1]:.4f}" if len(run.volumes) else "-",
        duration(clock),
        duration(float(frame["seconds"].sum())),
        str(run.findings.study.get("seed", "-")),
    )


def _caveats(comparison: Comparison) -> str:
    same = use_same_images([run.findings.study for run in comparison.runs])
    recipes = {str(run.findings.study.get("recipe")) for run in comparison.runs}
    devices = {name for run in comparison.runs for name in run.findings.frame["device"] if name}
    items = [
        "The studies did not use the same data: their accuracies are not comparable." if not same else "",
        "The studies did not train with the same recipe." if len(recipes) > 1 else "",
        "They ran on different kinds of device: times and throughputs are not comparable." if len(devices) > 1 else "",
        "One study of each kind says little: searches differ from seed to seed. Compare several seeds."
        if not comparison.groups
        else "",
        f"Hypervolume is accuracy times decades of {comparison.cost.label}, measured from {corner_text(comparison)}; "
        f"the corner is kept in {REFERENCE_FILE} and stays the same when this page is made again.",
    ]
    return section("Read with care", bullet_list(item for item in items if item))
