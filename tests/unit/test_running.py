"""What the commands say of a study before it runs: of the one that is there, and nothing of one that is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from results.store import StoreError, StudyBusyError
from search.ablation import AblationConfig, resolve_ablation
from search.commands import ablate as ablate_command
from search.commands import search as search_command
from search.executors.local import InProcessExecutor
from search.study import resolve_study, run_study
from search.study_config import StudyConfig
from search.study_folder import open_study
from search.synthetic import SyntheticEvaluation


@pytest.fixture
def finished(tmp_path: Path) -> StudyConfig:
    """Of a study that has its 4 trials."""
    config = StudyConfig(space="smoke", name="int", trials=4, executor="local", runs_dir=tmp_path)
    run_study(resolve_study(config), InProcessExecutor(SyntheticEvaluation()))
    return config


def test_a_search_that_is_refused_is_not_described_first(
    finished: StudyConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StoreError, match="was started with something else"):
        search_command._search(dataclasses.replace(finished, trials=12, settings={"epochs": 9}))
    with open_study(resolve_study(finished)), pytest.raises(StudyBusyError):
        search_command._search(finished)
    assert capsys.readouterr().out == ""


def test_a_study_that_has_more_trials_than_it_is_asked_for_says_so(
    finished: StudyConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        search_command._search(dataclasses.replace(finished, trials=1))
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("study int: 4 trials over 45 architectures")
        surplus = lines.index("it has 4 trials already, more than the 1 asked for: no new one is begun")
        assert lines[surplus + 1] == "4 of 4 trials are done"
    search_command._search(finished)
    assert "already" not in capsys.readouterr().out


def test_one_trial_is_no_trials(finished: StudyConfig) -> None:
    study = resolve_study(dataclasses.replace(finished, name="one", trials=1))
    assert search_command._headline(study, study.trials).startswith("study one: 1 trial over 45 architectures")


def test_an_ablation_is_described_as_a_search_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = AblationConfig(
        base="crossvit_nano_16",
        values=("none", "cross_attention"),
        seeds=3,
        study=StudyConfig(name="abl", runs_dir=tmp_path),
    )
    executor = InProcessExecutor(SyntheticEvaluation())
    ablate_command._run(resolve_ablation(config), config, executor)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("study abl: encoders.*.fusion = none, cross_attention on crossvit_nano_16, 3 seeds each")
    assert any(line.startswith("[6/6] cross_attention, run 3 of 3  ") for line in lines)
    fewer = dataclasses.replace(config, seeds=2)
    ablate_command._run(resolve_ablation(fewer), fewer, executor)
    assert "it has 6 trials already, more than the 4 asked for: no new one is begun" in capsys.readouterr().out
    other = dataclasses.replace(config, reference="none")
    with pytest.raises(StoreError, match="was started with something else"):
        ablate_command._run(resolve_ablation(other), other, executor)
    assert capsys.readouterr().out == ""
