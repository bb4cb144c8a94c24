"""What a report says of the finalists once they were trained again: the lead, the cards, what is left to beware of."""

from __future__ import annotations

import math

import pandas as pd

from results.decision import Candidate, Decision
from results.metrics import ACCURACY
from results.page import Markup, copy_button
from results.selection_table import Score
from results.tables import KEY_LENGTH
from results.units import human_count, percent, plural, sentence, with_spread


def decision_field(decision: Decision) -> str:
    """How many were trained again, and whom of them the choice was made from."""
    count = len(decision.retrained)
    again = f"{plural(count, 'finalist')} {'was' if count == 1 else 'were'} trained again"
    if decision.left_out:
        return f"{again}, {len(decision.candidates)} of them {decision.among or 'open to the choice'}"
    return f"{again}, {'all of them ' if count > 1 else ''}{decision.among}" if decision.among else again


def decision_lead(decision: Decision) -> str:
    """Whom to take and what it reaches, in one sentence."""
    best = decision.suggested
    by = "accuracy" if decision.prefer == "accuracy" else f"the preference {decision.prefer}"
    how = f"{'Chosen' if decision.is_kept else 'Suggested'} by {by} is trial {best.trial}"
    tested = f", and {_score_text(best.test)} on the test split" if math.isfinite(best.test.mean) else ""
    return (
        f"{how}, of {human_count(best.row['macs'])} FLOPs (multiply-adds): {percent(best.again.mean)} validation "
        f"accuracy (mean of {_mean_text(best)}){tested}."
    )


def decision_verdict(decision: Decision) -> str:
    """How sure the runs are of it."""
    return sentence(decision.verdict)


def decision_card(candidate: Candidate, title: str) -> tuple[str, str, list[str]]:
    """A finalist as a card: title, large line, lines below."""
    row = candidate.row
    chance = f"best with a probability of {percent(candidate.p_best)}"
    lines = [
        sentence(_mean_text(candidate)) + (f" {sentence(chance)}" if math.isfinite(candidate.p_best) else ""),
        f"Test split: {_score_text(candidate.test)}." if math.isfinite(candidate.test.mean) else "",
        size_and_speed(row),
        row["architecture"],
        Markup(f"trial {candidate.trial} · {copy_button(row['arch_key'], row['arch_key'][:KEY_LENGTH])}"),
    ]
    return (
        title,
        f"{percent(candidate.again.mean)} · {human_count(row['macs'])} FLOPs",
        [line for line in lines if line],
    )


def size_and_speed(row: pd.Series) -> str:
    """Parameters, and throughput if it is known, as a card shows them."""
    speed = f", {with_spread(row['throughput_ips'], row['throughput_iqr'])} images/s"
    return f"{human_count(row['params'])} parameters" + (speed if math.isfinite(row["throughput_ips"]) else "")


def decision_caution(decision: Decision) -> str:
    """How far the search's numbers were off, and whether there are seeds enough."""
    seen = [(float(each.row[ACCURACY]), each.again.mean) for each in decision.retrained if each.row["status"] == "ok"]
    known = [(before, after) for before, after in seen if math.isfinite(before)]
    count = plural(len(known), "finalist")
    change = 100 * sum(after - before for before, after in known) / len(known) if known else 0.0
    moved = f"{abs(change):.1f} points {'less' if change < 0 else 'more'} on average than in the search"
    if abs(change) < 0.05:  # which is written as 0.0
        moved = "the same on average as in the search"
    found = f": on fresh seeds {count} came to {moved}" if known else ""
    more = "" if decision.fewest_runs > 1 else " One fresh seed says nothing of the spread: train on more seeds."
    return f"The best of many is flattered by luck{found}. The front and its plots are the search's own numbers.{more}"


def _mean_text(candidate: Candidate) -> str:
    seeds = plural(len(candidate.runs), "fresh seed")
    low_high = candidate.again.texts()[1]
    return f"{seeds}, 95 % interval {low_high} %" if math.isfinite(candidate.again.low) else seeds


def _score_text(score: Score) -> str:
    mean, low_high = score.texts()
    return f"{mean} (95 % interval {low_high} %)" if math.isfinite(score.low) else mean
