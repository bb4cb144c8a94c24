"""Fronts as tables, picks, and numbers in human units."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from results.frame import front, load_frame
from results.metrics import COSTS
from results.picks import pick_members
from results.tables import rich_table, to_csv, to_latex, to_markdown
from results.units import duration, human_count, percent, plural, with_spread


def members_of(path: Path) -> pd.DataFrame:
    return front(load_frame(path))


def test_terminal_table_fits_eighty_columns(typical_study: Any, tmp_path: Path) -> None:
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(rich_table(members_of(tmp_path / "s")))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(len(line) <= 80 for line in text.splitlines())
    for shown in ("95.0 %", "800 k", "80.0 k", "key00003", "FLOPs are multiply-adds"):
        assert shown in text
    assert "…" not in text


@pytest.mark.parametrize(
    ("cost", "value", "shown"),
    [("train_memory_mb", 123.4, "123 MB"), ("latency_ms", 1.25, "1.25 ms"), ("throughput_ips", 9000.0, "9,000")],
)
def test_terminal_table_of_a_front_over_another_cost(
    new_study: Any, tmp_path: Path, cost: str, value: float, shown: str
) -> None:
    new_study().add(0.9, 123_456_789, **{"throughput_ips": 12_345.0, "throughput_iqr": 2469.0, cost: value})
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(rich_table(front(load_frame(tmp_path / "s"), cost), cost))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"Pareto front in accuracy and {COSTS[cost].label}" in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert shown in text
    assert "cross-attention" in text


def test_markup_in_a_key_is_shown_as_it_is(new_study: Any, tmp_path: Path) -> None:
    new_study().add(0.5, 1000, key="[red]x")
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(rich_table(members_of(tmp_path / "s")))
    assert "[red]x" in console.file.getvalue()  # type: ignore[attr-defined]


def test_markdown_is_aligned_and_escaped(typical_study: Any, tmp_path: Path) -> None:
    typical_study.add(0.99, 950_000, key="a|b")
    lines = to_markdown(members_of(tmp_path / "s")).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].startswith("| trial | accuracy |")
    assert lines[1].startswith("| ----: | -------: |")
    assert r"a\|b" in lines[-1]
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["0", "2", "3", "10"]


def test_markdown_of_an_empty_front_is_a_header(new_study: Any, tmp_path: Path) -> None:
    new_study()
    assert len(to_markdown(members_of(tmp_path / "s")).splitlines()) == 2


def test_csv_keeps_every_digit(new_study: Any, tmp_path: Path) -> None:
    new_study().add(1 / 3, 123_457, error='a, "b"\nc')
    back = pd.read_csv(io.StringIO(to_csv(load_frame(tmp_path / "s"))))
    assert back.loc[0, "val_accuracy"] == 1 / 3
    assert back.loc[0, "macs"] == 123_457
    assert back.loc[0, "error"] == 'a, "b"\nc'
    assert math.isnan(back.loc[0, "throughput_ips"])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (31, "31"), (999.4, "999"), (999.9, "1.00 k"), (1000, "1.00 k"), (9_999, "10.0 k"), (99_960, "100 k"),
        (676_032, "676 k"), (999_600, "1.00 M"), (1_200_000, "1.20 M"), (21_191_473_152, "21.2 G"), (3.25e12, "3.25 T"),
        (math.nan, "-"), (math.inf, "-"),
    ],
)  # fmt: skip
def test_counts_have_three_digits(value: float, text: str) -> None:
    assert human_count(value) == text


def test_other_units() -> None:
    assert percent(0.98534) == "98.5 %"
    assert percent(math.nan) == "-"
    assert with_spread(2410.0, 31.0) == "2,410 ±0.6%"
    assert with_spread(2410.0, math.nan) == "2,410"
    assert [duration(s) for s in (8.2, 720, 12_000)] == ["8 s", "12 min", "3 h 20 min"]
    assert [plural(n, "trial") for n in (0, 1, 1200)] == ["0 trials", "1 trial", "1,200 trials"]


def test_picks_answer_their_wishes(new_study: Any, tmp_path: Path) -> None:
    study = new_study()
    for accuracy, macs in ((0.50, 1_000), (0.90, 2_000), (0.945, 100_000), (0.95, 1_000_000)):
        study.add(accuracy, macs)
    picks = pick_members(members_of(tmp_path / "s"))
    assert [(pick.wish, pick.trial) for pick in picks] == [
        ("Most accurate", 3), ("Cheapest close to it", 2), ("Knee", 1),
    ]  # fmt: skip


def test_picks_of_small_fronts(new_study: Any, tmp_path: Path) -> None:
    study = new_study()
    assert pick_members(members_of(tmp_path / "s")) == []
    for _ in range(3):
        study.add(0.5, 1000)
    picks = pick_members(members_of(tmp_path / "s"))
    assert [(pick.wish, pick.trial) for pick in picks] == [("Most accurate", 0), ("Cheapest close to it", 0)]


def test_picks_over_throughput_take_the_fast_end_as_cheap(new_study: Any, tmp_path: Path) -> None:
    study = new_study()
    for accuracy, speed in ((0.95, 100.0), (0.945, 5_000.0), (0.5, 10_000.0)):
        study.add(accuracy, 1000, throughput_ips=speed)
    members = front(load_frame(tmp_path / "s"), "throughput_ips")
    assert [pick.trial for pick in pick_members(members, "throughput_ips")] == [0, 1, 1]


def test_latex_has_the_rules_of_booktabs(typical_study: Any, tmp_path: Path) -> None:
    lines = to_latex(front(load_frame(tmp_path / "s"))).splitlines()
    assert lines[1:3] == [r"\begin{tabular}{rrrrrll}", r"\toprule"]
    assert lines[4] == r"\midrule"
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    assert lines[6].startswith(r"2 & 90.0 \% & 200 k & 20.0 k & 5,000 & key00002 & patch 4/8")
    assert {line.count(" & ") for line in (lines[3], *lines[5:-2])} == {6}
    assert all(line.endswith(r"\\") for line in (lines[3], *lines[5:-2]))


def test_latex_is_escaped(new_study: Any, tmp_path: Path) -> None:
    study = new_study()
    study.add(0.9, 1000, key="a_b%{$}", fusion="x & y \\ ~^#", throughput_ips=100.0, throughput_iqr=2.0)
    text = to_latex(front(load_frame(tmp_path / "s")))
    assert r"a\_b\%\{\$\}" in text
    assert r"x \& y \textbackslash{} \textasciitilde{}\textasciicircum{}\#" in text
    assert r"100 $\pm$1.0\%" in text
