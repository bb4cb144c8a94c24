"""Ablations: which variants, paired how, compared how, and told in words, tables and a page."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from crossvit_core.branches import score_branches, share_initial_weights
from crossvit_core.config import FUSION_NAMES, ArchConfig, ArchError
from crossvit_core.cost import count_cost
from crossvit_core.data import ImageData, load_dataset
from crossvit_core.model import build_model
from crossvit_core.presets import PRESETS
from crossvit_core.recipe import TrainRecipe
from crossvit_core.train import open_split, score, train_model
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
from results.records import Finished
from results.store import StoreError, StudyStore
from search.ablation import Ablation, AblationConfig, resolve_ablation, run_ablation
from search.executors.local import InProcessExecutor
from search.plan import MeasurePlan
from search.study_config import StudyConfig
from search.synthetic import SyntheticEvaluation
from search.variants import AblationError, match_flops, mismatch, vary, widths_of
from space import SpaceError

NANO = PRESETS["crossvit_nano_16"].replace(in_channels=1)
CROSSVIT = str(Path(sys.executable).with_name("crossvit"))


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_dataset("digits", image_size=(16, 16))


def resolve(tmp_path: Path, **asked: object) -> Ablation:
    study = StudyConfig(runs_dir=tmp_path / "runs", executor="local", settings={"epochs": 1}, keep_weights=False)
    return resolve_ablation(AblationConfig(**{"base": "crossvit_nano_16", "seeds": 2, "study": study, **asked}))  # type: ignore[arg-type]


def arch_of(fusion: str) -> ArchConfig:
    return next(variant.arch for variant in vary(NANO, FUSION, FUSION_NAMES) if variant.name == fusion)


# Variants ------------------------------------------------------------------------------------------------------------


def test_any_field_can_be_varied() -> None:
    variants = vary(NANO, "branches.0.patch_size", (2, 4, 8))
    assert [(variant.name, variant.arch.branches[0].patch_size) for variant in variants] == [
        ("2", 2),
        ("4", 4),
        ("8", 8),
    ]
    assert [variant.name for variant in vary(NANO, "encoders.*.depths", ([1, 1], [1, 2]))] == ["1+1", "1+2"]


@pytest.mark.parametrize("base", ["crossvit_nano_16", "crossvit_micro_32", "crossvit_small_240"])
def test_widths_bring_schemes_near_to_equal_flops(base: str) -> None:
    variants = vary(PRESETS[base], FUSION, FUSION_NAMES)
    target = count_cost(next(v.arch for v in variants if v.name == "cross_attention")).macs
    for variant in variants:
        matched = match_flops(variant, target)
        assert abs(mismatch(matched.arch, target)) <= abs(mismatch(variant.arch, target))
        assert abs(mismatch(matched.arch, target)) < 0.025
        assert all(branch.embed_dim % branch.num_heads == 0 for branch in matched.arch.branches)
        assert matched.arch.encoders == variant.arch.encoders


def test_an_impossible_match_names_the_nearest() -> None:
    variant = vary(NANO, FUSION, FUSION_NAMES)[0]
    with pytest.raises(
        AblationError, match=r"'none' cannot be matched to 9\d\d k?.*nearest, 2/2, has .*use --match none"
    ):
        match_flops(variant, 950)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"values": ("pairwize", "none")}, "unknown fusion scheme 'pairwize'; did you mean 'pairwise'"),
        ({"values": ("none",)}, "compares at least 2 values"),
        ({"values": ("none", "none")}, "one and the same network"),
        ({"seeds": 1}, "at least 2 seeds, got 1: from one training of each"),
        ({"match": "flop"}, "unknown match 'flop'; did you mean 'flops'"),
        ({"dimension": "branches.0.patchsize", "values": (2, 4)}, "did you mean 'patch_size'"),
        ({"dimension": "branches.0.patch_size"}, r"give --values \(no space is given\)"),
        ({"dimension": "encoders.3.fusion", "values": ("none", "pairwise")}, "it has 1 encoders"),
        ({"dimension": "branches.0.patch_size", "values": (3, 4)}, "variant '3' of the base cannot be built"),
        ({"reference": "cross_atention"}, "'cross_atention' takes no part; did you mean 'cross_attention'"),
        (
            {"dimension": "branches.0.embed_dim", "values": (8, 16), "match": "flops"},
            "'branches.0.embed_dim' varies itself",
        ),
        ({"base": "crossvit_nan_16"}, "did you mean 'crossvit_nano_16'"),
        ({"base": "crossvit_micro_16", "space": "smoke"}, "'crossvit_micro_16' is no member of the space 'smoke'"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, asked: dict[str, object], message: str) -> None:
    with pytest.raises((AblationError, ArchError), match=message):
        resolve(tmp_path, **asked)
    assert not (tmp_path / "runs" / "ablation-fusion-crossvit_nano_16-digits").exists()


def test_a_space_says_which_values_there_are(tmp_path: Path) -> None:
    ablation = resolve(tmp_path, base=None, space="smoke", dimension="branches.0.embed_dim")
    assert [variant.name for variant in ablation.variants] == ["8", "16", "24"]
    assert ablation.ablated["reference"] == "16"  # the base's own
    assert ablation.name == "ablation-branches.0.embed_dim-smoke-digits"
    with pytest.raises(SpaceError, match="unknown space"):
        resolve(tmp_path, base=None, space="smok")


# Pairing -------------------------------------------------------------------------------------------------------------


class Witness(nn.Module):
    """The network, noting what it was shown in training."""

    def __init__(self, arch: ArchConfig, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.inner = build_model(arch, drop_path_rate=0.1)
        self.seen: list[float] = []

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            places = torch.arange(1.0, images.numel() + 1).view_as(images)
            self.seen.append(float((images.double() * places).sum()))
        return self.inner(images)


def images_seen(fusion: str, seed: int, data: ImageData) -> list[float]:
    witness = Witness(arch_of(fusion), seed)
    list(train_model(witness, data, TrainRecipe(epochs=2, mixup=0.2, augment="shift_flip"), seed=seed))
    return witness.seen


def test_order_and_augmentation_hang_on_the_seed_alone(digits: ImageData) -> None:
    reference = images_seen("cross_attention", 5, digits)
    assert len(set(reference)) == len(reference) > 10
    assert images_seen("none", 5, digits) == reference
    assert images_seen("all_attention", 5, digits) == reference
    assert images_seen("cross_attention", 6, digits) != reference


def test_one_seed_gives_the_same_initial_weights_wherever_there_are_the_same() -> None:
    reference = arch_of("cross_attention")
    torch.manual_seed(7)
    expected = dict(build_model(reference).named_parameters())
    for fusion in FUSION_NAMES:
        torch.manual_seed(7)
        model = build_model(arch_of(fusion))
        shared = share_initial_weights(model, reference, 7)
        own = dict(model.named_parameters())
        assert all(torch.equal(own[name], expected[name]) for name in shared)
        assert {name for name in own if not name.startswith("blocks.0.") or ".blocks." in name} <= set(shared)
        if fusion == "cross_attention":
            assert set(shared) == set(own)


def test_branches_are_scored_by_their_own_token_and_head(digits: ImageData) -> None:
    model = build_model(NANO)
    list(train_model(model, digits, TrainRecipe(epochs=3), seed=0))
    val = open_split(digits, "val", "cpu")
    alone = score_branches(model, val, device="cpu")
    for index, accuracy in enumerate(alone):
        with torch.no_grad():
            for other, linear in enumerate(model.head):  # type: ignore[arg-type]
                if other != index:
                    kept = {name: value.clone() for name, value in linear.state_dict().items()}
                    linear.weight.zero_(), linear.bias.zero_()
                    silenced = linear
        assert score(model, val, device="cpu")[1] == pytest.approx(accuracy)
        silenced.load_state_dict(kept)
    assert alone[0] != alone[1]


# The study -----------------------------------------------------------------------------------------------------------


def test_it_runs_and_more_seeds_go_on_with_it(tmp_path: Path) -> None:
    ablation = resolve(tmp_path, values=("none", "cross_attention"))
    quick = dataclasses.replace(ablation.plan, measure=MeasurePlan(pairs=10, window_ms=1.0))
    ablation = dataclasses.replace(ablation, plan=quick)
    outcomes = run_ablation(ablation, InProcessExecutor()).outcomes
    assert [outcome.status for outcome in outcomes] == ["ok"] * 4
    seeds = [outcome.seed for outcome in outcomes]
    assert seeds == [seeds[0], seeds[0], seeds[2], seeds[2]]
    assert seeds[0] != seeds[2]
    assert {"val_accuracy_branch_0", "val_accuracy_branch_1"} <= set(outcomes[0].metrics)
    longer = dataclasses.replace(resolve(tmp_path, values=("none", "cross_attention"), seeds=3), plan=quick)
    session = run_ablation(longer, InProcessExecutor(SyntheticEvaluation()))
    assert session.outcomes[:4] == outcomes
    assert len(session.outcomes) == 6
    for change in ({"values": ("none", "pairwise", "cross_attention")}, {"reference": "none"}):
        other = resolve(tmp_path, **{"values": ("none", "cross_attention"), **change})
        with pytest.raises(StoreError, match="was started with something else"):
            run_ablation(dataclasses.replace(other, plan=quick), InProcessExecutor())


def test_a_base_from_a_study_comes_with_its_data_and_recipe(tmp_path: Path) -> None:
    first = resolve(tmp_path, study=StudyConfig(name="s", runs_dir=tmp_path, settings={"epochs": 2, "lr": 0.002}))
    run_ablation(first, InProcessExecutor(SyntheticEvaluation()))
    again = resolve(tmp_path, base="s:1", study=StudyConfig(runs_dir=tmp_path))
    assert again.plan.recipe == first.plan.recipe
    assert again.data.fingerprint == first.data.fingerprint
    assert again.space.base == first.variants[1].arch


KILLED = """
import sys
from pathlib import Path
from search.ablation import AblationConfig, resolve_ablation, run_ablation
from search.executors.local import InProcessExecutor
from search.study_config import StudyConfig
from search.synthetic import SyntheticEvaluation
study = StudyConfig(runs_dir=Path(sys.argv[1]), executor="local")
ablation = resolve_ablation(AblationConfig(base="crossvit_nano_16", seeds=4, study=study))
run_ablation(ablation, InProcessExecutor(SyntheticEvaluation(seconds=float(sys.argv[2]))))
"""


@pytest.mark.slow
def test_kill_9_loses_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), "0.03"])
    study = tmp_path / "ablation-fusion-crossvit_nano_16-digits"
    deadline = time.monotonic() + 90
    while len(before := finished_in(study)) < 7:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    before = finished_in(study)
    assert len(before) < 20
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), "0"], check=True, timeout=120)
    after = finished_in(study)
    assert after[: len(before)] == before
    assert Counter(finished.trial for finished in after) == Counter(range(20))
    assert Counter(Counter((f.arch_key, f.seed) for f in after).values()) == {1: 20}


def finished_in(study: Path) -> list[Finished]:
    if not StudyStore.exists(study):
        return []
    return [event for event in StudyStore.open_readonly(study).events() if isinstance(event, Finished)]


# What it says --------------------------------------------------------------------------------------------------------

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
            store.append(asked(number, item.source, common))
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


def asked(number: int, source: str, common: dict[str, object]) -> object:
    from results.records import Asked

    return Asked(trial=number, source=source, **common)  # type: ignore[arg-type]


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


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command_answers_bad_input_in_one_line(tmp_path: Path) -> None:
    command = [CROSSVIT, "ablate", "--schemes", "none,crossattention"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 2
    assert "did you mean 'cross_attention'" in run.stderr
    assert run.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_widths_are_written_short() -> None:
    assert widths_of(NANO) == "16/32"
    assert json.dumps(dict(vary(NANO, FUSION, FUSION_NAMES)[0].changes)) == '{"encoders.*.fusion": "none"}'
