"""What an ablation says: comparisons, and their words, tables and page."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from crossvit_core.config import FUSION_NAMES
from crossvit_core.cost import count_cost
from crossvit_core.presets import PRESETS
from results.ablation import ALIKE, PAPER_TABLE_6, TOO_FEW, WORSE, compare, load_ablation
from results.ablation_page import build_page, summary, write_ablation
from results.ablation_record import FUSION
from results.ablation_tables import (
    cost_cells,
    result_cells,
    rich_tables,
    to_csv,
    to_latex,
    to_markdown,
    verdict_lines,
    what_it_takes,
)
from results.plots_ablation import gather_differences
from results.records import Asked, Finished
from results.store import StoreError, StudyStore
from search.ablation import Ablation, AblationConfig, resolve_ablation, run_ablation
from search.executors.local import InProcessExecutor
from search.reporting import show_report
from search.study_config import StudyConfig
from search.synthetic import SyntheticEvaluation
from search.variants import vary


def resolve(tmp_path: Path, **asked: object) -> Ablation:
    study = StudyConfig(runs_dir=tmp_path / "runs", executor="local", settings={"epochs": 1}, keep_weights=False)
    return resolve_ablation(AblationConfig(**{"base": "crossvit_nano_16", "seeds": 2, "study": study, **asked}))  # type: ignore[arg-type]


STEP = 1 / 200
SEEDS = ("11", "12", "13", "14")


def accuracies(*images: int) -> dict[str, float]:
    return {seed: 0.9 + count * STEP for seed, count in zip(SEEDS, images)}


def test_a_comparison_is_paired_corrected_and_says_what_it_would_take() -> None:
    found = compare(
        {
            "a": accuracies(0, 4, 8, 2),
            "worse": accuracies(-20, -15, -12, -18),
            "alike": accuracies(2, 3, 8, 4),
            "short": accuracies(1),
        },
        "a",
        STEP,
    )
    assert (found["worse"].verdict, found["alike"].verdict, found["short"].verdict) == (WORSE, ALIKE, TOO_FEW)
    assert (found["alike"].n, found["short"].n) == (4, 1)
    assert found["alike"].difference == pytest.approx(0.75 * STEP)
    assert found["alike"].p_holm >= found["alike"].p
    assert found["worse"].p_holm == pytest.approx(2 * found["worse"].p)
    assert (found["alike"].enough_seeds or 0) > 4
    assert found["alike"].detectable > found["alike"].difference
    assert found["worse"].high < 0


def test_two_scattered_seeds_find_nothing() -> None:
    found = compare({"a": accuracies(0, 0), "b": accuracies(-60, 40)}, "a", STEP)["b"]
    assert found.detectable > 1
    assert what_it_takes(found).endswith("; 2 seeds find no difference at all with 80 % power.")


def test_values_of_a_dimension_are_told_apart_in_words_and_in_the_plot(tmp_path: Path) -> None:
    ablation = resolve(tmp_path, dimension="branches.0.patch_size", values=(2, 4, 8))
    run_ablation(ablation, InProcessExecutor(SyntheticEvaluation()))
    findings = load_ablation(ablation.path)
    assert findings.reference_label == "patch_size 4"
    assert [row.label for row in gather_differences(findings)] == ["patch_size 2", "patch_size 8"]
    assert all(line.startswith("patch_size ") for line in verdict_lines(findings))
    assert "3 values of branches.0.patch_size on the base crossvit_nano_16" in build_page(findings)
    assert "paper" not in cost_cells(findings).header[-1]
    assert "paper M" not in build_page(findings)
    assert not any("paper M" in str(each.caption) for each in rich_tables(findings))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ablation as its records, written without training: one scheme worse, two of them one function, one failed."""
    ablation = resolve(tmp_path_factory.mktemp("ablation"), seeds=4)
    images = {"none": (-20, -15, -12, -18), "cross_attention": (0, 4, 8, 2), "all_attention": (2, 3, 8, 4)}
    store = StudyStore.create(ablation.path, ablation.describe())
    with store:
        for number, item in enumerate(ablation.trial_list()):
            name, index = item.source.partition(":")[2], number // 5
            accuracy = 0.9 + images.get(name, (1, 1, 7, 3))[index] * STEP
            failed = name == "pairwise" and index == 3
            metrics = {"val_accuracy": accuracy, "val_loss": 1 - accuracy, "throughput_ips": 1000.0 + index}
            common = {"arch_key": item.arch.key(), "arch": item.arch.to_dict(), "seed": item.seed}
            store.append(Asked(trial=number, source=item.source, **common))  # type: ignore[arg-type]
            store.append(
                Finished(
                    trial=number,
                    status="failed" if failed else "ok",
                    seconds=1.0,
                    device="cpu",
                    metrics={} if failed else {**metrics, "val_accuracy_branch_0": 0.5, "val_accuracy_branch_1": 0.8},
                    error="<b>diverged</b>" if failed else "",
                    **common,  # type: ignore[arg-type]
                )
            )
    return ablation.path


