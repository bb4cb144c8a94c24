"""What bench timed alone stands in the report in the place of the search's own timings."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from results.findings import load_findings
from results.report import write_report
from results.report_figures import accuracy_figures
from search.bench import time_front

ALONE = "timed alone by bench; the others while searching: a hint only."


def write_bench(path: Path, speeds: dict[int, float], device: str = "cpu") -> None:
    rows = [
        {"trial": t, "ips": ips, "iqr": ips / 10, "ratio": 0.5, "flags": ["spread"], "device": device}
        for t, ips in speeds.items()
    ]
    (path / "bench.json").write_text(json.dumps({"device": {}, "timings": rows}), encoding="utf-8")


def caption_of(path: Path) -> str:
    drawn = {each.name: each.caption for each in accuracy_figures(load_findings(path))}
    return drawn["accuracy-throughput_ips"]


def marks(path: Path) -> dict[str, float]:
    """Where each architecture stands on the throughput axis."""
    drawn = next(each.figure for each in accuracy_figures(load_findings(path)) if each.name.endswith("throughput_ips"))
    found = [trace for trace in drawn.data if trace.customdata is not None]
    return {key: x for trace in found for (key, _), x in zip(trace.customdata, trace.x)}


def test_the_table_the_plot_and_the_file_hold_what_was_timed_alone(typical_study: Any) -> None:
    path = typical_study.path
    write_bench(path, {0: 8000.0, 1: 8100.0, 2: 4000.0, 3: 2000.0})
    page = html.unescape(write_report(path).read_text(encoding="utf-8"))
    table = page[page.index("<h2>The front</h2>") : page.index("How the search went")]
    assert "8,000 ±5.0%" in table and "9,000" not in table
    assert "Images/s are those timed alone by bench." in table
    assert marks(path) == {"preset-nano": 8000, "key00001": 8100, "key00002": 4000, "key00003": 2000, "key00004": 900}
    rows = pd.read_csv(path / "report" / "front.csv").set_index("trial")
    assert rows["throughput_ips"].to_dict() == {0: 8000, 2: 4000, 3: 2000}
    assert rows["throughput_ratio"].tolist() == [0.5] * 3
    assert list(rows.reset_index()) == list(load_findings(path).points)  # no new columns
    assert "4,000 ±5.0%" in (path / "report" / "front.md").read_text(encoding="utf-8")
    # What the trials themselves said stays on record.
    trials = pd.read_csv(path / "report" / "trials.csv").set_index("trial")
    assert trials.loc[0, "throughput_ips"] == 9000


def test_a_timing_while_searching_is_on_no_front_beside_those_made_alone(typical_study: Any) -> None:
    path = typical_study.path
    write_bench(path, {0: 800.0, 1: 810.0, 2: 400.0, 3: 200.0})  # of all who are on the front by the search's own
    findings = load_findings(path)
    assert findings.front_over("throughput_ips")["trial"].tolist() == [1, 0, 2, 3]
    assert "key00004" in marks(path)


def test_the_caption_says_whose_timings_these_are(typical_study: Any) -> None:
    path = typical_study.path
    assert caption_of(path) == "Faster is to the right. Timed while searching: a hint only."
    write_bench(path, {0: 8000.0})
    assert caption_of(path) == f"Faster is to the right. 1 of 4 on the front {ALONE}"
    write_bench(path, {0: 8000.0, 1: 8100.0, 2: 4000.0, 3: 2000.0})
    assert caption_of(path) == f"Faster is to the right. Front {ALONE}"
    (path / "baselines.csv").write_text("name,throughput_ips,val_accuracy\nvit,3000,0.8\n", encoding="utf-8")
    assert caption_of(path) == f"Faster is to the right. Front and baselines {ALONE}"


def test_a_table_that_was_timed_in_part_says_so(typical_study: Any) -> None:
    write_bench(typical_study.path, {0: 8000.0})
    assert "Images/s of 1 of 3 are those timed alone by bench." in write_report(typical_study.path).read_text()


def test_every_trial_of_an_architecture_has_its_timing(new_study: Any) -> None:
    study = new_study()
    for accuracy in (0.8, 0.9):
        study.add(accuracy, 1000, key="twice", throughput_ips=100.0)
    write_bench(study.path, {1: 70.0})
    members = load_findings(study.path).members
    assert members[["trial", "throughput_ips"]].to_numpy().tolist() == [[0, 70]]


def test_timings_of_another_kind_of_device_are_not_mixed_in(typical_study: Any) -> None:
    write_bench(typical_study.path, {0: 8000.0}, device="cuda:0")
    assert marks(typical_study.path)["preset-nano"] == 9000
    assert caption_of(typical_study.path) == "Faster is to the right. Timed while searching: a hint only."


@pytest.mark.parametrize("text", ["", "[]", '{"timings": [{"trial": 0}]}', '{"timings": [{"trial": 0, "ips": "x"}]}'])
def test_a_file_that_cannot_be_read_leaves_the_search_s_own(typical_study: Any, text: str) -> None:
    (typical_study.path / "bench.json").write_text(text, encoding="utf-8")
    assert marks(typical_study.path)["preset-nano"] == 9000


def test_finalists_show_the_same_speed_as_the_front(typical_study: Any, new_study: Any) -> None:
    new_study("s-retrain", retrain_of="s").add(0.9, 1000, key="key00003", throughput_ips=1.0)
    write_bench(typical_study.path, {3: 2000.0})
    decision = load_findings(typical_study.path).decision
    assert decision is not None and decision.suggested.row["throughput_ips"] == 2000


def test_a_front_over_another_cost_is_timed_too(new_study: Any) -> None:
    named = [{"metric": "val_accuracy", "direction": "max"}, {"metric": "latency_ms", "direction": "min"}]
    study = new_study(objectives=named)
    study.add(0.90, 100_000, throughput_ips=900.0, latency_ms=2.0)
    study.add(0.80, 200_000, throughput_ips=800.0, latency_ms=1.0)  # on the front over latency alone
    study.store.close()
    assert [timing.trial for timing in time_front(study.path, "cpu", pairs=10)] == [0, 1]
