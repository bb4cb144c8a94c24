"""Functional analysis of variance: against enumeration of the whole space, against a known function, against optuna."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from sklearn.tree import DecisionTreeRegressor

from benchmarks.report_scale import CHOICES, write_ledger
from results.findings import load_findings
from results.importance import MIN_TRIALS, _tree_shares, assess_importance, read_dimensions
from results.report import write_report

SIZES = (2, 3, 4)


def grid(sizes: tuple[int, ...] = SIZES) -> np.ndarray:
    return np.array(list(itertools.product(*map(range, sizes))), dtype=float)


def test_shares_of_a_tree_are_those_of_enumeration() -> None:
    """The definition itself: means of the tree's predictions over all combinations of the other dimensions."""
    rng = np.random.default_rng(0)
    seen = grid()[rng.choice(24, 15, replace=False)]
    tree = DecisionTreeRegressor(random_state=0).fit(seen, rng.normal(size=15))
    values = tree.predict(grid()).reshape(SIZES)
    centred = values - values.mean()
    single = [centred.mean(axis=tuple({0, 1, 2} - {i})) for i in range(3)]
    joint = centred.mean(axis=2) - single[0][:, None] - single[1][None, :]

    found = _tree_shares(tree, SIZES)
    assert found is not None
    alone, pairs = found
    assert [alone[i] for i in range(3)] == pytest.approx([np.mean(effect**2) / values.var() for effect in single])
    assert pairs[0, 1] == pytest.approx(np.mean(joint**2) / values.var())


def table(rng: np.random.Generator, num_trials: int = 400) -> pd.DataFrame:
    return pd.DataFrame(rng.integers(0, 5, size=(num_trials, 3)), columns=["a", "b", "idle"])


def test_a_known_function_is_taken_apart() -> None:
    settings = table(np.random.default_rng(1))
    a, b = settings["a"].to_numpy() - 2.0, settings["b"].to_numpy() - 2.0
    # Over the grid the three terms are uncorrelated, with variances 8, 2 and 4.
    found = assess_importance(settings, 2 * a + b + a * b)
    assert found is not None
    assert found.alone["a"] == pytest.approx(8 / 14, abs=0.05)
    assert found.alone["b"] == pytest.approx(2 / 14, abs=0.05)
    assert found.alone["idle"] < 0.02
    assert found.pairs["a", "b"] == pytest.approx(4 / 14, abs=0.05)
    assert found.explained > 0.9


def test_optuna_agrees() -> None:
    settings = table(np.random.default_rng(2), 200)
    target = (settings["a"] ** 2 + 3 * settings["b"]).to_numpy(dtype=float)
    study = optuna.create_study()
    spread = {name: optuna.distributions.IntDistribution(0, 4) for name in settings}
    for row, value in zip(settings.to_dict("records"), target):
        study.add_trial(optuna.trial.create_trial(params=row, distributions=spread, value=float(value)))
    theirs = optuna.importance.FanovaImportanceEvaluator(seed=0, n_trees=32).evaluate(study)
    ours = assess_importance(settings, target)
    assert ours is not None
    for name in settings:
        assert ours.alone[name] / sum(ours.alone.values()) == pytest.approx(
            theirs[name] / sum(theirs.values()), abs=0.04
        )


def test_names_without_an_order_count_as_well() -> None:
    rng = np.random.default_rng(3)
    settings = pd.DataFrame({"fusion": rng.choice(["x", "y", "z"], 120), "idle": rng.choice([1, "default"], 120)})
    found = assess_importance(settings, settings["fusion"].map({"x": 1.0, "y": 9.0, "z": 2.0}).to_numpy())
    assert found is not None
    assert found.alone["fusion"] > 0.97


def test_the_same_input_gives_the_same_output() -> None:
    settings = table(np.random.default_rng(4), 60)
    target = settings["a"].to_numpy(dtype=float)
    assert assess_importance(settings, target) == assess_importance(settings, target)


@pytest.mark.parametrize("case", ["few", "one dimension", "constant", "none"])
def test_too_little_to_say(case: str) -> None:
    settings = table(np.random.default_rng(5), MIN_TRIALS - 1 if case == "few" else MIN_TRIALS)
    if case == "one dimension":
        settings[["b", "idle"]] = 1
    target = np.ones(len(settings)) if case == "constant" else settings["a"].to_numpy(dtype=float)
    if case == "none":
        settings, target = settings.iloc[:0], target[:0]
    assert assess_importance(settings, target) is None


def test_dimensions_are_read_from_a_record() -> None:
    arch = {"branches": [{"embed_dim": 8}, {"embed_dim": 16}], "encoders": [{"depths": [1, 2]}, {"depths": [1, 2]}]}
    paths = ("num_encoders", "branches.*.embed_dim", "encoders.*.depths.1", "encoders.*.fusion", "branches.0.novel")
    assert read_dimensions(arch, paths) == (2, "8/16", 2, "cross_attention", "default")


def test_the_report_says_what_matters(tmp_path: Path) -> None:
    write_ledger(tmp_path / "s", trials=60, architectures=60)
    findings = load_findings(tmp_path / "s")
    assert list(findings.settings) == list(CHOICES)
    assert set(findings.importance) == {"val_accuracy", "macs", "throughput_ips"}
    assert findings.importance["macs"].alone["encoders.*.fusion"] < 0.05
    page = write_report(tmp_path / "s").read_text(encoding="utf-8")
    assert "Which dimensions matter" in page
    assert "Functional analysis of variance" in page


def test_one_dimension_alone_is_not_assessed(new_study: Any, tmp_path: Path) -> None:
    study = new_study(space={"name": "small", "dimensions": {"encoders.*.fusion": [], "branches.0.embed_dim": []}})
    for index in range(30):
        study.add(0.5 + 0.1 * (index % 3), 1000, fusion=("none", "pairwise", "cross_attention")[index % 3])
    assert load_findings(tmp_path / "s").importance == {}
