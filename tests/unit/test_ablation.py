"""Ablations: which variants, paired how, run how."""

from __future__ import annotations

import dataclasses
import json
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
from results.ablation_record import FUSION
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
        ({"dimension": "branches.0.patch_size"}, r"give --values \(make: VALUES=\); no space is given"),
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


def test_variants_outside_the_limits_of_their_space_are_told(tmp_path: Path) -> None:
    ablation = resolve(tmp_path, base=None, space="smoke", dimension="branches.1.embed_dim", values=(32, 256))
    [note] = [note for note in ablation.notes if "outside the limits" in note]
    assert note.startswith("256 lies outside the limits of smoke: macs is ")
    inside = resolve(tmp_path, base=None, space="smoke", dimension="branches.0.embed_dim")
    assert not any("outside the limits" in note for note in inside.notes)


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
    list(train_model(witness, data, TrainRecipe(epochs=2, batch_size=128, mixup=0.2, augment="shift_flip"), seed=seed))
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
