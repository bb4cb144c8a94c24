"""Nothing drawn is cut, hidden or smaller than the legend promises; numbers and names are written to be read."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from results.compare import load_comparison
from results.findings import load_findings
from results.frame import front, load_frame
from results.page import fields_table
from results.plot_labels import Drawing, Label, Place, place_labels
from results.plot_style import NOTHING
from results.plots import draw_front_plot, gather_front_plot
from results.plots_compare import comparison_figures
from results.plots_progress import draw_curves, draw_fusions, gather_curves, gather_fusions
from results.units import divergence_text

RANGES = ((1e5, 1e7), (20.0, 90.0))


def test_the_bars_of_finalists_are_whole(new_study: Any, tmp_path: Path) -> None:
    study, retraining = new_study(), new_study("s-retrain", retrain_of="s")
    study.add(0.9, 1000, key="one")
    for accuracy in (0.5, 0.9):
        retraining.add(accuracy, 1000, key="one")
    findings = load_findings(tmp_path / "s")
    plot = gather_front_plot(findings.points, retrained=findings.retrained)
    assert plot is not None
    ((mean, spread),) = zip(plot.retrained.y, plot.retrained.spread)
    assert plot.y_range[0] < mean - spread and mean + spread < plot.y_range[1]


def test_short_curves_are_shown_from_their_first_epoch(new_study: Any, tmp_path: Path) -> None:
    new_study().add(0.9, 1000, curve=(0.1, 0.85, 0.9))
    figure = draw_curves(gather_curves(tmp_path / "s", front(load_frame(tmp_path / "s"))))
    assert figure.layout.yaxis.range[0] < 10


def test_long_curves_that_begin_below_the_frame_are_counted(new_study: Any, tmp_path: Path) -> None:
    new_study().add(0.9, 1000, curve=(0.1, *(0.8 + index / 400 for index in range(40))))
    figure = draw_curves(gather_curves(tmp_path / "s", front(load_frame(tmp_path / "s"))))
    assert figure.layout.yaxis.range[0] > 50
    assert "1 of 1 line begin below this window" in [note.text for note in figure.layout.annotations]


def test_of_few_trials_each_is_drawn_large(new_study: Any, tmp_path: Path) -> None:
    study = new_study()
    study.add(0.9, 1000)
    study.add(0.8, 2000)
    plot = gather_front_plot(load_frame(tmp_path / "s"))
    assert plot is not None
    (trace,) = [trace for trace in draw_front_plot(plot).data if trace.name == "cross-attention"]
    assert min(trace.marker.size) >= 10 and min(trace.marker.opacity) >= 0.9


def test_labels_of_neighbours_do_not_cover_each_other() -> None:
    labels = [Label(f"network-{index}", 1e6 * (1 + index / 100), 50.0 + index / 10) for index in range(4)]
    places = place_labels(labels, Drawing(RANGES, [(label.x, label.y) for label in labels]))
    assert len(set(places)) == 4
    for one, other in itertools.combinations(places, 2):
        assert abs(one.up - other.up) >= 14 or {one.anchor, other.anchor} == {"left", "right"}


def test_a_label_alone_stands_below_its_mark_and_inside_the_frame() -> None:
    (middle,) = place_labels([Label("a", 1e6, 50.0)], Drawing(RANGES, [(1e6, 50.0)]))
    assert (middle.anchor, middle.right, middle.up) == ("center", 0, -16)
    (low,) = place_labels([Label("a", 1e6, 20.5)], Drawing(RANGES, [(1e6, 20.5)]))
    assert low.up > 0
    (edge,) = place_labels([Label("a long name of a network", 9.9e6, 50.0)], Drawing(RANGES, [(9.9e6, 50.0)]))
    assert edge.anchor == "right"


def test_a_label_does_not_hide_the_mark_of_another() -> None:
    (place,) = place_labels([Label("network", 1e6, 50.0)], Drawing(RANGES, [(1e6, 50.0), (1e6, 47.0)]))
    assert place.up >= 0


def test_a_label_leaves_the_line_of_the_front_and_the_note_alone() -> None:
    at = [(1e6, 50.0)]
    (beside,) = place_labels([Label("a", *at[0])], Drawing(RANGES, at, line=[(1e5, 47.0), (1e7, 47.0)]))
    assert beside == Place("center", 0, 16)
    (between,) = place_labels([Label("a", *at[0])], Drawing(RANGES, at, line=[(1e6, 20.0), (1e6, 47.0), (1e6, 90.0)]))
    assert between == Place("left", 10, 0)
    corner = [(9e6, 24.0)]
    (free,) = place_labels([Label("a", *corner[0])], Drawing(RANGES, corner, note="below this window: 1 trained"))
    assert free.up >= 0


def test_few_trials_of_a_scheme_are_points_without_a_box(new_study: Any, tmp_path: Path) -> None:
    study = new_study()
    for index in range(6):
        study.add(0.9 - index / 100, 1000 + index)
    study.add(0.8, 5000, fusion="pairwise")
    boxes = {trace.name: trace for trace in draw_fusions(gather_fusions(load_frame(tmp_path / "s"))).data}
    assert (boxes["pairwise (1)"].line.color, boxes["pairwise (1)"].fillcolor) == (NOTHING, NOTHING)
    assert boxes["cross-attention (6)"].line.color != NOTHING


@pytest.mark.parametrize(
    ("value", "text"), [(1.9427e-7, "1.94e-07"), (0.0, "0"), (0.0123456, "0.0123"), (1.5, "1.5"), (float("nan"), "-")]
)
def test_small_divergences_are_told_apart(value: float, text: str) -> None:
    assert divergence_text(value) == text


def test_names_with_a_comma_are_in_quotes_and_numbers_are_short() -> None:
    table = fields_table({"class_names": ["dog", "ship, big"], "plain": ["a", "b"], "mean": [0.48194308105186523]})
    assert "<td>“dog”, “ship, big”</td>" in table
    assert "<td>a, b</td>" in table
    assert "<td>0.481943</td>" in table


def test_equal_studies_are_both_seen_on_the_page_that_compares_them(new_study: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        study = new_study(name)
        for accuracy in (0.5, 0.7, 0.9):
            study.add(accuracy, 1000)
    drawn = {one.name: one.figure for one in comparison_figures(load_comparison(tmp_path, ["a", "b"]))}
    for name in ("fronts", "volumes", "volumes-seconds"):
        lines = [trace.line.dash for trace in drawn[name].data if trace.mode == "lines"]
        assert lines == ["solid", "dash"], name
    marks = [trace.marker for trace in drawn["fronts"].data if trace.mode == "markers"]
    assert marks[1].symbol.endswith("-open") and marks[1].size > marks[0].size


def test_studies_that_part_late_are_both_seen_while_they_run_together(new_study: Any, tmp_path: Path) -> None:
    for name, last in (("a", 0.9), ("b", 0.95), ("c", 0.2)):
        study = new_study(name)
        for accuracy in (0.2, 0.3, last) if name == "c" else (0.5, 0.7, last):
            study.add(accuracy, 1000)
    drawn = {one.name: one.figure for one in comparison_figures(load_comparison(tmp_path, ["a", "b", "c"]))}
    assert [trace.line.dash for trace in drawn["volumes"].data] == ["solid", "dash", "solid"]


def test_compared_volumes_begin_at_nothing_and_count_whole_trials(new_study: Any, tmp_path: Path) -> None:
    for name, accuracies in (("a", (0.5, 0.7)), ("b", (0.6, 0.6, 0.8))):
        study = new_study(name)
        for accuracy in accuracies:
            study.add(accuracy, 1000)
    drawn = {one.name: one.figure for one in comparison_figures(load_comparison(tmp_path, ["a", "b"]))}
    assert drawn["volumes"].layout.xaxis.dtick == 1
    for name in ("volumes", "volumes-seconds"):
        assert [(trace.x[0], trace.y[0]) for trace in drawn[name].data] == [(0, 0), (0, 0)]
