"""The sections of a report, in the order in which they are read: each turns the findings into HTML, or into nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from results.decision import Decision
from results.described import mapping
from results.epochs import describe_epochs
from results.findings import Findings
from results.frame import RUNNING
from results.metrics import ACCURACY, Metric
from results.no_front import UNFINISHED, describe_missing_front, unfinished_counts
from results.page import Markup, cards, copy_button, figure, folded, paragraph, section, table
from results.picks import Pick, pick_members
from results.plot_style import Drawn
from results.plots_importance import metric_label
from results.plots_quantized import method_label
from results.quantization import MIXED, RETRAINED, beside, deployment_candidates
from results.repeats import RUNS, SPREAD
from results.report_decision import decision_card, decision_field, decision_lead, decision_verdict, size_and_speed
from results.report_figures import accuracy_figures, importance_figures, progress_figures, quantized_figures
from results.report_method import caveats, measurement
from results.report_timing import timing_note
from results.tables import FRONT_NOTE, KEY_LENGTH, front_cells, has_own_column, name_front
from results.units import human_count, percent, plural, sentence

MAX_REASONS = 60
MAX_LISTED = 12
MAX_MEMBERS = 60
MAX_CARDS = 6
_OPEN_REASONS = 8
_MAX_PAIRS = 8

# What was found ------------------------------------------------------------------------------------------------------


def headline(findings: Findings) -> str:
    """What was searched, how much of it was trained, and what came out."""
    running = findings.count(RUNNING)
    note = f"{plural(running, 'trial')} without an outcome yet: the study is running, or was interrupted."
    return _headline_text(findings) + (paragraph(note, "notice") if running else "")


def _headline_text(findings: Findings) -> str:
    space = mapping(findings.study.get("space")).get("name", "?")
    data = mapping(findings.study.get("data")).get("name", "?")
    count, trials = findings.num_architectures, len(findings.frame)
    asked = f"{plural(count, 'architecture')} {'was' if count == 1 else 'were'} tried"
    done = f"From the space {space}, {asked}{f' in {trials:,} trials' if count < trials else ''} on {data}; "
    members = findings.members
    if members.empty:
        return paragraph(f"{done}{describe_missing_front(findings)}, so there is no front.", "headline")
    size = "one forms" if len(members) == 1 else f"{len(members)} form"
    front_text = f"{size} the Pareto {name_front(findings.cost.name)}, {_span_text(members)} FLOPs (multiply-adds)"
    best, trained = percent(members[ACCURACY].max()), f"{done}{findings.count('ok'):,} trained to the end"
    if findings.decision is not None:
        return _decided_text(findings, findings.decision, trained, f"The search itself saw up to {best}; {front_text}.")
    text = f"{trained}. The best reaches {best} validation accuracy; {front_text}."
    return paragraph(text, "headline") + paragraph(_device_text(findings), "muted")


def _decided_text(findings: Findings, decision: Decision, trained: str, searched: str) -> str:
    """Fresh seeds lead: the search's own best is the luckiest of many."""
    text = f"{trained}, and {decision_field(decision)}. {decision_lead(decision)}"
    return (
        paragraph(text, "headline")
        + paragraph(decision_verdict(decision))
        + paragraph(f"{searched} {_device_text(findings)}", "muted")
    )


def _span_text(members: pd.DataFrame) -> str:
    cheapest, dearest = members["macs"].min(), members["macs"].max()
    return (
        f"from {human_count(cheapest)} to {human_count(dearest)}"
        if cheapest < dearest
        else f"at {human_count(dearest)}"
    )


def _device_text(findings: Findings) -> str:
    devices = sorted({name for name in findings.frame["device"] if name})
    left = unfinished_counts(findings)
    hardware = [findings.environment.get("cpu"), *findings.environment.get("gpus", [])]
    machine = ", ".join(name for name in hardware if name)
    ran = f"Ran on {', '.join(devices)}{f' ({machine})' if machine else ''}." if devices else ""
    ended = f" The search ended: {findings.ended}." if findings.ended else ""
    return f"{ran}{' Besides: ' + ', '.join(left) + '.' if left else ''}{ended}".strip()


def main_plots(findings: Findings) -> str:
    """Accuracy against FLOPs, throughput, parameters, and whatever else was measured."""
    return section("What was found", *_figures(accuracy_figures(findings)))


