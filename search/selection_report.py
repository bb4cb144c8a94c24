"""What a person is told of a selection: the table, the verdict, the notes, what to do next."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from results.epochs import describe_epochs
from results.selection import judge
from results.selection_table import Score, SelectionRow, selection_markdown, selection_notes
from results.test_ledger import Look
from search.environment import in_runs_dir, on_moved
from search.selection import Finalist, Selection, save_selection


def selection_rows(selection: Selection, look: Look | None) -> list[SelectionRow]:
    """A row a finalist, in their order; test scores only of a look at exactly these runs."""
    tested = _test_scores(selection, look)
    return [_row(selection, finalist, tested.get(finalist.trial, Score())) for finalist in selection.finalists]


def next_command(selection: Selection) -> str:
    """The command that comes next: training again, or exporting (which takes retrained weights where there are any)."""
    if selection.suggested is None or selection.unfinished is not None or selection.unplanned or selection.failed:
        return retrain_command(selection)
    return f"make export STUDY={selection.study} TRIAL={selection.suggested.trial}"


def following_command(selection: Selection, study_dir: Path, moved_to: str | None = None) -> str:
    """``next_command`` for where the study lies and, if they have moved, its images."""
    return on_moved(in_runs_dir(next_command(selection), study_dir.parent), moved_to)


def retrain_command(selection: Selection) -> str:
    """The command that trains these finalists again, or goes on with that: as many seeds for all as one is to have."""
    trials = ",".join(str(finalist.trial) for finalist in selection.finalists)
    return f"make retrain STUDY={selection.study} TRIALS={trials} SEEDS={selection.seeds}"


def describe_choice(selection: Selection) -> str:
    """The title: of which study, within which limits."""
    return f"Choice of study {selection.study}{f' ({selection.within})' if selection.within else ''}"


def describe_test(selection: Selection, look: Look | None) -> str:
    """How it stands with the test split, in one sentence."""
    if look is None:
        return "the test split is closed; --open-test (OPEN_TEST=1) opens it once, for these finalists"
    if not look.is_at(selection.tested_runs):
        return f"the test split was {look.describe()}: it stays closed for any other choice"
    if look.missing:
        return f"the test split was {look.describe()}; --open-test (OPEN_TEST=1) finishes that"
    return f"the test split was {look.describe()}"


def epochs_notes(study_dir: Path) -> list[str]:
    """What stands under the table where 'search' and 'again' were trained for different epochs."""
    told = describe_epochs(study_dir)
    return [told] if told else []


def write_selection(study_dir: Path, selection: Selection, look: Look | None, moved_to: str | None = None) -> None:
    """Write selection.json and selection.md into the study's folder; ``moved_to`` as for ``following_command``."""
    rows = selection_rows(selection, look)
    notes = [*epochs_notes(study_dir), *selection_notes(rows)]
    following = following_command(selection, study_dir, moved_to)
    paragraphs = [*_sentences(selection, look), *notes, f"Next: `{following}`"]
    text = selection_markdown(rows, describe_choice(selection), paragraphs)
    data: dict[str, Any] = {**selection.to_dict(), "next": following}
    is_theirs = look is not None and look.is_at(selection.tested_runs)
    data["test"] = {str(run): value for run, value in look.accuracies.items()} if look and is_theirs else None
    save_selection(study_dir, data, text)


def _sentences(selection: Selection, look: Look | None) -> list[str]:
    return [selection.verdict, *selection.notes, describe_test(selection, look)]


def _row(selection: Selection, finalist: Finalist, test: Score) -> SelectionRow:
    again, p_best = Score(), math.nan
    if selection.judgement is not None and finalist.fresh:
        index, of = selection.judged.index(finalist), selection.judgement
        again = Score(float(of.means[index]), float(of.lows[index]), float(of.highs[index]))
        p_best = float(of.p_best[index])
    return SelectionRow(
        finalist.trial,
        finalist.search_accuracy,
        again,
        len(finalist.fresh),
        p_best,
        finalist.macs,
        finalist.params,
        finalist.throughput_ips,
        finalist.throughput_iqr,
        finalist.latency_ms if any(limit.metric == "latency_ms" for limit in selection.wish.limits) else math.nan,
        test,
        is_suggested=finalist is selection.suggested,
    )


def _test_scores(selection: Selection, look: Look | None) -> dict[int, Score]:
    if look is None or look.missing or not look.is_at(selection.tested_runs):
        return {}
    groups = [[look.accuracies[run.run] for run in finalist.fresh] for finalist in selection.judged]
    of = judge(groups, look.num_images, costs=[finalist.macs for finalist in selection.judged])
    trials = [finalist.trial for finalist in selection.judged]
    return {trial: Score(*map(float, found)) for trial, *found in zip(trials, of.means, of.lows, of.highs)}
