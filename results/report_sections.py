"""The sections of a report, in the order in which they are read: each turns the findings into HTML, or into nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from results.frame import RUNNING, front
from results.metrics import ACCURACY, Metric
from results.page import bullet_list, cards, fields_table, figure, folded, paragraph, section, table
from results.picks import Pick, pick_members
from results.plots import draw_front_plot, gather_front_plot
from results.plots_progress import (
    MAX_CURVES,
    draw_curves,
    draw_fusions,
    draw_hypervolume,
    gather_curves,
    gather_fusions,
    gather_hypervolume,
)
from results.tables import FRONT_NOTE, KEY_LENGTH, front_cells
from results.units import human_count, percent, plural, with_spread

MAX_REASONS = 60
MAX_LISTED = 12


class Findings(NamedTuple):
    """All that a report tells of: the study as asked, what it ran on, its trials, and the front over its cost."""

    study_dir: Path
    study: dict[str, Any]
    environment: dict[str, Any]
    frame: pd.DataFrame
    cost: Metric
    members: pd.DataFrame

    def count(self, status: str) -> int:
        return int((self.frame["status"] == status).sum())

    def limit(self, metric: str) -> float | None:
        """The space's upper bound on a metric, if it has one."""
        window = _mapping(_mapping(_mapping(self.study.get("space")).get("limits")).get(metric))
        bound = window.get("max")
        return float(bound) if isinstance(bound, (int, float)) else None


# What was found ------------------------------------------------------------------------------------------------------


def headline(findings: Findings) -> str:
    """What was searched, how much of it was trained, and what came out."""
    running = findings.count(RUNNING)
    note = f"{plural(running, 'trial')} without an outcome yet: the study is running, or was interrupted."
    return _headline_text(findings) + (paragraph(note, "notice") if running else "")


def _headline_text(findings: Findings) -> str:
    space = _mapping(findings.study.get("space")).get("name", "?")
    data = _mapping(findings.study.get("data")).get("name", "?")
    asked = plural(len(findings.frame), "architecture")
    done = f"From the space {space}, {asked} {'was' if len(findings.frame) == 1 else 'were'} tried on {data}; "
    members = findings.members
    if members.empty:
        return paragraph(f"{done}none has been trained to the end yet, so there is no front.", "headline")
    cheapest, dearest = members["macs"].min(), members["macs"].max()
    span = (
        f"from {human_count(cheapest)} to {human_count(dearest)}"
        if cheapest < dearest
        else f"at {human_count(dearest)}"
    )
    size = "one forms" if len(members) == 1 else f"{len(members)} form"
    text = (
        f"{done}{findings.count('ok'):,} trained to the end. The best reaches {percent(members[ACCURACY].max())} "
        f"validation accuracy; {size} the Pareto front, {span} FLOPs (multiply-adds)."
    )
    return paragraph(text, "headline") + paragraph(_device_text(findings), "muted")


def _device_text(findings: Findings) -> str:
    devices = sorted({name for name in findings.frame["device"] if name})
    left = [f"{findings.count(status):,} {words}" for status, words in _UNFINISHED.items() if findings.count(status)]
    hardware = [findings.environment.get("cpu"), *findings.environment.get("gpus", [])]
    machine = ", ".join(name for name in hardware if name)
    ran = f"Ran on {', '.join(devices)}{f' ({machine})' if machine else ''}." if devices else ""
    return f"{ran}{' Besides: ' + ', '.join(left) + '.' if left else ''}".strip()


def main_plots(findings: Findings) -> str:
    """Accuracy against FLOPs, then against the throughput measured."""
    presets = findings.study.get("presets") or []
    about = "Each mark is an architecture; those on the front are outlined. Point at one for its description."
    parts = []
    for cost, title, caption in (
        ("macs", "Accuracy against FLOPs", about),
        (
            "throughput_ips",
            "Accuracy against throughput",
            "Faster is to the right. Timed while searching: a hint only.",
        ),
        ("params", "Accuracy against parameters", ""),
    ):
        plot = gather_front_plot(findings.frame, cost, presets)
        if plot:
            parts.append(figure(f"accuracy-{cost}", draw_front_plot(plot), title, caption))
    return section("What was found", *parts)


def which_to_take(findings: Findings) -> str:
    """Up to three members of the front, each with the wish it answers."""
    wishes: dict[int, list[Pick]] = {}
    for pick in pick_members(findings.members, findings.cost.name):
        wishes.setdefault(pick.trial, []).append(pick)
    rows = findings.members.set_index("trial", drop=False)
    return section("Which to take", cards(_pick_card(rows.loc[trial], picks) for trial, picks in wishes.items()))


def _pick_card(row: pd.Series, picks: list[Pick]) -> tuple[str, str, list[str]]:
    size = f"{human_count(row['params'])} parameters"
    speed = f", {with_spread(row['throughput_ips'], row['throughput_iqr'])} images/s"
    lines = [
        size + (speed if math.isfinite(row["throughput_ips"]) else ""),
        row["architecture"],
        f"trial {row['trial']} · {row['arch_key'][:KEY_LENGTH]}",
        *(_sentence(pick.why) for pick in picks),
    ]
    title = ", ".join(pick.wish if index == 0 else pick.wish.lower() for index, pick in enumerate(picks))
    return title, f"{percent(row[ACCURACY])} · {human_count(row['macs'])} FLOPs", lines