def _figures(drawn: Iterable[Drawn]) -> list[str]:
    return [figure(one.name, one.figure, one.title, one.caption) for one in drawn]


def which_to_take(findings: Findings) -> str:
    """Up to three members of the front, each with the wish it answers; of finalists trained again, those instead."""
    decision = findings.decision
    if decision is None:
        return section("Which to take", _pick_cards(findings))
    first = "Chosen" if decision.is_kept else "Suggested"
    shown = decision.candidates[:MAX_CARDS]
    again = cards(decision_card(each, "Finalist" if index else first) for index, each in enumerate(shown))
    return section("Which to take", again, folded("By the search's own numbers", _pick_cards(findings)))


def _pick_cards(findings: Findings) -> str:
    wishes: dict[int, list[Pick]] = {}
    for pick in pick_members(findings.members, findings.cost.name):
        wishes.setdefault(pick.trial, []).append(pick)
    rows = findings.members.set_index("trial", drop=False)
    return cards(_pick_card(rows.loc[trial], picks, findings.cost) for trial, picks in wishes.items())


def _pick_card(row: pd.Series, picks: list[Pick], cost: Metric) -> tuple[str, str, list[str]]:
    own = f", {cost.write(row[cost.name])} {cost.label}" if has_own_column(cost.name) else ""
    lines = [
        size_and_speed(row) + own,
        row["architecture"],
        Markup(f"trial {row['trial']} · {copy_button(row['arch_key'], row['arch_key'][:KEY_LENGTH])}"),
        *(sentence(pick.why) for pick in picks),
    ]
    title = ", ".join(pick.wish if index == 0 else pick.wish.lower() for index, pick in enumerate(picks))
    return title, f"{percent(row[ACCURACY])} · {human_count(row['macs'])} FLOPs", lines


def trained_again(findings: Findings) -> str:
    """What the finalists reach on fresh seeds, beside what the search saw of them."""
    found = findings.retrained
    if found.empty:
        return section("Trained again", paragraph(sentence(findings.stranger), "notice")) if findings.stranger else ""
    trained = findings.points[(findings.points["status"] == "ok") & np.isfinite(findings.points[ACCURACY])]
    searched = trained.drop_duplicates("arch_key").set_index("arch_key")[ACCURACY]  # a stopped trial has but a rung's
    rows = [
        (
            copy_button(key, key[:KEY_LENGTH]),
            percent(searched.get(key, math.nan)),
            percent(mean) + (f" ± {100 * spread:.2g}" if math.isfinite(spread) else ""),
            f"{runs:,}",
            words,
        )
        for key, mean, spread, runs, words in zip(*(found[name] for name in _AGAIN))
    ]
    header = ("key", "in the search", "trained again", "runs", "architecture")
    note = "Validation accuracy on fresh seeds, mean and standard deviation between runs: the number to trust."
    note = f"{note} {describe_epochs(findings.study_dir)}".strip()
    return section("Trained again", paragraph(note), table(header, (False, True, True, True, False), rows))


def fewer_bits(findings: Findings) -> str:
    """Quantised trials and the front in full precision as one choice, by bit-operations."""
    if findings.quantized.empty:
        return ""
    everything = pd.concat([findings.quantized, beside(findings.members, findings.quantized)], ignore_index=True)
    best = deployment_candidates(everything).drop_duplicates(["trial", "precision", ACCURACY, "bit_operations"])
    rows = [
        (
            f"{point['trial']}",
            str(point["origin"]),
            method_label(point["method"]) + (", Greedy MP" if point["precision"] == MIXED else ""),
            f"{point['bits']:g}",
            percent(point[ACCURACY]),
            human_count(point["bit_operations"]),
            f"{human_count(point['model_bytes'])}B",
        )
        for point in best.head(MAX_MEMBERS).to_dict("records")
    ]
    header = ("trial", "weights", "method", "bits", "accuracy", "bit-operations", "size")
    note = (
        "No other point has both fewer bit-operations and a better validation accuracy. Quantisation is simulated: "
        "these are accuracies at certain bits, not speeds. Of each trial, the weights that were quantised last."
    )
    if (everything["origin"] == RETRAINED).any():
        note += " Others of the front are left out: beside retrained weights, the search's accuracies are lucky ones."
    return section(
        "Fewer bits",
        *_figures(quantized_figures(findings)),
        table(header, (True, False, False, True, True, True, True), rows),
        paragraph(note, "muted"),
    )


