"""Objectives, measures and limits: what is asked for, what it costs to measure, and a trial that breaks a limit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from crossvit_core.data import load_dataset
from crossvit_core.presets import PRESETS
from crossvit_core.recipe import TrainRecipe
from results.frame import build_frame, front
from results.metrics import COSTS
from results.records import Finished
from search.evaluate import evaluate
from search.limits import LimitConfigError, check_energy, check_reachable, limit_space, plan_measuring
from search.measures import ALWAYS, MEASURES, choose_measures
from search.objectives import OBJECTIVES, find_objectives
from search.plan import MeasurePlan, Plan
from search.study import resolve_study
from search.study_config import StudyConfig
from search.trial import Trial
from space import Limit, SpaceError, parse_limit, parse_space
from space.limits import MEASURED_METRICS

SPACE = """\
name: mine
base: crossvit_nano_16
dimensions:
  branches.0.embed_dim: [8, 16]
limits:
  macs: {max: 1M}
  latency_ms: {max: 2.5}
"""


def test_every_objective_has_its_place() -> None:
    measured = {metric for metrics in MEASURES.values() for metric in metrics}
    assert set(OBJECTIVES) <= {"val_accuracy", "macs", "params", "activations"} | measured
    assert set(OBJECTIVES) - {"val_accuracy"} == set(COSTS)
    assert set(MEASURED_METRICS) <= measured
    for name, metric in COSTS.items():
        assert metric.maximise == (OBJECTIVES[name].direction == "max")


def test_objectives_are_told_as_logarithms_or_not_at_all() -> None:
    latency = OBJECTIVES["latency_ms"]
    assert latency.value({"latency_ms": 0.1}) == -1
    assert latency.value({}) is None
    assert latency.value({"latency_ms": math.nan}) is None
    assert latency.value({"latency_ms": 0.0}) is None
    with pytest.raises(ValueError, match="unknown objective 'latency'; did you mean 'latency_ms'"):
        find_objectives(("latency",))


def test_only_what_is_asked_for_is_measured() -> None:
    assert choose_measures((), ()) == ALWAYS == ("latency", "throughput")
    assert choose_measures((), ("peak_memory_mb", "macs")) == ("peak_memory", "latency", "throughput")
    assert choose_measures(("energy",), ("latency_p95_ms",)) == ("latency", "throughput", "energy")
    assert choose_measures(("all",), ()) == tuple(MEASURES)
    with pytest.raises(ValueError, match="unknown measure 'memory'; did you mean"):
        choose_measures(("memory",), ())


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("latency_ms<=2.5", Limit("latency_ms", None, 2.5)),
        (" macs >= 1.5M ", Limit("macs", 1_500_000, None)),
        ("throughput_ips>=3k", Limit("throughput_ips", 3000.0, None)),
    ],
)
def test_limits_as_people_write_them(text: str, limit: Limit) -> None:
    assert parse_limit(text) == limit


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latency_ms<5", "'latency_ms<5' is no limit; write a metric, <= or >=, and a number"),
        ("latency<=5", "unknown limit 'latency'; did you mean 'latency_ms'"),
        ("macs<=many", "limit macs: 'many' is not a number"),
        ("macs>=2M", "limit macs is an empty window: min 2 M is above max 1 M"),
    ],
)
def test_limits_that_make_no_sense(text: str, message: str) -> None:
    with pytest.raises(LimitConfigError, match=message):
        limit_space(parse_space(SPACE, "mine.yaml"), [text])


def test_a_side_that_is_asked_for_twice_is_refused() -> None:
    with pytest.raises(LimitConfigError, match="macs<= is asked for twice; leave one out"):
        limit_space(parse_space(SPACE, "mine.yaml"), ["macs<=1M", "macs<=2M"])


def test_a_file_may_limit_what_is_measured_and_the_command_decides() -> None:
    file = parse_space(SPACE, "mine.yaml")
    assert file.space.limits == (Limit("macs", None, 1_000_000),)
    assert file.measured_limits == (Limit("latency_ms", None, 2.5),)
    space, measured = limit_space(file, ["latency_ms<=0.75", "macs<=500k", "params>=10"])
    assert measured == (Limit("latency_ms", None, 0.75),)
    assert space.limits == (Limit("macs", None, 500_000), Limit("params", 10, None))
    with pytest.raises(SpaceError, match=r"line 7: limit latency_ms: 'soon' is not a number"):
        parse_space(SPACE.replace("2.5", "soon"), "mine.yaml")


def test_a_limit_that_leaves_nothing_says_what_is_reachable() -> None:
    space, _ = limit_space(parse_space(SPACE, "mine.yaml"), ["macs<=100"])
    with pytest.raises(SpaceError, match="the limit macs at most 100 binds; its choices reach macs from"):
        check_reachable(space)


def test_a_limit_is_broken_only_by_what_is_known() -> None:
    limit = Limit("latency_ms", 1.0, 2.5)
    assert limit.breach({}) == limit.breach({"latency_ms": 2.5}) == limit.breach({"latency_ms": 1.0}) == ""
    assert limit.breach({"latency_ms": 3.25}) == "latency_ms is 3.25, allowed is latency_ms from 1 to 2.5"
    assert limit.breach({"latency_ms": math.nan})


def test_energy_that_nothing_counts_is_said_once_or_refused(tmp_path: Path) -> None:
    asked = plan_measuring(32, ["all"], (), ())
    said = check_energy(asked, (), "cpu", powercap=tmp_path)
    assert said.startswith("not measured: energy of the CPU: no readable RAPL")
    assert check_energy(plan_measuring(32, [], (), ()), (), "cpu", powercap=tmp_path) == ""
    objectives = find_objectives(("val_accuracy", "energy_mj"))
    needed = plan_measuring(32, [], objectives, ())
    with pytest.raises(LimitConfigError, match="energy_mj cannot be an objective or a limit here: energy of the CPU"):
        check_energy(needed, objectives, "cpu", powercap=tmp_path)


def test_a_study_keeps_its_limits_and_may_measure_more() -> None:
    plain, limited = MeasurePlan(), MeasurePlan(limits=(Limit("latency_ms", None, 2.5),))
    assert set(plain.to_dict()) == {"batch_size", "pairs", "window_ms"}  # as studies had it before there were limits
    assert limited.to_dict()["limits"] == [{"metric": "latency_ms", "min": None, "max": 2.5}]
    assert MeasurePlan(measures=("energy",)).to_dict() == plain.to_dict()


def test_what_the_command_asks_reaches_the_workers(tmp_path: Path) -> None:
    config = StudyConfig(
        space="smoke",
        runs_dir=tmp_path / "runs",
        objectives=("val_accuracy", "train_memory_mb"),
        limits=("peak_memory_mb<=64", "macs<=300k"),
    )
    study = resolve_study(config)
    assert study.plan.measure.measures == ("peak_memory", "train_memory", "latency", "throughput")
    assert study.plan.measure.limits == (Limit("peak_memory_mb", None, 64.0),)
    assert [limit.maximum for limit in study.space.limits if limit.metric == "macs"] == [300_000]


@pytest.fixture(scope="module")
def data_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = load_dataset("digits", image_size=(16, 16), cache_dir=tmp_path_factory.mktemp("data"))
    assert data.cache_path is not None
    return data.cache_path


def outcome(data_path: Path, **measure: object) -> Finished:
    arch = PRESETS["crossvit_nano_16"].replace(num_classes=10, in_channels=1)
    protocol: dict = {"batch_size": 8, "pairs": 4, "window_ms": 1.0, **measure}
    plan = Plan(TrainRecipe(epochs=1), data_path, None, device="cpu", measure=MeasurePlan(**protocol))
    finished = list(evaluate(Trial(0, arch, arch.key(), seed=0), plan))[-1]
    assert isinstance(finished, Finished)
    return finished


def test_everything_can_be_measured_and_drawn(data_path: Path) -> None:
    found = outcome(data_path, measures=choose_measures(("all",), ()))
    assert found.status == "ok", found.error
    expected = {
        "peak_memory_mb",
        "train_memory_mb",
        "latency_ms",
        "latency_p95_ms",
        "throughput_ips",
        "measure_seconds",
    }
    assert expected <= found.metrics.keys()
    assert 0 < found.metrics["peak_memory_mb"] < found.metrics["train_memory_mb"]
    frame = build_frame([found])
    for cost in ("latency_ms", "peak_memory_mb", "train_memory_mb"):
        assert front(frame, cost)[cost].tolist() == [found.metrics[cost]]


def test_a_broken_limit_ends_a_trial_before_it_is_trained(data_path: Path) -> None:
    limit = Limit("peak_memory_mb", None, 0.01)
    found = outcome(data_path, measures=choose_measures((), ("peak_memory_mb",)), limits=(limit,))
    assert found.status == "infeasible"
    assert found.error.startswith("peak_memory_mb is 0.")
    assert found.error.endswith("allowed is peak_memory_mb at most 0.01")
    assert {"macs", "params", "peak_memory_mb", "measure_seconds"} <= found.metrics.keys()
    assert not {"throughput_ips", "val_accuracy", "train_seconds"} & found.metrics.keys()
    assert front(build_frame([found])).empty
