"""An ablation's page and files, written beside the study's report."""

from __future__ import annotations

from pathlib import Path

from results.ablation import ALIKE, PAPER_SOURCE, AblationFindings, load_ablation
from results.ablation_record import COMPONENT, PLAIN
from results.ablation_tables import (
    RESULT_NOTE,
    cost_cells,
    cost_note,
    has_paper,
    on_two_lines,
    result_cells,
    to_csv,
    to_latex,
    to_markdown,
    verdict_lines,
)
from results.page import bullet_list, escape, fields_table, figure, folded, page, paragraph, section, table
from results.plots_ablation import draw_differences, gather_differences
from results.report import write_files
from results.units import listed, plural, sentence


def write_ablation(study_dir: Path) -> Path:
    """Write report/ablation.{html,md,csv,tex} into the study's folder; returns the page's path.

    The same records give the same bytes; works at any time. Raises StoreError if the study is no ablation.
    """
    return write_findings(load_ablation(study_dir))


def write_findings(findings: AblationFindings) -> Path:
    """``write_ablation`` of what has been read already."""
    files = {
        "ablation.csv": to_csv(findings),
        "ablation.md": to_markdown(findings),
        "ablation.tex": to_latex(findings),
        "ablation.html": build_page(findings),
    }
    return write_files(findings.study_dir / "report", files) / "ablation.html"


def build_page(findings: AblationFindings) -> str:
    """The page as one text."""
    title = findings.study_dir.name
    header = f'<header><p class="eyebrow">CrossViT ablation</p><h1>{escape(title)}</h1></header>\n'
    parts = (_headline(findings), _plot(findings), _tables(findings), _verdicts(findings), _unfinished(findings))
    return page(f"{title}: ablation", header, *parts, _method(findings), _caveats(findings))


def _headline(findings: AblationFindings) -> str:
    data = findings.study.get("data", {})
    done = max((len(result.accuracies) for result in findings.results), default=0)
    text = (
        f"{_subject(findings)}, trained on {data.get('name', '?')} with {plural(done, 'seed')} each: "
        f"{summary(findings)}"
    )
    return paragraph(text, "headline")


def _subject(findings: AblationFindings) -> str:
    """What is compared, and on which base. The plain base is a variant, but no component."""
    base, names = findings.study["ablation"]["base"], [result.name for result in findings.results]
    if findings.dimension == COMPONENT:
        added = plural(len(names) - names.count(PLAIN), "component")
        return f"{added}, each added alone to the base {base}, and the plain base"
    what = "fusion schemes" if findings.is_of_fusion else f"values of {findings.dimension}"
    return f"{len(names)} {what} on the base {base}"


def summary(findings: AblationFindings) -> str:
    """In one sentence: who differs from the reference and who cannot be told from it."""
    if not findings.compared:
        return "too few of them have finished to compare."
    groups: dict[str, list[str]] = {}
    for result in findings.compared:
        groups.setdefault(result.comparison.verdict, []).append(result.label)
    parts = [
        f"{listed(labels)} {'is' if len(labels) == 1 else 'are'} "
        f"{verdict + ' from' if verdict == ALIKE else verdict + ' than'} {findings.reference_label}"
        for verdict, labels in groups.items()
    ]
    return "; ".join(parts) + "."


def _plot(findings: AblationFindings) -> str:
    rows = gather_differences(findings)
    caption = (
        f"The accuracy less that of {findings.reference_label}. Marks are means over seeds with their 95 % intervals; "
        "faint strokes are single seeds. An interval that crosses the dotted line leaves open which is better. "
        "Intervals are of single comparisons; verdicts are corrected for having made several."
    )
    title = f"Difference from {findings.reference_label}"
    return figure("differences", draw_differences(rows), title, caption) if rows else ""


def _tables(findings: AblationFindings) -> str:
    source = f" The paper's figures: {PAPER_SOURCE}." if has_paper(findings) else ""
    return section(
        "Accuracy",
        table(*result_cells(findings)),
        paragraph(f"{sentence(RESULT_NOTE)} Full figures: ablation.csv, .md and .tex beside this page.", "muted"),
    ) + section(
        "Cost",
        table(*on_two_lines(cost_cells(findings)), kind="plain dense"),
        paragraph(sentence(cost_note(findings)) + source, "muted"),
    )


def _verdicts(findings: AblationFindings) -> str:
    lines = verdict_lines(findings)
    note = (
        "Numbers of seeds are for 80 % power after correction for all comparisons, if the true difference and spread "
        "are those seen here; from a few seeds that is a rough guess."
    )
    return section("What it says", bullet_list(lines), paragraph(note, "muted")) if lines else ""


def _unfinished(findings: AblationFindings) -> str:
    rows = findings.frame[findings.frame["status"] != "ok"]
    cells = [
        (str(trial), source.partition(":")[2], status, error or "-")
        for trial, source, status, error in zip(rows["trial"], rows["source"], rows["status"], rows["error"])
    ]
    header = ("trial", "variant", "state", "reason")
    return section("Trainings without a result", table(header, (True, False, False, False), cells)) if cells else ""


def _method(findings: AblationFindings) -> str:
    study = findings.study
    ablated = study["ablation"]
    changes = {
        variant["name"]: ", ".join(f"{path} = {value}" for path, value in variant["changes"].items())
        for variant in ablated["variants"]
    }
    text = (
        "Every variant is the base with the fields below changed, trained under one recipe with the same seeds. "
        "Trainings of one seed start from the same weights wherever both variants have them, and see the same images "
        "in the same order with the same augmentation, so that differences are taken seed by seed."
    )
    return section(
        "How it was done",
        paragraph(text),
        folded("Variants", fields_table(changes)),
        folded("Base", fields_table(ablated["base_arch"])),
        folded("Training recipe", fields_table(study.get("recipe", {}))),
        folded("Data", fields_table(study.get("data", {}))),
        folded("Machine and versions", fields_table(findings.environment)),
    )


def _caveats(findings: AblationFindings) -> str:
    images = round(1 / findings.step) if findings.step else 0
    items = [
        f"Intervals speak of training again with other seeds, on these {images:,} validation images (one is "
        f"{100 * findings.step:.2g} points). Other images would move all variants, mostly together.",
        "All variants share one recipe; it was chosen for none of them. A longer training may change their order.",
        "Not distinguishable does not mean equal: see what the seeds could have found.",
        "Throughput was measured while trainings ran beside it: a hint. The test split has not been looked at.",
    ]
    if findings.match == "none" and len({result.macs for result in findings.results}) > 1:
        items.append("The variants do not cost the same: part of a difference may be paid for. See MATCH=flops.")
    return section("Read with care", bullet_list(items))