def front_table(findings: Findings) -> str:
    """The front over the study's cost, and, where it was timed, the one over throughput."""
    if findings.members.empty:
        return ""
    fast = findings.front_over("throughput_ips")
    other = "" if fast.empty or findings.cost.name == "throughput_ips" else _members_table(fast, "throughput_ips")
    notes = (
        f"{FRONT_NOTE}.",
        timing_note(findings),
        "A click on a key copies it. Full figures: front.csv, front.md, front.tex and trials.csv.",
    )
    return section(
        f"The {name_front(findings.cost.name)}",
        _members_table(findings.members, findings.cost.name),
        paragraph(" ".join(filter(None, notes)), "muted"),
        folded("The front in accuracy and measured throughput", other),
    )


def _members_table(members: pd.DataFrame, cost: str) -> str:
    shown = members.head(MAX_MEMBERS)
    cells = front_cells(shown, cost)
    place = cells.header.index("key")
    rows = [
        (*row[:place], copy_button(key, row[place]), *row[place + 1 :])
        for row, key in zip(cells.rows, shown["arch_key"])
    ]
    left = len(members) - len(shown)
    more = paragraph(f"The {len(shown)} cheapest of {len(members):,}; all are in front.csv.", "muted") if left else ""
    return table(cells.header, cells.numeric, rows) + more


# How it went ---------------------------------------------------------------------------------------------------------


def progress_plots(findings: Findings) -> str:
    """Hypervolume, learning curves, accuracy by fusion scheme."""
    return section("How the search went", *_figures(progress_figures(findings)))


def what_matters(findings: Findings) -> str:
    """The dimensions of the space by what they explain, and the pairs that act together."""
    rows = [
        (metric_label(metric), f"{first} x {second}", f"{100 * share:.1f} %")
        for metric, importance in findings.importance.items()
        for (first, second), share in _largest(importance.pairs)
        if share >= 0.001
    ]
    pairs = table(("explains", "pair", "share beyond its two parts"), (False, False, True), rows) if rows else ""
    return section("Which dimensions matter", *_figures(importance_figures(findings)), folded("Pairs", pairs))


def _largest(pairs: dict[tuple[str, str], float]) -> list[tuple[tuple[str, str], float]]:
    return sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:_MAX_PAIRS]


def unfinished_trials(findings: Findings) -> str:
    """Every trial without a result, by its state and reason; folded when there are many."""
    rows = findings.frame[findings.frame["status"].isin(list(UNFINISHED))]
    if rows.empty:
        return ""
    reasons = rows["error"].where(rows["status"] != "stopped", _stop_reasons(rows))
    groups = rows.assign(reason=reasons).groupby(["status", "reason"], sort=True)["trial"]
    lines = [(status, f"{len(trials):,}", reason or "-", _numbers(trials)) for (status, reason), trials in groups]
    more = paragraph(f"{len(lines) - MAX_REASONS:,} further reasons are in trials.csv.", "muted")
    listing = table(("state", "trials", "reason", "numbers"), (False, True, False, False), lines[:MAX_REASONS])
    listing += more if len(lines) > MAX_REASONS else ""
    counts = ", ".join(unfinished_counts(findings))
    many = len(lines) > _OPEN_REASONS
    return section(
        "Trials without a result",
        paragraph(f"{plural(len(rows), 'trial')} of {len(findings.frame):,}: {counts}."),
        folded(plural(len(lines), "reason"), listing) if many else listing,
    )


def _stop_reasons(rows: pd.DataFrame) -> pd.Series:
    return rows["epoch"].map(lambda epoch: f"after epoch {epoch}")


def _numbers(trials: pd.Series) -> str:
    more = f" and {len(trials) - MAX_LISTED:,} more" if len(trials) > MAX_LISTED else ""
    return ", ".join(str(trial) for trial in trials.iloc[:MAX_LISTED]) + more


_AGAIN = ("arch_key", ACCURACY, SPREAD, RUNS, "architecture")

SECTIONS: tuple[Callable[[Findings], str], ...] = (
    headline,
    main_plots,
    which_to_take,
    trained_again,
    front_table,
    fewer_bits,
    progress_plots,
    what_matters,
    unfinished_trials,
    measurement,
    caveats,
)
