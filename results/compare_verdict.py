"""What a comparison comes to, in words: who covers more, where each front is ahead, in which settings they differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from results.compare import Comparison, Run
from results.compare_data import sizes_sentence, use_same_images
from results.metrics import ACCURACY, Metric
from results.page import flatten_fields
from results.pareto import Array
from results.units import listed

MAX_STRETCHES = 5
"""Up to so many stretches of the cost are told one by one; of more, the shares."""

_EQUAL = 1e-9
_NO_SETTINGS = {"format", "name", "presets", "planned_trials", "retrain_of", "finalists", "seeds"}


class Stretch(NamedTuple):
    """From one cost to the next where the same studies are ahead; ``end`` is NaN for the last.

    ``lead`` is the largest lead in it over the next study, in points of accuracy: infinite where no other has a network
    of so low a cost, 0 where several are level.
    """

    leaders: tuple[str, ...]
    start: float
    end: float
    lead: float


def verdict(comparison: Comparison) -> list[str]:
    """Sentences; none for a single study with something to show, and no winner between different data."""
    runs = [run for run in comparison.runs if not run.members.empty]
    if len(runs) < 2:
        return []
    studies = {run.name: run.findings.study for run in runs}
    if not use_same_images([*studies.values()]):
        return ["The studies did not use the same data, so none of them is ahead of another."]
    seeds = {run.findings.study.get("seed") for run in runs}
    alike = len(seeds) > 1 and any(len(group) == len(runs) for group in comparison.groups.values())
    luck = ["They differ in their seed alone: what lies between them is luck of the search."] if alike else []
    sizes = sizes_sentence(studies)
    return [_volume_sentence(runs), _front_sentence(runs, comparison.cost), *([sizes] if sizes else []), *luck]


def differing_settings(comparison: Comparison) -> list[tuple[str, ...]]:
    """A row a setting that is not the same in all studies: its name, then its value in each; '-' where it has none."""
    asked = [dict(flatten_fields(_settings(run))) for run in comparison.runs]
    names = list(dict.fromkeys(name for each in asked for name in each))
    rows = [(name, *(each.get(name, "-") for each in asked)) for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def stretches(runs: Sequence[Run], cost: Metric) -> list[Stretch]:
    """Who reaches the most for a cost, along all costs of the fronts: from the cheapest network to the dearest."""
    values = sorted({float(x) for run in runs for x in run.members[cost.name] if x > 0}, reverse=cost.maximise)
    reached = np.array([[_reached(run, cost, value) for run in runs] for value in values])
    found: list[Stretch] = []
    for value, row in zip(values, reached):
        leaders = tuple(run.name for run, one in zip(runs, row) if row.max() - one < _EQUAL)
        lead = _lead(row)
        if found and found[-1].leaders == leaders:
            found[-1] = found[-1]._replace(lead=max(found[-1].lead, lead))
            continue
        found = [*found[:-1], *(last._replace(end=value) for last in found[-1:])]
        found.append(Stretch(leaders, value, math.nan, lead))
    return found


def _lead(row: Array) -> float:
    first, second = np.sort(row)[::-1][:2]
    return 0.0 if first - second < _EQUAL else 100 * float(first - second)


def _reached(run: Run, cost: Metric, value: float) -> float:
    x = run.members[cost.name].to_numpy(dtype=float)
    within = x >= value if cost.maximise else x <= value
    return float(run.members[ACCURACY].to_numpy(dtype=float)[within].max()) if within.any() else -math.inf


def _volume_sentence(runs: Sequence[Run]) -> str:
    ranked = sorted(runs, key=lambda run: (-_volume(run), run.name))
    first, second = ranked[:2]
    top, next_best = _volume(first), _volume(second)
    if top - next_best < _EQUAL:
        level = [run.name for run in ranked if top - _volume(run) < _EQUAL]
        return f"{listed(level)} have the same hypervolume, {top:.4f}."
    more = f", {100 * (top / next_best - 1):.1f} % more than {second.name} ({next_best:.4f})" if next_best > 0 else ""
    rest = [f"{run.name} {_volume(run):.4f}" for run in ranked[2:]]
    return f"{first.name} has the largest hypervolume, {top:.4f}{more}{'; ' + ', '.join(rest) if rest else ''}."


def _front_sentence(runs: Sequence[Run], cost: Metric) -> str:
    found = stretches(runs, cost)
    if len(found) == 1 and len(found[0].leaders) == len(runs):
        return f"Their fronts in accuracy and {cost.label} are the same."
    if len(found) > MAX_STRETCHES:
        return _shares_sentence(runs, found, cost)
    return f"At equal {cost.label}: {'; '.join(_stretch_text(each, len(runs), cost) for each in found)}."


def _stretch_text(each: Stretch, count: int, cost: Metric) -> str:
    down = "down " if cost.maximise else ""
    to = f" {down}to {cost.write(each.end)}" if math.isfinite(each.end) else " on"
    where = f"from {cost.write(each.start)}{to}"
    if len(each.leaders) > 1:
        return f"{listed(each.leaders)} are level {where}"
    name = each.leaders[0]
    if math.isinf(each.lead):
        other = "the other" if count == 2 else "any other"
        return f"{name} is ahead {where}, where {other} has nothing at first"
    return f"{name} is ahead {where}, by up to {each.lead:.1f} points"


def _shares_sentence(runs: Sequence[Run], found: Sequence[Stretch], cost: Metric) -> str:
    """Shares of the decades between the cheapest network and the dearest."""
    costs = [float(x) for run in runs for x in run.members[cost.name] if x > 0]
    last = min(costs) if cost.maximise else max(costs)
    widths = [abs(math.log10((each.end if math.isfinite(each.end) else last) / each.start)) for each in found]
    total = sum(widths) or 1.0
    parts = []
    for run in runs:
        mine = [(each, width) for each, width in zip(found, widths) if each.leaders == (run.name,)]
        leads = [each.lead for each, _ in mine if math.isfinite(each.lead)]
        by = f" by up to {max(leads):.1f} points" if leads else ""
        share = 100 * sum(width for _, width in mine) / total
        parts.append(f"{run.name} is ahead over {share:.0f} % of the range{by}" if mine else f"{run.name} nowhere")
    return f"At equal {cost.label}, in decades: {'; '.join(parts)}."


def _volume(run: Run) -> float:
    return float(run.volumes[-1]) if len(run.volumes) else 0.0


def _settings(run: Run) -> dict[str, object]:
    return {name: value for name, value in run.findings.study.items() if name not in _NO_SETTINGS}
