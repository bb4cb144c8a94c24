"""Components added to a base, one at a time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from crossvit_core.config import ArchConfig, EncoderConfig
from crossvit_core.cost import count_cost
from crossvit_core.model import build_model
from crossvit_core.presets import PRESETS
from results.ablation import load_ablation
from results.ablation_page import build_page
from results.ablation_record import COMPONENT, PLAIN
from search.ablation import AblationConfig, resolve_ablation, run_ablation
from search.components import COMPONENTS, add_components
from search.executors.local import InProcessExecutor
from search.study_config import StudyConfig
from search.variants import AblationError

MICRO = PRESETS["crossvit_micro_32"]
SHALLOW = MICRO.replace(encoders=(EncoderConfig(depths=(1, 1)),))


def test_each_is_one_change_of_the_base_that_can_be_built() -> None:
    variants = add_components(MICRO, tuple(COMPONENTS))
    assert [variant.name for variant in variants] == [PLAIN, *COMPONENTS]
    assert len({variant.arch.key() for variant in variants}) == len(variants)
    for variant in variants:
        built = sum(parameter.numel() for parameter in build_model(variant.arch).parameters())
        assert built == count_cost(variant.arch).params


@pytest.mark.parametrize(
    ("base", "name", "message"),
    [
        (MICRO, "windws", "unknown component 'windws'; did you mean 'windows'"),
        (SHALLOW, "exshortcut", "'exshortcut' changes nothing: it needs at least two encoders"),
        (SHALLOW, "residual_attention", "needs a branch with at least two blocks"),
        (SHALLOW, "residual_fusion", "needs at least two encoders with cross-attention"),
    ],
)
def test_what_cannot_be_added_is_told(base: ArchConfig, name: str, message: str) -> None:
    with pytest.raises(AblationError, match=message):
        add_components(base, (name,))


def test_a_component_that_the_base_has_is_no_component() -> None:
    base = MICRO.replace(branches=tuple(replace(branch, conv_path=True) for branch in MICRO.branches))
    with pytest.raises(AblationError, match="'conv_path' changes nothing"):
        add_components(base, ("conv_path",))


def test_all_are_those_that_change_the_base_and_the_others_are_told(tmp_path: Path) -> None:
    base = tmp_path / "shallow.json"
    base.write_text(json.dumps(PRESETS["crossvit_nano_16"].replace(encoders=SHALLOW.encoders).to_dict()))
    study = StudyConfig(runs_dir=tmp_path, settings={"epochs": 1})
    ablation = resolve_ablation(
        AblationConfig(base=str(base), dimension=COMPONENT, values=("all",), seeds=2, study=study)
    )
    names = [variant.name for variant in ablation.variants]
    assert names == [PLAIN, "reduction_stem", "conv_path", "windows"]
    [note] = [note for note in ablation.notes if note.startswith("left out")]
    assert "exshortcut (it needs at least two encoders)" in note


@pytest.mark.slow
def test_an_ablation_of_components_compares_them_with_the_plain_base(tmp_path: Path) -> None:
    study = StudyConfig(runs_dir=tmp_path, executor="local", settings={"epochs": 1}, keep_weights=False)
    names = ("residual_attention", "windows")
    config = AblationConfig(base="crossvit_micro_16", dimension=COMPONENT, values=names, seeds=2, study=study)
    ablation = resolve_ablation(config)
    run_ablation(ablation, InProcessExecutor())
    findings = load_ablation(ablation.path)
    assert ablation.name.startswith("ablation-components-crossvit_micro_16")
    assert [result.label for result in findings.results] == ["plain", "residual attention", "windows"]
    assert all(len(result.accuracies) == 2 for result in findings.results)
    assert findings.reference_label == "plain"
    counted = "2 components, each added alone to the base crossvit_micro_16, and the plain base, trained on"
    assert counted in build_page(findings)
