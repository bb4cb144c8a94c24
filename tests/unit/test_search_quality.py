"""The race of search methods on a table: how a run is scored, what is summed up, and that every method runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.crossbench.made_up import made_up_table, table_of_points
from benchmarks.crossbench.plain_optuna import HUB_PRUNER, PLAIN_SAMPLERS, PlainOptuna
from benchmarks.crossbench.race import METHODS, Run, Setting, run_method, score_run
from benchmarks.crossbench.summary import RANDOM, curves, random_scores, ratio_of_medians, reach, summarise
from benchmarks.crossbench.svg_plot import Line, Panel, draw_panels
from benchmarks.crossbench.table import Table
from benchmarks.search_quality import main
from crossvit_core.cost import count_cost
from results.pareto import hypervolume
from search.objectives import find_objectives
from space import Space, load_space


@pytest.fixture(scope="module")
def space() -> Space:
    return load_space("bench").space.for_data(num_classes=10, in_channels=1)


@pytest.fixture(scope="module")
def made_up(space: Space) -> Table:
    return made_up_table(space)


def test_a_run_is_scored_by_what_was_trained_to_the_end() -> None:
    truth = table_of_points([(0.5, 100), (0.4, 200), (0.6, 300), (0.7, 400), (0.7, 500), (0.65, 600)]).truth()
    keys = ("k1", "k0", "k0", "far", "k2", "k3")
    statuses = ("ok", "ok", "ok", "infeasible", "stopped", "ok")
    score = score_run(Run("m", 3e6, 0, keys, statuses, (1.0, 2.0, 2.0, 0.0, 0.5, 4.0)), truth)
    expected = [hypervolume(truth.points[rows], truth.reference) for rows in ([1], [1, 0], [1, 0], [1, 0], [0, 1, 3])]
    assert score.shares == pytest.approx(np.array(expected) / truth.hypervolume)
    assert score.seconds == pytest.approx([1.0, 3.0, 5.0, 5.5, 9.5])
    assert (score.completed, score.stopped, score.proposed, score.over_limit, score.duplicates) == (4, 1, 6, 1, 1)
    assert score.met.tolist() == [1, 2, 0] and score.killed.tolist() == [0, 1, 0]


def test_the_place_where_a_share_is_reached() -> None:
    truth = table_of_points([(0.5, 100), (0.6, 300)]).truth()
    score = score_run(Run("m", 3e6, 0, ("k1", "k0"), ("ok", "ok"), (5.0, 7.0)), truth)
    assert reach(score, 1.0) == (2.0, 12.0)
    assert reach(score, 0.1) == (1.0, 5.0)
    half = score_run(Run("m", 3e6, 0, ("k1",), ("ok",), (5.0,)), truth)
    assert reach(half, 1.0) == (np.inf, np.inf)


def test_ratios_carry_their_uncertainty_and_survive_infinity() -> None:
    values, others = np.arange(1.0, 12.0), np.arange(10.0, 120.0, 10.0)
    point, low, high = ratio_of_medians(values, others)
    assert point == pytest.approx(0.1) and low < 0.1 < high
    never = np.full(3, np.inf)
    assert ratio_of_medians(np.array([1.0, np.inf, np.inf]), others)[0] == np.inf
    assert ratio_of_medians(values, never) == (0.0, 0.0, 0.0)
    assert ratio_of_medians(never, never) == (np.inf, np.inf, np.inf)


def test_plain_optuna_proposes_what_ours_never_does(made_up: Table, space: Space) -> None:
    setting = Setting(made_up, 400_000, Path("nowhere"))
    plain = score_run(run_method(setting, "optuna nsga2_12", 0, 150), setting.truth)
    ours = score_run(run_method(setting, "nsga2 + none", 0, 150), setting.truth)
    assert plain.over_limit > 0 and plain.duplicates > 0
    assert ours.over_limit == 0 and ours.duplicates == 0
    assert ours.completed == 150 and plain.completed == 150 - plain.over_limit


def test_plain_optuna_tells_the_limit_as_a_constraint(space: Space) -> None:
    searcher = PlainOptuna(
        space, find_objectives(("val_accuracy", "macs")), PLAIN_SAMPLERS["random"](0), max_macs=300_000
    )
    proposals = [searcher.ask(number, ()) for number in range(20)]
    values = [trial.constraints["macs"] for trial in searcher.trials]
    macs = [count_cost(proposal.arch).macs for proposal in proposals if proposal is not None]
    assert [value > 0 for value in values] == [count > 300_000 for count in macs]
    assert {value > 0 for value in values} == {True, False}


def test_every_method_runs_and_the_summary_has_it(made_up: Table) -> None:
    setting = Setting(made_up, 3e6, Path("nowhere"))
    names = [name for name in METHODS if "hub" not in name]
    truth = setting.truth
    scores = {RANDOM: random_scores(truth, 20)}
    scores |= {name: [score_run(run_method(setting, name, 0, 24), truth)] for name in names}
    frame = summarise(scores, 3e6).set_index("method")
    assert set(frame.index) == {RANDOM, *names}
    assert frame.loc[RANDOM, "times_random_95"] == 1.0
    assert frame.loc["optuna nsga2_12", "times_nsga2_12_90"] in (1.0, np.inf)
    assert (frame.loc[names, "evaluations"] <= 24).all()
    lines = curves(scores, 3e6)
    assert (lines["q25"] <= lines["median"]).all() and (lines["median"] <= lines["q75"]).all()
    assert lines.groupby(["method", "axis"])["median"].is_monotonic_increasing.all()


_HUB = """
class MultiMetricPrunerTrial:
    def __init__(self, trial):
        self.trial = trial

    def report(self, metrics, step):
        self.metrics = metrics

    def should_prune(self):
        return self.metrics["macs"] > 0.2 and self.metrics["val_accuracy"] < 0.99


