"""Why there is no front, in words: nothing was trained yet, or nothing could be."""

from __future__ import annotations

import re
from collections import Counter

from results.findings import Findings
from results.units import plural

UNFINISHED = {"stopped": "stopped early", "infeasible": "infeasible", "failed": "failed", "lost": "lost"}


def describe_missing_front(findings: Findings) -> str:
    """What to say in the place of a front, as a clause; only of findings without one."""
    counts = unfinished_counts(findings)
    trials = len(findings.frame)
    infeasible = findings.count("infeasible")
    if trials and infeasible == trials:
        told = f"all {trials:,} trials were infeasible" if trials > 1 else "the only trial was infeasible"
    elif findings.ended and counts and not findings.count("ok"):
        told = f"none was trained to the end ({', '.join(counts)})"
    else:
        return "none has been trained to the end yet"
    return told + _commonest_reason(findings)


def unfinished_counts(findings: Findings) -> list[str]:
    """How many trials ended without a result, by how they did: '3 infeasible'."""
    return [f"{findings.count(status):,} {words}" for status, words in UNFINISHED.items() if findings.count(status)]


def _commonest_reason(findings: Findings) -> str:
    errors = [error for error in findings.frame["error"] if error]
    counted = Counter(reason for error in errors for reason in dict.fromkeys(_reasons(error)))
    if not counted:
        return ""
    reason, count = counted.most_common(1)[0]
    return f"; the commonest reason, of {plural(count, 'trial')}: {reason}"


def _reasons(error: str) -> list[str]:
    """Of broken limits the limits alone: how far a trial is beyond one differs from trial to trial."""
    return re.findall(r", (allowed is [^;]+)", error) or [error]
