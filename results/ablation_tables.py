"""An ablation as tables, for the terminal, as Markdown, LaTeX and CSV, and what it says in words."""

from __future__ import annotations

import math

import pandas as pd
from rich.table import Table

from results.ablation import ALIKE, REFERENCE, TOO_FEW, AblationFindings, Comparison, VariantResult, twins
from results.cells import Cells, cells_latex, cells_markdown, rich_cells
from results.statistics import ALPHA, MOST_SEEDS
from results.units import MISSING, human_count, plural, with_spread

RESULT_NOTE = (
    "accuracy: mean and standard deviation over seeds, on the validation split; difference: mean over seeds that both "
    "have, with its 95 % interval (paired t); p: corrected for all comparisons (Holm); a verdict needs p < 0.05"
)
COST_NOTE = (
    "FLOPs are multiply-adds; ± is half the interquartile range of the throughput, within a training or between seeds, "
    "the larger; alone: accuracy of each branch's class token and classifier by itself, branch 0 first"
)
PAPER_NOTE = "paper M: million parameters"

PAPER_COLUMNS = ("paper top-1", "paper GFLOPs", "paper M", "paper alone (%)")


def result_cells(findings: AblationFindings) -> Cells:
    """One row a variant: accuracy, difference from the reference with its interval, p, verdict."""
    header = (_first_column(findings), "accuracy (%)", "difference [95 %]", "p", "n", "verdict")
    return Cells(header, (False, True, True, True, True, False), [_result_row(result) for result in findings.results])


def cost_cells(findings: AblationFindings) -> Cells:
    """One row a variant: what it costs, how fast it is, what its branches can do alone, and the paper's figures."""
    with_widths, with_paper = findings.match != "none", has_paper(findings)
    header = [_first_column(findings), *(["widths"] if with_widths else []), "FLOPs", "params", "images/s", "alone (%)"]
    header += list(PAPER_COLUMNS) if with_paper else []
    rows = [_cost_row(result, with_widths, with_paper) for result in findings.results]
    return Cells(tuple(header), (False,) + (True,) * (len(header) - 1), rows)


def cost_note(findings: AblationFindings) -> str:
    """What the columns of ``cost_cells`` are."""
    return f"{COST_NOTE}; {PAPER_NOTE}" if has_paper(findings) else COST_NOTE


def has_paper(findings: AblationFindings) -> bool:
    """Whether the paper has a figure for a variant."""
    return any(result.paper for result in findings.results)


def on_two_lines(cells: Cells) -> Cells:
    """The paper's columns with narrower headers: a table of them all is wide."""
    return cells._replace(header=tuple(name.replace("paper ", "paper\n") for name in cells.header))


def rich_tables(findings: AblationFindings) -> list[Table]:
    """For the terminal: what was found, then what it costs."""
    titles = (f"{findings.dimension}: accuracy", "cost, and the branches alone")
    # At 80 columns there is no room for more; how many seeds stand behind a row is said in words below the tables.
    cells = (result_cells(findings).without(("n",)), on_two_lines(cost_cells(findings).without(PAPER_COLUMNS[-1:])))
    parts = zip(cells, titles, (RESULT_NOTE, cost_note(findings)))
    return [rich_cells(cells, title, note, wrapped=("verdict",), tight=True) for cells, title, note in parts]


def to_markdown(findings: AblationFindings) -> str:
    """Both tables and the verdicts in words."""
    tables = [cells_markdown(cells) for cells in (result_cells(findings), cost_cells(findings))]
    return "\n".join([*tables, *(f"- {line}" for line in verdict_lines(findings))]) + "\n"


def to_latex(findings: AblationFindings) -> str:
    """Both tables as booktabs tabulars."""
    return "\n".join(cells_latex(cells) for cells in (result_cells(findings), cost_cells(findings)))


def to_csv(findings: AblationFindings) -> str:
    """One row a variant, all digits; a missing number is an empty field."""
    rows = [_csv_row(findings, result) for result in findings.results]
    return pd.DataFrame(rows).astype({"enough_seeds": "Int64"}).to_csv(index=False, lineterminator="\n")


def verdict_lines(findings: AblationFindings) -> list[str]:
    """What each comparison says, and for those that say nothing, what it would take."""
    lines = [_verdict_line(result, findings.reference_label) for result in findings.results]
    same = [
        f"{a} and {b} ended with equal accuracy and loss on every seed: on this base they compute the same function."
        for a, b in twins(findings.results)
    ]
    return [line for line in lines if line] + same


