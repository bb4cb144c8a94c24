"""The plots of a report, drawn and captioned: for the page, and for files of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from results.described import planned_epochs
from results.findings import Findings
from results.plot_style import Drawn
from results.plots import draw_front_plot, gather_front_plot
from results.plots_importance import draw_importance, metric_label
from results.plots_progress import (
    MAX_CURVES,
    draw_curves,
    draw_fusions,
    draw_hypervolume,
    draw_time,
    gather_curves,
    gather_fusions,
    gather_hypervolume,
    gather_stopped,
    gather_time,
)
from results.plots_quantized import OPERATIONS_NOTE, draw_quantized
from results.quantization import beside
from results.repeats import RUNS
from results.report_timing import throughput_caption
from results.timings import with_timings


def accuracy_figures(findings: Findings) -> Iterator[Drawn]:
    """Accuracy against every cost that was recorded."""
    presets = findings.study.get("presets") or []
    spread = findings.has_repeats or (findings.retrained[RUNS] > 1).any()
    bars = " Bars are one standard deviation between runs." if spread else ""
    retrained = with_timings(findings.retrained, findings.timings)
    for cost, title, caption in _AXES:
        members = findings.front_over(cost)
        plot = gather_front_plot(findings.timed, cost, presets, findings.baselines, retrained, members)
        if plot:
            caption = f"{caption}{bars}" if cost == "macs" else caption
            caption = f"{caption} {throughput_caption(findings)}" if cost == "throughput_ips" else caption
            yield Drawn(f"accuracy-{cost}", draw_front_plot(plot), f"Accuracy against {title}", caption)


def progress_figures(findings: Findings) -> Iterator[Drawn]:
    """Hypervolume against trials and against seconds, learning curves, accuracy by fusion scheme."""
    cost, limit = findings.cost.name, findings.limit(findings.cost.name)
    volume, time = gather_hypervolume(findings.frame, cost, limit), gather_time(findings.frame, cost, limit)
    if volume:
        caption = "How much of the trade-off the front covers. Once it is flat, more trials add little."
        yield Drawn("hypervolume", draw_hypervolume(volume), "Hypervolume over the search", caption)
    if time and (time.wall_seconds or time.device_seconds):
        caption = "The same against the clock, and against what all workers together spent on trials."
        yield Drawn("hypervolume-seconds", draw_time(time), "Hypervolume over time", caption)
    yield from _curves(findings)
    groups = gather_fusions(findings.timed, cost)
    if groups:
        caption = (
            "Number of trials in brackets. The searcher chose what to try: this shows where it went, not a fair trial."
        )
        yield Drawn("fusion", draw_fusions(groups), "Accuracy by fusion scheme", caption)


def importance_figures(findings: Findings) -> Iterator[Drawn]:
    """Which dimensions matter, for accuracy and for cost."""
    found = findings.importance
    if found:
        trust = "; ".join(f"{metric_label(name)} {100 * max(one.explained, 0):.0f} %" for name, one in found.items())
        caption = (
            "Functional analysis of variance of a random forest over all combinations of the values tried, costs as "
            f"logarithms. What it explains of trials that it was not given: {trust}. Where that is low, distrust it. "
            "What is missing from 100 % lies in how dimensions act together."
        )
        yield Drawn("importance", draw_importance(found), "What each dimension explains", caption)


def quantized_figures(findings: Findings) -> Iterator[Drawn]:
    """What quantised trials keep, beside the front in full precision."""
    if not findings.quantized.empty:
        others = beside(findings.members, findings.quantized)
        caption = (
            f"{OPERATIONS_NOTE} Lines are trials quantised after training, simulated; the dashed line is their "
            "accuracy in full precision."
        ) + ("" if others.empty else " Diamonds are others of the front in full precision, at 32 x 32 bits.")
        drawn = draw_quantized(findings.quantized, front=others)
        yield Drawn("bit-operations", drawn, "Accuracy against bit-operations", caption)


def all_figures(findings: Findings) -> Iterator[Drawn]:
    """Every plot of the page, in its order."""
    for draw in FIGURES:
        yield from draw(findings)


def _curves(findings: Findings) -> Iterable[Drawn]:
    curves = gather_curves(findings.study_dir, findings.members, findings.rungs, planned_epochs(findings.study))
    if not curves:
        return
    stopped = gather_stopped(findings.frame, findings.rungs)
    shown = f" ({MAX_CURVES} of {len(findings.members)})" if len(findings.members) > MAX_CURVES else ""
    caption = "Labels are trial numbers, where there is room; point at a line for the rest."
    if stopped:
        of = f" ({len(stopped)} of {findings.count('stopped'):,})" if len(stopped) < findings.count("stopped") else ""
        caption += f" Grey lines are trials that were stopped early{of}, to the rung at which they were."
    yield Drawn("curves", draw_curves(curves, stopped), f"Learning curves of the front{shown}", caption)


_AXES = (
    (
        "macs",
        "FLOPs",
        "Each mark is an architecture; those on the front are outlined. Point at one for its description, click it to "
        "copy its key; with the keyboard, the arrow keys go along the front and Enter copies.",
    ),
    ("throughput_ips", "throughput", "Faster is to the right."),
    ("params", "parameters", ""),
    ("latency_ms", "latency", "One image at a time, timed while searching: a hint only."),
    ("peak_memory_mb", "memory", "Peak memory of a forward pass."),
    ("train_memory_mb", "training memory", "Peak memory of a training step."),
    ("energy_mj", "energy", "As counted by the driver of the device."),
)

FIGURES: tuple[Callable[[Findings], Iterator[Drawn]], ...] = (
    accuracy_figures,
    quantized_figures,
    progress_figures,
    importance_figures,
)
