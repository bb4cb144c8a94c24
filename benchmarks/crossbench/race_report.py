"""The files that a race leaves: summary.csv, curves.csv, plot.svg and a README.md that says what came out."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.crossbench.race import PLANNED_TRIALS
from benchmarks.crossbench.random_search import expected_hypervolumes
from benchmarks.crossbench.summary import NSGA2, RANDOM, TARGETS
from benchmarks.crossbench.svg_plot import Line, Panel, draw_panels
from benchmarks.crossbench.table import Table, Truth
from results.units import human_count

# Named before the race, so that the goals are not held by whichever method was lucky.
CANDIDATES = ("tpe + none", "tpe + pareto_rank", "tpe + optimistic")
GOAL_SECONDS = 1 / 5
GOAL_EVALUATIONS = 1 / 3

_PACKAGES = ("optuna", "moocore", "numpy")
_AXES = {"evaluations": "trainings begun", "device_seconds": "device-seconds (CPU)"}


def write_report(
    folder: Path,
    table: Table,
    summary: pd.DataFrame,
    lines: pd.DataFrame,
    unavailable: Sequence[str],
    about: Mapping[str, Any],
) -> None:
    """Write the four files. ``about`` holds the options of the race and the seconds that it took."""
    folder.mkdir(parents=True, exist_ok=True)
    summary.round(4).to_csv(folder / "summary.csv", index=False)
    lines.to_csv(folder / "curves.csv", index=False)
    first = lines[lines["max_macs"] == lines["max_macs"].iloc[0]]
    (folder / "plot.svg").write_text(draw_panels(_panels(first)), encoding="utf-8")
    text = "\n".join(_readme(table, summary, unavailable, about)) + "\n"
    (folder / "README.md").write_text(text, encoding="utf-8")


def _panels(lines: pd.DataFrame) -> list[Panel]:
    panels = []
    for axis, title in _AXES.items():
        drawn = {name: _line(lines, axis, name) for name in _DRAWN if (lines["method"] == name).any()}
        panels.append(Panel(title, drawn))
    return panels


def _line(lines: pd.DataFrame, axis: str, method: str) -> Line:
    rows = lines[(lines["method"] == method) & (lines["axis"] == axis)]
    x, low, middle, high = (rows[name].tolist() for name in ("x", "q25", "median", "q75"))
    colour, dash = _DRAWN[method]
    return Line(x, low, middle, high, colour, dash)


def _readme(table: Table, summary: pd.DataFrame, unavailable: Sequence[str], about: Mapping[str, Any]) -> Iterator[str]:
    yield from _introduction(table, about)
    yield from (f"`{name}` was not raced: what it needs was not there (see --hub-registry)." for name in unavailable)
    for limit, rows in summary.groupby("max_macs", sort=False):
        truth = table.truth(max_macs=float(limit))  # type: ignore[arg-type]
        yield f"\n## At most {human_count(float(limit))} FLOPs (multiply-adds)\n"  # type: ignore[arg-type]
        yield from _truth_text(truth)
        yield from _goal_text(rows)
        yield from _method_table(rows)
    yield from _legend(about)


def _introduction(table: Table, about: Mapping[str, Any]) -> Iterator[str]:
    made = table.provenance
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    whole = len(table.frame) == made["num_archs"] * len(table.seeds)
    yield "# How well the searches search\n"
    yield "Made by `python benchmarks/search_quality.py`: every method searches the same table, in which every network"
    yield "is trained (benchmarks/crossbench), through the session, searchers and stopping rules of a real search.\n"
    yield "![Share of the true hypervolume against trainings and against device-seconds](plot.svg)\n"
    if not whole:
        yield f"**The table was not whole: {len(table.frame)} trainings. These figures say nothing yet.**\n"
    yield f"- Table: {made['num_archs']} networks, seeds {list(table.seeds)}, made on {made['device']}"
    yield f"  ({made['cores']} cores), torch {made['packages']['torch']}, {made['date']}."
    yield f"- Race: seeds 0 to {about['seeds'] - 1} of each method, up to {about['trials']} proposals, one at a time;"
    yield f"  {versions}."
    yield "- A search is told the accuracy of one seed of the table; it is scored by the mean over the seeds, and only"
    yield "  networks that were trained to the end count. Median (quartiles) over the runs; '-' where fewer than half"
    yield "  of the runs get there."
    yield "- Hypervolume of error and log10 FLOPs; reference: error 1 and the limit. Device-seconds: the CPU seconds"
    yield "  that the trainings took; measuring and asking are not in them."
    yield f"- Our searchers are told a budget of {PLANNED_TRIALS} trials, which sets the length of their start."
    yield "- Optuna as it comes: same parameters, its defaults; over the limit: constraint and pruned, nothing trained;"
    yield "  a duplicate is trained again."


def _truth_text(truth: Truth) -> Iterator[str]:
    front = ", ".join(f"{count} {size}" for size, count in truth.front_by_size().items())
    expected = expected_hypervolumes(truth) / truth.hypervolume
    places = [n for n in (10, 20, 50, 100, 200, 400) if n <= len(expected)]
    yield f"{len(truth.keys)} networks; the true front has {int(truth.on_front.sum())}: {front} (thirds by FLOPs)."
    yield f"Training them all takes {truth.seconds.sum():.0f} device-seconds. Random search without replacement is"
    yield "expected, exactly, to hold this share of the true hypervolume: "
    yield ", ".join(f"{100 * expected[n - 1]:.1f} % after {n}" for n in places) + ".\n"


def _goal_text(rows: pd.DataFrame) -> Iterator[str]:
    """Whether the goals are met, of medians with 95 % bootstrap intervals: surely, or only at the median."""
    yield "Goals: a fifth of random search's device-seconds, a third of NSGA-II's trainings.\n"
    rivals = [("random", "device-seconds", GOAL_SECONDS)]
    rivals += [(name.split()[1], "trainings", GOAL_EVALUATIONS) for name in NSGA2]
    yield f"| to reach | method | {' | '.join(f'{what} / {rival}' for rival, what, _ in rivals)} |"
    yield f"|---|---|{'---|' * len(rivals)}"
    for target in TARGETS:
        name = f"{100 * target:.0f}"
        for row in rows[rows["method"].isin(CANDIDATES)].to_dict("records"):
            cells = [_verdict(row, f"times_{rival}_{name}", goal) for rival, _, goal in rivals]
            yield f"| {name} % | {row['method']} | {' | '.join(cells)} |"
    yield ""


def _verdict(row: Mapping[str, Any], column: str, goal: float) -> str:
    if column not in row:
        return "not raced"
    ratio, low, high = (row[f"{column}{end}"] for end in ("", "_low", "_high"))
    if math.isinf(ratio):
        return "never there"
    if ratio == 0:
        return "met: the other is never there"
    word = "met" if high <= goal else "met at the median" if ratio <= goal else "not met"
    return f"{ratio:.2f} ({low:.2f} to {high:.2f}): {word}"


def _method_table(rows: pd.DataFrame) -> Iterator[str]:
    targets = [f"{100 * target:.0f}" for target in TARGETS]
    heads = [f"{name} %: trainings | s | x random" for name in targets]
    yield f"| method | runs | begun/completed | end | {' | '.join(heads)} | killed | dup. | over |"
    yield f"|---|---|---|---|{'---|---|---|' * len(targets)}---|---|---|"
    for row in rows.sort_values(["seconds_95", "seconds_90"]).to_dict("records"):
        cells = [row["method"], str(row["runs"]), f"{row['evaluations']:.0f}/{row['completed']:.0f}"]
        cells.append(f"{100 * row['final_share']:.1f} %")
        for name in targets:
            cells += [_spread(row, f"evaluations_{name}"), _spread(row, f"seconds_{name}"), _ratio(row, name)]
        killed = [row[f"killed_{size}"] for size in ("small", "middle", "large")]
        cells.append(f"{_killed([row['killed_all']])}: {_killed(killed)}" if any(killed) else "0")
        cells += [f"{100 * row['duplicates_share']:.0f} %", f"{100 * row['over_limit_share']:.0f} %"]
        yield f"| {' | '.join(cells)} |"


def _killed(shares: Sequence[float]) -> str:
    return "/".join("-" if math.isnan(share) else f"{100 * share:.0f}" for share in shares)


def _spread(row: Mapping[str, Any], column: str) -> str:
    middle, low, high = row[column], row[f"{column}_q25"], row[f"{column}_q75"]
    if math.isinf(middle):
        return "-"
    return f"{middle:.0f} ({low:.0f} to {'-' if math.isinf(high) else f'{high:.0f}'})"


def _ratio(row: Mapping[str, Any], name: str) -> str:
    ratio = row[f"times_random_{name}"]
    return "-" if not math.isfinite(ratio) else f"{ratio:.2f}"


def _legend(about: Mapping[str, Any]) -> Iterator[str]:
    yield "\n'x random': device-seconds over those of random search without replacement, of medians"
    yield f"({about['permutations']} permutations). 'killed': of the true front's members that were begun, the"
    yield "percentage never trained to the end, all: small/middle/large. 'dup.', 'over': shares of proposals. All"
    yield "columns, with quartiles and the 95 % bootstrap interval of each ratio, are in summary.csv; the curves in"
    yield "curves.csv."


# Colours are Paul Tol's vibrant scheme, as in the plots of a study.
_DRAWN: dict[str, tuple[str, str]] = {
    RANDOM: ("#888888", ""),
    "optuna nsga2_50": ("#ee3377", "6 3"),
    "optuna tpe": ("#ee7733", "6 3"),
    "random + asha": ("#33bbee", "2 3"),
    "tpe + none": ("#ee7733", ""),
    "nsga2 + none": ("#ee3377", ""),
    "tpe + pareto_rank": ("#009988", "2 3"),
    "tpe + optimistic": ("#0077bb", ""),
    "random + optimistic": ("#0077bb", "2 3"),
}
