"""The table of CrossBench: its file, the truth in it, and what random search is expected to find of it."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.crossbench.made_up import made_up_table, table_of_points
from benchmarks.crossbench.random_search import expected_hypervolumes, shuffled_searches, volumes_by_count
from benchmarks.crossbench.table import Table, TableError, Training
from results.pareto import hypervolume
from space import load_space


@pytest.fixture(scope="module")
def made_up() -> Table:
    return made_up_table(load_space("bench").space.for_data(num_classes=10, in_channels=1))


# The table -----------------------------------------------------------------------------------------------------------


def test_a_table_comes_back_from_its_file(made_up: Table, tmp_path: Path) -> None:
    made_up.save(tmp_path / "t.parquet")
    loaded = Table.load(tmp_path / "t.parquet")
    key = str(made_up.frame["arch_key"][7])
    assert loaded.provenance == made_up.provenance
    assert loaded.seeds == (0, 1)
    assert loaded.training(key, 1) == made_up.training(key, 1)
    assert loaded.training("no such key", 0) is None


def test_what_is_no_table_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="make_table"):
        Table.load(tmp_path / "none.parquet")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(TableError, match="where it comes from"):
        Table.load(tmp_path / "other.parquet")


def test_the_truth_is_the_mean_over_the_seeds(made_up: Table) -> None:
    truth = made_up.truth()
    key = truth.keys[100]
    accuracies = [made_up.training(key, seed).metrics["val_accuracy"] for seed in (0, 1)]  # type: ignore[union-attr]
    assert accuracies[0] != accuracies[1]
    assert truth.points[100, 0] == pytest.approx(1.0 - np.mean(accuracies))
    assert truth.points[100, 1] == pytest.approx(np.log10(truth.macs[100]))
    assert truth.reference.tolist() == pytest.approx([1.0, np.log10(3_000_000)])
    assert truth.history(truth.keys)[-1] == pytest.approx(truth.hypervolume)


def test_a_limit_leaves_out_what_is_over_it(made_up: Table) -> None:
    truth = made_up.truth(max_macs=1_000_000)
    assert 0 < len(truth.keys) < 435
    assert truth.macs.max() <= 1_000_000
    assert truth.reference[1] == pytest.approx(6.0)
    with pytest.raises(TableError, match="no architecture"):
        made_up.truth(max_macs=10)


def test_the_front_is_counted_by_size() -> None:
    truth = table_of_points([(0.5, 100), (0.4, 200), (0.6, 300), (0.7, 400), (0.7, 500), (0.65, 600)]).truth()
    assert truth.on_front.tolist() == [True, False, True, True, False, False]
    assert truth.front_by_size() == {"small": 1, "middle": 2, "large": 0}


def test_a_third_objective_is_turned_to_lower_is_better(made_up: Table) -> None:
    truth = made_up.truth(("macs", "throughput_ips"))
    assert truth.points.shape == (435, 3)
    assert truth.points[:, 2] == pytest.approx(truth.points[:, 1] - 9.0)
    # Here the throughput follows from the FLOPs, so it adds no member.
    assert truth.on_front.tolist() == made_up.truth().on_front.tolist()


def test_epochs_share_the_seconds_of_a_training() -> None:
    training = Training("k", "ok", "", "cpu", {"train_cpu_seconds": 8.0}, {"val_accuracy": (0.1, 0.2, 0.3, 0.4)})
    assert [training.seconds_until(epoch) for epoch in (1, 4)] == [2.0, 8.0]


# Random search, exactly ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objectives", [2, 3])
def test_the_expectation_is_that_over_all_subsets(objectives: int) -> None:
    rng = np.random.default_rng(objectives)
    # Few values, so that ties occur; some points lie outside the reference.
    points = rng.integers(0, 6, (7, objectives)) / 5.0
    reference = np.full(objectives, 0.9)
    truth = dataclasses.replace(table_of_points([(0.5, 100)] * 7).truth(), points=points, reference=reference)
    assert not (points < reference).all()
    for draws, expected in enumerate(expected_hypervolumes(truth), start=1):
        subsets = [list(subset) for subset in itertools.combinations(range(7), draws)]
        assert expected == pytest.approx(np.mean([hypervolume(points[subset], reference) for subset in subsets]))


def test_the_cells_add_up_to_the_hypervolume(made_up: Table) -> None:
    for costs in (("macs",), ("macs", "throughput_ips")):
        truth = made_up.truth(costs)
        volumes = volumes_by_count(truth.points, truth.reference)
        assert volumes[1:].sum() == pytest.approx(truth.hypervolume)
        assert expected_hypervolumes(truth)[-1] == pytest.approx(truth.hypervolume)


def test_shuffled_searches_scatter_about_the_expectation(made_up: Table) -> None:
    truth = made_up.truth()
    histories, seconds = shuffled_searches(truth, 60, seed=1)
    error = histories.std(axis=0) / np.sqrt(60)
    assert (np.abs(histories.mean(axis=0) - expected_hypervolumes(truth)) <= 5 * error + 1e-9).all()
    assert seconds[:, -1] == pytest.approx(truth.seconds.sum())
