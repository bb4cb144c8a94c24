"""The numbers behind each plot, and that what is drawn are those numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from results import plots, plots_progress
from results.findings import load_findings
from results.frame import front, load_frame
from results.metrics import COSTS
from results.plot_style import FUSION_MARKS, count_step, fusion_mark, log_ticks
from results.plots import draw_front_plot, gather_front_plot
from results.plots_progress import (
    draw_curves,
    draw_fusions,
    draw_hypervolume,
    draw_time,
    gather_curves,
    gather_fusions,
    gather_hypervolume,
    gather_stopped,
    gather_time,
)
from results.plots_quantized import AXES


def test_front_plot_gathers_each_trial_once(typical_study: Any, tmp_path: Path) -> None:
    plot = gather_front_plot(load_frame(tmp_path / "s"), "macs", typical_study.store.study["presets"])
    assert plot is not None
    assert {name: points.x for name, points in plot.groups.items()} == {
        "cross_attention": [100_000, 800_000],
        "pairwise": [200_000],
        "class_token": [900_000],
        "none": [120_000],
    }
    assert plot.front.x == [100_000, 200_000, 800_000]
    assert plot.front.y == pytest.approx([80, 90, 95])
    assert plot.groups["class_token"].on_front == [False]
    assert plot.stopped.x == [50_000]
    assert plot.stopped.on_front == [False]
    assert "stopped early, after epoch 1" in plot.stopped.text[0]
    # nano was trained, micro is known by its cost alone.
    assert list(plot.presets) == ["nano"]
    assert [(mark.name, mark.x) for mark in plot.cost_marks] == [("micro", 400_000)]
    assert plot.x_range[0] < 50_000 < 900_000 < plot.x_range[1]


def test_hover_names_trial_key_and_architecture(typical_study: Any, tmp_path: Path) -> None:
    plot = gather_front_plot(load_frame(tmp_path / "s"))
    assert plot is not None
    text = plot.front.text[1]
    for part in ("trial 2", "key00002", "patch 4/8", "pairwise", "90.0 %", "200 k FLOPs", "5,000 images/s"):
        assert part in text


def test_drawing_uses_the_scheme_colours_and_a_step_line(typical_study: Any, tmp_path: Path) -> None:
    plot = gather_front_plot(load_frame(tmp_path / "s"), "macs", typical_study.store.study["presets"])
    assert plot is not None
    figure = draw_front_plot(plot)
    traces = {trace.name: trace for trace in figure.data if trace.name}
    assert traces["pairwise"].marker.color == FUSION_MARKS["pairwise"].colour
    assert traces["Pareto front"].line.shape == "hv"
    assert traces["Pareto front"].x[:3] == (100_000, 200_000, 800_000)
    assert traces["stopped early"].marker.symbol == "x-thin"
    assert traces["presets"].marker.symbol == "star"
    assert [trace.name for trace in figure.data if trace.name == "presets" and trace.showlegend] == ["presets"]
    assert figure.layout.xaxis.type == "log"
    assert figure.layout.xaxis.title.text == "FLOPs (multiply-adds), log scale"
    assert {"nano", "micro"} <= {note.text for note in figure.layout.annotations}


def test_throughput_front_steps_down_to_the_fast_side(typical_study: Any, tmp_path: Path) -> None:
    plot = gather_front_plot(load_frame(tmp_path / "s"), "throughput_ips")
    assert plot is not None
    line = next(trace for trace in draw_front_plot(plot).data if trace.name == "Pareto front")
    assert line.line.shape == "vh"
    assert line.x[1:] == (1000, 5000, 9000, 9500)
    assert line.y[1:] == pytest.approx((95, 90, 80, 79))


def test_nothing_to_draw(new_study: Any, tmp_path: Path) -> None:
    study = new_study()
    study.add(status="failed", error="x")
    study.add(math.nan, 1000)
    study.add(0.5, 0)
    frame = load_frame(tmp_path / "s")
    assert gather_front_plot(frame) is None
    assert gather_front_plot(frame, "throughput_ips") is None
    assert gather_hypervolume(frame) is None
    assert gather_curves(tmp_path / "s", front(frame)) == []


def test_one_trial_has_a_plot(new_study: Any, tmp_path: Path) -> None:
    new_study().add(0.5, 1000)
    plot = gather_front_plot(load_frame(tmp_path / "s"))
    assert plot is not None
    assert plot.x_range[0] < 1000 < plot.x_range[1]
    assert plot.y_range[0] < 50 < plot.y_range[1]
    assert draw_front_plot(plot).data


def test_trials_below_the_window_are_counted(new_study: Any, tmp_path: Path) -> None:
    study = new_study()
    for index in range(30):
        study.add(0.9 + index / 1000, 1000 + index)
    study.add(0.1, 5000)
    study.add(None, 5000, status="stopped", rung=0.2)
    plot = gather_front_plot(load_frame(tmp_path / "s"))
    assert plot is not None
    assert plot.num_below == 1
    assert plot.y_range[0] > 80
    notes = [note.text for note in draw_front_plot(plot).layout.annotations]
    assert "below this window: 1 trained and 1 stopped early" in notes


def test_many_trials_are_thinned_but_never_the_front(
    new_study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "MAX_POINTS", 10)
    study = new_study()
    for index in range(60):
        study.add(0.5 + index % 7 / 20, 1000 + 13 * index)
    frame = load_frame(tmp_path / "s")
    plot = gather_front_plot(frame)
    assert plot is not None
    drawn = plot.groups["cross_attention"]
    assert sum(drawn.on_front) == len(front(frame)) == len(plot.front.x)
    assert plot.num_left_out == 60 - len(drawn.x) > 0


def test_text_from_a_ledger_is_escaped_in_plots(new_study: Any, tmp_path: Path) -> None:
    new_study().add(0.5, 1000, key="<img src=x>", source="preset:<b>")
    plot = gather_front_plot(load_frame(tmp_path / "s"))
    assert plot is not None
    json = draw_front_plot(plot).to_json()
    assert "<img" not in json
    assert "<b></b>" not in json


def test_hypervolume_plot(typical_study: Any, tmp_path: Path) -> None:
    plot = gather_hypervolume(load_frame(tmp_path / "s"), limit=1_000_000)
    assert plot is not None
    assert plot.trials == list(range(1, 10))
    assert plot.values[0] == pytest.approx(0.8)
    assert plot.reference_cost == pytest.approx(1_000_000)
    line = draw_hypervolume(plot).data[0]
    # From nothing on, only the corners are drawn, and the last trial.
    assert line.x == (0, 1, 3, 4, 9)
    assert line.y[-1] == plot.values[-1]


def test_curves_of_the_front(typical_study: Any, tmp_path: Path) -> None:
    with open(typical_study.store.trial_dir(3) / "curve.jsonl", "a", encoding="utf-8") as file:
        file.write('{"epoch": 3, "val_acc')
    curves = gather_curves(tmp_path / "s", front(load_frame(tmp_path / "s")))
    assert [curve.trial for curve in curves] == [0, 2, 3]
    assert curves[2].epochs == [1, 2]
    assert curves[2].accuracy == pytest.approx([50, 95])
    labels = sorted(curve.label_y for curve in curves)
    assert labels[1] - labels[0] > 1
    figure = draw_curves(curves)
    assert [trace.line.color for trace in figure.data] == [fusion_mark(curve.fusion).colour for curve in curves]
    assert [note.text for note in figure.layout.annotations] == ["#0", "#2", "#3"]


def test_labels_stay_near_the_ends_of_their_lines(new_study: Any, tmp_path: Path) -> None:
    study = new_study()
    for index in range(8):
        study.add(0.9 + 0.001 * index, 1000 * (index + 1), curve=(0.1, 0.9 + 0.001 * index))
    curves = gather_curves(tmp_path / "s", front(load_frame(tmp_path / "s")))
    labels = [note.text for note in draw_curves(curves).layout.annotations]
    assert labels == ["#7"]
    assert all(math.isnan(curve.label_y) or abs(curve.label_y - curve.accuracy[-1]) < 2 for curve in curves)


def test_rungs_stand_in_for_a_curve_that_is_gone(typical_study: Any, tmp_path: Path) -> None:
    findings = load_findings(tmp_path / "s")
    (typical_study.store.trial_dir(3) / "curve.jsonl").unlink()
    curves = {curve.trial: curve for curve in gather_curves(tmp_path / "s", findings.members, findings.rungs)}
    assert (curves[3].epochs, curves[3].accuracy) == ([1], [pytest.approx(50)])
    [whole] = [c for c in gather_curves(tmp_path / "s", findings.members, findings.rungs, 2) if c.trial == 3]
    assert (whole.epochs, whole.accuracy) == ([1, 2], pytest.approx([50, 95]))


def test_stopped_trials_end_in_a_cross(typical_study: Any, tmp_path: Path) -> None:
    findings = load_findings(tmp_path / "s")
    stopped = gather_stopped(findings.frame, findings.rungs)
    assert stopped == [[(1, pytest.approx(99))]]
    figure = draw_curves(gather_curves(tmp_path / "s", findings.members), stopped)
    assert figure.data[1].name == "stopped early"
    assert (figure.data[1].marker.symbol, list(figure.data[1].x)) == ("x-thin", [1])


def test_volume_over_seconds(new_study: Any, tmp_path: Path) -> None:
    study = new_study()
    for accuracy in (0.5, 0.7, 0.9):
        study.add(accuracy, 1000)
    plot = gather_time(load_frame(tmp_path / "s"))
    assert plot is not None
    assert plot.device_seconds == [2, 4, 6]
    assert plot.wall_seconds == []  # this ledger holds no times
    (line,) = draw_time(plot).data
    assert list(line.x) == [0, 2, 4, 6]
    assert line.y[0] == 0
    assert line.y[-1] == plot.values[-1] > plot.values[0]


def test_a_front_of_ties_is_thinned_too(new_study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "MAX_POINTS", 5)
    monkeypatch.setattr(plots, "MAX_MEMBERS", 3)
    study = new_study()
    for _ in range(20):
        study.add(0.5, 1000)
    plot = gather_front_plot(load_frame(tmp_path / "s"))
    assert plot is not None
    assert len(plot.front.x) == 3
    assert plot.num_left_out == 20 - sum(len(points.x) for points in plot.groups.values()) > 10
    assert f"{plot.num_left_out} trials left out for clarity" in {
        note.text for note in draw_front_plot(plot).layout.annotations
    }


def test_more_members_than_curves(new_study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots_progress, "MAX_CURVES", 3)
    study = new_study()
    for index in range(8):
        study.add(0.1 * (index + 1), 1000 * (index + 1), curve=(0.1, 0.1 * (index + 1)))
    curves = gather_curves(tmp_path / "s", front(load_frame(tmp_path / "s")))
    assert [curve.trial for curve in curves] == [0, 4, 7]


def test_fusions(typical_study: Any, tmp_path: Path) -> None:
    groups = gather_fusions(load_frame(tmp_path / "s"))
    assert [group.fusion for group in groups] == ["cross_attention", "pairwise", "class_token", "none"]
    assert groups[0].accuracy == pytest.approx([80, 95])
    figure = draw_fusions(groups)
    assert figure.data[-1].name == "class-token (1)"


def test_no_two_schemes_look_alike() -> None:
    assert len({mark.colour for mark in FUSION_MARKS.values()}) == len(FUSION_MARKS)
    assert len({mark.symbol for mark in FUSION_MARKS.values()}) == len(FUSION_MARKS)


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (900.0, 12_000.0, ["1 k", "2 k", "5 k", "10 k"]),
        (1.9e4, 6e4, ["20 k", "30 k", "40 k", "50 k"]),
        (1e3, 1e8, ["1 k", "10 k", "100 k", "1 M", "10 M", "100 M"]),
    ],
)
def test_ticks_are_round(low: float, high: float, texts: list[str]) -> None:
    assert log_ticks(low, high)[1] == texts


def test_ticks_of_counts_are_whole() -> None:
    assert [count_step(largest) for largest in (0, 1, 10, 11, 20, 21, 64, 1000, 1001)] == [
        1,
        1,
        1,
        2,
        2,
        5,
        10,
        100,
        200,
    ]


@pytest.mark.parametrize("title", [*(metric.axis for metric in COSTS.values()), *AXES.values()])
def test_the_title_of_an_axis_fits_a_phone(title: str) -> None:
    """Of a page 420 pixels wide, 350 are beside the middle of the axis, and a letter takes 7 at the most."""
    assert len(title) <= 50