def MultiMetricPruner(pruner, metric_directions, joint):
    return pruner
"""


def test_a_pruner_of_the_hub_stops_trials(tmp_path: Path, made_up: Table) -> None:
    package = tmp_path / HUB_PRUNER
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(_HUB, encoding="utf-8")
    setting = Setting(made_up, 3e6, tmp_path)
    score = score_run(run_method(setting, "optuna random + hub pruner", 0, 24), setting.truth)
    assert 0 < score.stopped < 24 and score.completed > 0


def test_a_picture_has_every_line() -> None:
    line = Line([1, 10, 100], [0.5, 0.6, 0.7], [0.6, 0.7, 0.8], [0.7, 0.8, 0.9], "#123456")
    picture = draw_panels([Panel("x & y", {"a < b": line})])
    assert picture.count("#123456") == 3 and "a &lt; b" in picture and "x &amp; y" in picture


def test_the_command_writes_its_files_and_goes_on_from_kept_runs(
    tmp_path: Path, made_up: Table, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _save_whole(made_up, tmp_path / "t.parquet")
    command = f"search_quality --table {tmp_path}/t.parquet --out {tmp_path}/out --kept {tmp_path}/kept.jsonl"
    command += f" --seeds 2 --trials 12 --permutations 40 --max-macs 3000000 --hub-registry {tmp_path}/none --methods"
    monkeypatch.setattr("sys.argv", [*command.split(), "random + none,optuna tpe + hub pruner"])
    assert main() == 0
    kept = (tmp_path / "kept.jsonl").read_text(encoding="utf-8")
    assert "no checkout" in capsys.readouterr().out
    first = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert main() == 0
    assert (tmp_path / "kept.jsonl").read_text(encoding="utf-8") == kept and kept.count("\n") == 2
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out" / "summary.csv"), first)
    readme = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "`optuna tpe + hub pruner` was not raced" in readme and "| random + none | 2 |" in readme
    assert "not whole" not in readme
    assert (tmp_path / "out" / "plot.svg").read_text(encoding="utf-8").count("<text") > 20


def _save_whole(table: Table, path: Path) -> None:
    """With the provenance that a report quotes."""
    made = {"device": "a CPU", "cores": 2, "packages": {"torch": "2.15.0"}, "date": "2026-01-01"}
    Table(table.frame, {**table.provenance, **made}).save(path)


@pytest.mark.parametrize(
    ("option", "message"), [("--methods tpee*", "no method matches 'tpee*'"), ("--table none", "no table at none")]
)
def test_bad_input_is_one_sentence(
    option: str,
    message: str,
    tmp_path: Path,
    made_up: Table,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _save_whole(made_up, tmp_path / "t.parquet")
    command = f"search_quality --table {tmp_path}/t.parquet --kept {tmp_path}/kept.jsonl {option}"
    monkeypatch.setattr("sys.argv", command.split())
    assert main() == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
