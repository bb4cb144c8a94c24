"""Architectures trained more than once become one row with their spread."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from results.findings import load_findings
from results.frame import load_frame
from results.plots import draw_front_plot, gather_front_plot
from results.repeats import describe_stranger, find_retraining, fold_repeats
from results.report import write_report
from results.report_sections import trained_again


def test_runs_of_one_architecture_are_folded(new_study: Any, tmp_path: Path) -> None:
    study = new_study()
    for accuracy, speed in ((0.90, 100.0), (0.94, 300.0), (math.nan, 900.0), (0.92, 200.0)):
        study.add(accuracy, 1000, key="again", throughput_ips=speed)
    study.add(0.5, 2000, key="once")
    study.add(0.99, 500, key="again", status="stopped", rung=0.99)
    folded = fold_repeats(load_frame(tmp_path / "s")).set_index("trial")
    assert folded.index.tolist() == [0, 2, 4, 5]
    assert folded.loc[0, "val_accuracy"] == pytest.approx(0.92)
    assert folded.loc[0, "accuracy_sd"] == pytest.approx(0.02)
    assert folded.loc[0, "throughput_ips"] == 200
    assert folded["runs"].tolist() == [3, 1, 1, 1]
    assert math.isnan(folded.loc[4, "accuracy_sd"])


def test_nothing_to_fold_changes_nothing(typical_study: Any, tmp_path: Path) -> None:
    frame = load_frame(tmp_path / "s")
    folded = fold_repeats(frame)
    pd.testing.assert_frame_equal(folded[frame.columns.tolist()], frame)


def test_the_spread_is_drawn_and_said(new_study: Any, tmp_path: Path) -> None:
    study = new_study()
    for accuracy in (0.90, 0.94):
        study.add(accuracy, 1000, key="again")
    study.add(0.95, 2000, key="once")
    findings = load_findings(tmp_path / "s")
    plot = gather_front_plot(findings.points)
    assert plot is not None
    bars = [trace.error_y.array for trace in draw_front_plot(plot).data if trace.error_y.array is not None]
    assert [list(bar) for bar in bars] == [pytest.approx([100 * np.std([0.90, 0.94], ddof=1), 0])]
    page = write_report(tmp_path / "s").read_text(encoding="utf-8")
    assert "Bars are one standard deviation between runs." in page
    assert "its mean counts" in page


def test_many_runs_of_one_architecture_are_one_point(new_study: Any, tmp_path: Path) -> None:
    study = new_study()
    study.add(0.5, 1000, key="same")
    frame = load_frame(tmp_path / "s")
    many = frame.iloc[np.zeros(50_000, dtype=int)].reset_index(drop=True).assign(trial=range(50_000))
    many["val_accuracy"] = np.linspace(0.4, 0.6, 50_000)
    plot = gather_front_plot(fold_repeats(many))
    assert plot is not None
    assert plot.front.y == pytest.approx([50])
    assert plot.num_left_out == 0


def test_one_architecture_in_many_trials_is_said_to_be_one(new_study: Any, tmp_path: Path) -> None:
    study = new_study()
    for accuracy in (0.70, 0.80, 0.90):
        study.add(accuracy, 1000, key="same")
    study.add(None, 1000, key="same", status="stopped", rung=0.5)
    page = write_report(tmp_path / "s").read_text(encoding="utf-8")
    assert "1 architecture was tried in 4 trials on digits; 3 trained to the end." in page
    assert "its mean counts: 3 runs of 1 architecture." in page
    plot = gather_front_plot(load_findings(tmp_path / "s").points)
    assert plot is not None
    assert plot.y_range[0] < 70 and plot.y_range[1] > 90  # the whole bar: 80 +- 10


def test_finalists_that_were_trained_again_are_shown(new_study: Any, tmp_path: Path) -> None:
    study, retraining = new_study("s"), new_study("s-retrain", retrain_of="s")
    study.add(0.97, 1000, key="finalist")
    for accuracy in (0.90, 0.94):
        retraining.add(accuracy, 1000, key="finalist", source="retrain")
    retraining.add(None, 1000, key="finalist", status="failed", error="no memory")
    findings = load_findings(tmp_path / "s")
    assert findings.retrained[["arch_key", "runs"]].values.tolist() == [["finalist", 2]]
    plot = gather_front_plot(findings.points, retrained=findings.retrained)
    assert plot is not None
    assert (plot.retrained.y, plot.retrained.spread) == ([pytest.approx(92)], [pytest.approx(2.83, abs=0.01)])
    assert plot.front.y == pytest.approx([97])
    (trace,) = [trace for trace in draw_front_plot(plot).data if trace.name == "trained again"]
    assert (list(trace.y), list(trace.error_y.array)) == (plot.retrained.y, plot.retrained.spread)
    page = write_report(tmp_path / "s").read_text(encoding="utf-8")
    assert "92.0 % ± 2.8" in page


def test_a_retraining_is_told_by_its_record_and_moves_with_its_study(new_study: Any, tmp_path: Path) -> None:
    assert find_retraining(new_study("alone").path) is None
    assert describe_stranger(tmp_path / "alone") == ""
    path = new_study("old").path
    again = new_study("old-retrain", retrain_of="old").path
    assert (find_retraining(path), describe_stranger(path)) == (again, "")
    # Both were renamed: what the study was called when it began is on its record, and so is whom it retrained.
    path, again = path.rename(tmp_path / "new"), again.rename(tmp_path / "new-retrain")
    assert (find_retraining(path), describe_stranger(path)) == (again, "")


def test_a_study_that_only_has_the_name_of_a_retraining_is_none_and_that_is_said(new_study: Any) -> None:
    own, other = new_study("own").path, new_study("other").path
    new_study("own-retrain")
    new_study("other-retrain", retrain_of="third")
    assert find_retraining(own) is None
    assert find_retraining(other) is None
    assert describe_stranger(own) == (
        "study 'own-retrain' is no retraining of 'own' but a study of its own, so its runs do not count; rename it to "
        "train finalists of 'own' again"
    )
    assert describe_stranger(other) == (
        "study 'other-retrain' is a retraining of 'third', not of 'other', so its runs do not count; if 'other' was "
        "called 'third' then, write 'other' for retrain_of into other-retrain/study.json, else rename it"
    )


def test_runs_of_a_study_that_is_no_retraining_are_not_shown_as_fresh_ones(new_study: Any, tmp_path: Path) -> None:
    study, search = new_study("s"), new_study("s-retrain")
    study.add(0.97, 1000, key="finalist")
    search.add(0.94, 1000, key="finalist")
    findings = load_findings(tmp_path / "s")
    assert findings.retrained.empty
    assert "&#x27;s-retrain&#x27; is no retraining of" in trained_again(findings)


def test_a_stopped_trial_that_was_trained_again_shows_no_accuracy_of_the_search(new_study: Any, tmp_path: Path) -> None:
    study, retraining = new_study("s"), new_study("s-retrain", retrain_of="s")
    study.add(0.97, 1000, key="done")
    study.add(0.31, 1000, key="stopped", status="stopped", rung=0.31)
    study.add(0.29, 1000, key="twice", status="stopped", rung=0.29)
    study.add(0.89, 1000, key="twice")
    for key, accuracy in (("done", 0.95), ("stopped", 0.93), ("twice", 0.91)):
        retraining.add(accuracy, 1000, key=key, source="retrain")
    cells = re.findall(r"<td[^>]*>(.*?)</td>", trained_again(load_findings(tmp_path / "s")))
    shown = {again: searched for searched, again in zip(cells[1::5], cells[2::5])}
    assert shown == {"95.0 %": "97.0 %", "93.0 %": "-", "91.0 %": "89.0 %"}