def _verdict_line(result: VariantResult, reference: str) -> str:
    found = result.comparison
    if found.verdict == REFERENCE:
        return ""
    if found.verdict == TOO_FEW:
        return f"{result.label}: {plural(found.n, 'pair')} with {reference}, at least 2 are needed to compare."
    seen = f"{_signed(found.difference)} points, 95 % from {_signed(found.low)} to {_signed(found.high)}"
    if found.verdict == ALIKE:
        return (
            f"{result.label}: not distinguishable from {reference} with {plural(found.n, 'seed')} ({seen}, "
            f"p {_p_value(found.p_holm)}{_by_itself(found)}). {what_it_takes(found)}"
        )
    return f"{result.label}: {found.verdict} than {reference} ({seen}, p {_p_value(found.p_holm)})."


def _by_itself(found: Comparison) -> str:
    """For an interval without zero and a verdict that says nothing."""
    return f"; as the only comparison it would count, p {_p_value(found.p)}" if found.p < ALPHA else ""


def what_it_takes(found: Comparison) -> str:
    """How many seeds would settle the difference seen, and how small a one those that there are could find."""
    if found.enough_seeds is not None and found.enough_seeds > found.n:
        settles = f"About {found.enough_seeds} seeds would settle a difference of this size"
    elif found.enough_seeds is not None:
        settles = "A few more seeds should settle a difference of this size"
    elif found.difference:
        settles = f"A difference of this size would take more than {MOST_SEEDS:,} seeds"
    else:
        settles = "No difference was seen"
    if not found.detectable < 1:  # of an accuracy
        return f"{settles}; {found.n} seeds find no difference at all with 80 % power."
    return f"{settles}; the smallest that {found.n} find with 80 % power: {100 * found.detectable:.1f} points."


def _result_row(result: VariantResult) -> tuple[str, ...]:
    found = result.comparison
    count = len(result.accuracies) if found.verdict == REFERENCE else found.n
    return (result.label, _mean_sd(result), _interval(found), _p_value(found.p_holm), str(count), found.verdict)


def _cost_row(result: VariantResult, with_widths: bool, with_paper: bool) -> tuple[str, ...]:
    speed = with_spread(result.ips, result.ips_iqr)
    alone = ", ".join(map(_points, result.branches)) or MISSING
    cells = [result.label, *([result.widths or MISSING] if with_widths else []), human_count(result.macs)]
    return (*cells, human_count(result.params), speed, alone, *(_paper_cells(result) if with_paper else []))


def _paper_cells(result: VariantResult) -> list[str]:
    row = result.paper
    if row is None:
        return [MISSING] * len(PAPER_COLUMNS)
    numbers = [f"{value:.1f}" for value in (row.top1, row.gmacs, row.mparams)]
    return [*numbers, ", ".join(f"{value:.1f}" for value in row.top1_branches)]


def _csv_row(findings: AblationFindings, result: VariantResult) -> dict[str, object]:
    found, paper = result.comparison, result.paper
    row: dict[str, object] = {"variant": result.name, "reference": findings.reference, "seeds": len(result.accuracies)}
    row |= {"accuracy_mean": result.mean, "accuracy_sd": result.sd, "pairs": found.n, **_without_n(found)}
    row |= {
        "macs": int(result.macs),
        "params": int(result.params),
        "throughput_ips": result.ips,
        "throughput_iqr": result.ips_iqr,
    }
    row |= {f"accuracy_branch_{index}": value for index, value in enumerate(result.branches)}
    if paper is not None:
        row |= {"paper_top1": paper.top1, "paper_gflops": paper.gmacs, "paper_mparams": paper.mparams}
    return row


def _without_n(found: Comparison) -> dict[str, object]:
    return {name: value for name, value in found._asdict().items() if name != "n"}


def _first_column(findings: AblationFindings) -> str:
    return "fusion" if findings.is_of_fusion else findings.dimension


def _mean_sd(result: VariantResult) -> str:
    spread = f" ± {100 * result.sd:.2f}" if math.isfinite(result.sd) else ""
    return f"{100 * result.mean:.2f}{spread}" if math.isfinite(result.mean) else MISSING


def _interval(found: Comparison) -> str:
    if not math.isfinite(found.difference):
        return MISSING
    return f"{_signed(found.difference)} [{_signed(found.low)}, {_signed(found.high)}]"


def _signed(fraction: float) -> str:
    return f"{100 * fraction:+.2f}"


def _points(fraction: float) -> str:
    return f"{100 * fraction:.1f}" if math.isfinite(fraction) else MISSING


def _p_value(p: float) -> str:
    if not math.isfinite(p):
        return MISSING
    return "<0.001" if p < 0.001 else f"{p:.3f}"
