"""What a report says of its throughputs: which were timed by ``bench``, alone, and which while searching."""

from __future__ import annotations

import math
from collections.abc import Sequence

from results.findings import Findings, number
from results.metrics import ACCURACY
from results.timings import Timing, timed_rows

_MAX_TIMED = 12


def throughput_caption(findings: Findings) -> str:
    """For the plot of accuracy against throughput, where both kinds of timing share an axis."""
    members = findings.front_over("throughput_ips")
    timed = len(timed_rows(members, findings.timings))
    if not timed:
        return "Timed while searching: a hint only."
    whose = "Front" if timed == len(members) else f"{timed} of {len(members)} on the front"
    whose += " and baselines" if _has_baselines(findings) else ""
    return f"{whose} timed alone by bench; the others while searching: a hint only."


def timing_note(findings: Findings) -> str:
    """For the front's table; empty where the search's own timings stand in it."""
    timed, members = len(timed_rows(findings.members, findings.timings)), len(findings.members)
    if not timed:
        return ""
    return f"Images/s {'are' if timed == members else f'of {timed} of {members} are'} those timed alone by bench."


def _has_baselines(findings: Findings) -> bool:
    """Whether one is in the plot, with a speed and an accuracy."""
    return any(math.isfinite(number(row["throughput_ips"]) + number(row[ACCURACY])) for row in findings.baselines)


def timing_caution(findings: Findings) -> str:
    """What ``bench`` timed on its own, once that is the whole front."""
    begin = "Throughput was measured in the course of the search, where other work may have run on the same machine."
    members = dict(zip(findings.members["trial"], findings.members["arch_key"]))
    timed = {trial: findings.timings[key] for trial, key in members.items() if key in findings.timings}
    if not members or len(timed) < len(members):
        return (
            f"{begin} Time the front on its own (make bench) before quoting a number, and only compare numbers from "
            "one device."
        )
    shown = ", ".join(f"trial {trial} {timed[trial].text()}" for trial in list(timed)[:_MAX_TIMED])
    rest = f" and {len(members) - _MAX_TIMED:,} more" if len(members) > _MAX_TIMED else ""
    return (
        f"{begin} The front was timed on its own since (bench.json), in images/s: {shown}{rest}. "
        f"{_advice([*timed.values()])} Only compare numbers from one device."
    )


def _advice(timings: Sequence[Timing]) -> str:
    flagged = sum(bool(timing.flags) for timing in timings)
    if not flagged:
        return "Quote those."
    which = "All of them" if flagged == len(timings) else f"{flagged} of {len(timings)}"
    return f"{which} carry a sign of trouble, in brackets: time the front again on a quiet machine before quoting one."