def test_tables_show_ours_beside_the_papers(written: Path) -> None:
    findings = load_ablation(written)
    rows = {row[0]: row for row in result_cells(findings).rows}
    assert rows["no fusion"][-1] == "worse"
    assert rows["all-attention"][-1] == "not distinguishable"
    assert rows["cross-attention"][2:] == ("-", "-", "4", "reference")
    assert rows["pairwise"][4] == "3"
    costs = {row[0]: row for row in cost_cells(findings).rows}
    assert costs["cross-attention"][4:] == ("50.0, 80.0", "81.0", "5.6", "26.7", "47.2, 68.1")
    assert to_csv(findings).count("\n") == 6
    assert "verdict" in to_csv(findings).splitlines()[0]
    assert to_latex(findings).count(r"\begin{tabular}") == 2
    assert "±" not in to_latex(findings)
    assert len(rich_tables(findings)) == 2
    assert "; paper M: million parameters" in str(rich_tables(findings)[1].caption)
    assert "; paper M: million parameters." in build_page(findings)
    assert '<th class="number">paper\nalone (%)</th>' in build_page(findings)  # on two lines: the table is wide


def test_what_cannot_be_told_apart_is_said_with_what_it_would_take(written: Path) -> None:
    findings = load_ablation(written)
    lines = verdict_lines(findings)
    alike = next(line for line in lines if line.startswith("all-attention"))
    assert "not distinguishable from cross-attention with 4 seeds" in alike
    assert "seeds would settle a difference of this size; the smallest that 4 find with 80 % power" in alike
    assert summary(findings).startswith("no fusion is worse than cross-attention; ")
    assert any(line in to_markdown(findings) for line in lines)


def test_the_page_is_written_and_escapes_what_comes_in(written: Path) -> None:
    page = write_ablation(written)
    first = page.read_text(encoding="utf-8")
    assert "&lt;b&gt;diverged" in first
    assert "<b>diverged" not in first.split("<script")[0]
    assert build_page(load_ablation(written)) == first
    assert sorted(path.name for path in page.parent.iterdir()) == [
        "ablation.csv",
        "ablation.html",
        "ablation.md",
        "ablation.tex",
    ]


def test_the_report_of_an_ablation_brings_its_own_page(written: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    (written / "report" / "ablation.html").unlink(missing_ok=True)
    show_report(written, console)
    assert (written / "report" / "ablation.html").is_file()
    assert "ablation.html" in console.file.getvalue()  # type: ignore[attr-defined]


def test_an_ablation_that_has_not_begun_has_a_page(tmp_path: Path) -> None:
    ablation = resolve(tmp_path)
    StudyStore.create(ablation.path, ablation.describe()).close()
    assert "too few of them have finished" in write_ablation(ablation.path).read_text(encoding="utf-8")
    assert all(math.isnan(result.mean) for result in load_ablation(ablation.path).results)


def test_an_ordinary_study_is_no_ablation(tmp_path: Path) -> None:
    StudyStore.create(tmp_path / "s", {"name": "s"}).close()
    with pytest.raises(StoreError, match="study 's' is no ablation"):
        load_ablation(tmp_path / "s")


def test_the_papers_figures_are_those_of_the_fixture() -> None:
    """arXiv 2103.14899, Table 6."""
    assert [(name, row.top1, row.gmacs, row.mparams) for name, row in PAPER_TABLE_6.items()] == [
        ("none", 80.2, 5.3, 23.7),
        ("all_attention", 80.0, 7.6, 27.7),
        ("class_token", 80.3, 5.4, 24.2),
        ("pairwise", 80.3, 5.5, 24.2),
        ("cross_attention", 81.0, 5.6, 26.7),
    ]
    for name, row in PAPER_TABLE_6.items():
        arch = next(v.arch for v in vary(PRESETS["crossvit_small_240"], FUSION, FUSION_NAMES) if v.name == name)
        assert round(count_cost(arch).macs / 1e9, 1) == row.gmacs