def front_table(findings: Findings) -> str:
    """The front over the study's cost, and, where it was timed, the one over throughput."""
    if findings.members.empty:
        return ""
    fast = front(findings.frame, "throughput_ips")
    other = "" if fast.empty or findings.cost.name == "throughput_ips" else table(*front_cells(fast))
    return section(
        "The front",
        table(*front_cells(findings.members)),
        paragraph(f"{FRONT_NOTE}. Full figures: front.csv, front.md and trials.csv beside this page.", "muted"),
        folded("The front in accuracy and measured throughput", other),
    )


# How it went ---------------------------------------------------------------------------------------------------------


def progress_plots(findings: Findings) -> str:
    """Hypervolume, learning curves, accuracy by fusion scheme."""
    volume = gather_hypervolume(findings.frame, findings.cost.name, findings.limit(findings.cost.name))
    curves = gather_curves(findings.study_dir, findings.members)
    groups = gather_fusions(findings.frame, findings.cost.name)
    parts = []
    if volume:
        caption = (
            "How much of the trade-off the front covers. A line that has gone flat says that more trials add little."
        )
        parts.append(figure("hypervolume", draw_hypervolume(volume), "Hypervolume over the search", caption))
    if curves:
        shown = f" ({MAX_CURVES} of {len(findings.members)})" if len(findings.members) > MAX_CURVES else ""
        title = f"Learning curves of the front{shown}"
        parts.append(figure("curves", draw_curves(curves), title, "Labels are trial numbers."))
    if groups:
        caption = (
            "Number of trials in brackets. The searcher chose what to try: this shows where it went, not a fair trial."
        )
        parts.append(figure("fusion", draw_fusions(groups), "Accuracy by fusion scheme", caption))
    return section("How the search went", *parts)


def unfinished_trials(findings: Findings) -> str:
    """Every trial without a result, by its state and reason."""
    rows = findings.frame[findings.frame["status"].isin(list(_UNFINISHED))]
    if rows.empty:
        return ""
    reasons = rows["error"].where(rows["status"] != "stopped", _stop_reasons(rows))
    groups = rows.assign(reason=reasons).groupby(["status", "reason"], sort=True)["trial"]
    lines = [(status, str(len(trials)), reason or "-", _numbers(list(trials))) for (status, reason), trials in groups]
    more = paragraph(f"{len(lines) - MAX_REASONS} further reasons are in trials.csv.", "muted")
    return section(
        "Trials without a result",
        table(("state", "trials", "reason", "numbers"), (False, True, False, False), lines[:MAX_REASONS]),
        more if len(lines) > MAX_REASONS else "",
    )


def _stop_reasons(rows: pd.DataFrame) -> pd.Series:
    return rows["epoch"].map(lambda epoch: f"after epoch {epoch}")


def _numbers(trials: list[int]) -> str:
    more = f" and {len(trials) - MAX_LISTED} more" if len(trials) > MAX_LISTED else ""
    return ", ".join(str(trial) for trial in trials[:MAX_LISTED]) + more


# How far to trust it -------------------------------------------------------------------------------------------------


def measurement(findings: Findings) -> str:
    """How the numbers came about, and on what."""
    study = findings.study
    known = {"presets", "measure", "recipe", "space", "data"}
    rest = {name: value for name, value in study.items() if name not in known}
    text = (
        "FLOPs are multiply-adds, counted from the architecture in closed form, as are parameters. Accuracy is the "
        "share of validation images classified correctly by the trained network. Throughput is the median over several "
        "timed windows after warm-up, with its interquartile range."
    )
    return section(
        "How the numbers were measured",
        paragraph(text),
        folded("Throughput protocol", fields_table(_mapping(study.get("measure")))),
        folded("Machine and versions", fields_table(findings.environment)),
        folded("Data", fields_table(_mapping(study.get("data")))),
        folded("Training recipe", fields_table(_mapping(study.get("recipe")))),
        folded("Space", fields_table(_mapping(study.get("space")))),
        folded("Study", fields_table(rest)),
    )


def caveats(findings: Findings) -> str:
    """What these numbers do not say."""
    items = [
        f"Accuracies are on the validation split, which the search itself used to choose{_chance_error(findings)}. "
        "The test split has not been looked at.",
        "The best of many is flattered by luck: expect the top of the front to lose a little when it is trained again. "
        "Each architecture was trained once, with one seed. Retrain the finalists over several seeds before deciding.",
        "Throughput was measured in the course of the search, where other work may have run on the same machine. Time "
        "the front on its own (make bench) before quoting a number, and only compare numbers from one device.",
        "All architectures share one short recipe. A longer one may change their order.",
    ]
    return section("Read with care", bullet_list(items)) if len(findings.frame) else ""


def _chance_error(findings: Findings) -> str:
    count = validation_images(findings.study)
    if findings.members.empty or not count:
        return ""
    best = float(findings.members[ACCURACY].max())
    error = math.sqrt(best * (1 - best) / count)
    points = f"one image is {100 / count:.2g} points"
    spread = f", and chance alone moves {percent(best)} by about {100 * error:.2g} points" if error else ""
    return f" ({count:,} images: {points}{spread})"


def validation_images(study: Mapping[str, Any]) -> int:
    """The size of the validation split, 0 if the study does not say."""
    splits = _mapping(_mapping(study.get("data")).get("splits"))
    return next((int(splits[name]) for name in ("val", "validation") if isinstance(splits.get(name), int)), 0)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


_UNFINISHED = {"stopped": "stopped early", "infeasible": "infeasible", "failed": "failed", "lost": "lost"}

SECTIONS: tuple[Callable[[Findings], str], ...] = (
    headline,
    main_plots,
    which_to_take,
    front_table,
    progress_plots,
    unfinished_trials,
    measurement,
    caveats,
)
