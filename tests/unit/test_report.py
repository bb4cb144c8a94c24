"""The report: whole in one file, the same bytes twice, and right in every state of a study."""

from __future__ import annotations

import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from results.described import primary_cost, validation_images
from results.findings import Findings, load_findings
from results.frame import load_frame
from results.quantization import QuantizedPoint, append_point, trial_folder
from results.records import Ended
from results.report import write_report
from results.report_figures import accuracy_figures
from results.store import StoreError
from results.test_ledger import TestedRun, add_score, open_look

VOID = {"meta", "link", "img", "br", "hr", "input", "base"}


class PageReader(HTMLParser):
    """Collects tags, attributes and visible text; fails on tags that do not close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += f"{data} "


def read_page(path: Path) -> PageReader:
    reader = PageReader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    reader.text = " ".join(reader.text.split())
    return reader


def figure_ids(page: PageReader) -> list[str]:
    return [str(attrs["data-figure"]) for _, attrs in page.tags if "data-figure" in attrs]


def test_a_typical_study(typical_study: Any, tmp_path: Path) -> None:
    path = write_report(tmp_path / "s")
    assert path == tmp_path / "s" / "report" / "index.html"
    page = read_page(path)
    assert (
        "From the space small, 10 architectures were tried on digits; 5 trained to the end. The best reaches 95.0 % "
        "validation accuracy; 3 form the Pareto front, from 100 k to 800 k FLOPs (multiply-adds)."
    ) in page.text
    assert "1 trial without an outcome yet" in page.text
    for heading in (
        "What was found", "Which to take", "The front", "How the search went", "Trials without a result",
        "How the numbers were measured", "Read with care",
    ):  # fmt: skip
        assert heading in page.text
    for reason in (
        "macs 2 M over 1 M",
        "DivergedError: the loss is no longer finite",
        "the worker died",
        "after epoch 1",
    ):
        assert reason in page.text
    assert "200 images: one image is 0.5 points, and chance alone moves 95.0 % by about 1.5 points" in page.text
    assert figure_ids(page) == [
        "accuracy-macs-data", "accuracy-throughput_ips-data", "accuracy-params-data", "hypervolume-data",
        "hypervolume-seconds-data", "curves-data", "fusion-data",
    ]  # fmt: skip
    assert set(figure_ids(page)) <= {attrs.get("id") for _, attrs in page.tags}


def test_the_tables_beside_the_page(typical_study: Any, tmp_path: Path) -> None:
    folder = write_report(tmp_path / "s").parent
    assert sorted(path.name for path in folder.iterdir()) == [
        "front.csv", "front.md", "front.tex", "index.html", "trials.csv",
    ]  # fmt: skip
    assert pd.read_csv(folder / "front.csv")["trial"].tolist() == [0, 2, 3]
    assert len(pd.read_csv(folder / "trials.csv")) == len(load_frame(tmp_path / "s"))


def test_the_same_records_give_the_same_bytes(typical_study: Any, tmp_path: Path) -> None:
    first = {path.name: path.read_bytes() for path in write_report(tmp_path / "s").parent.iterdir()}
    second = {path.name: path.read_bytes() for path in write_report(tmp_path / "s").parent.iterdir()}
    assert first == second


def test_the_page_loads_nothing_from_elsewhere(typical_study: Any, tmp_path: Path) -> None:
    path = write_report(tmp_path / "s")
    page = read_page(path)
    assert not [attrs for _, attrs in page.tags if {"src", "href", "srcset", "data", "action"} & set(attrs)]
    assert not {tag for tag, _ in page.tags} & {"link", "img", "iframe", "object", "embed", "base"}
    policies = [attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert str(policies[0]).startswith("default-src 'none'")
    style = path.read_text(encoding="utf-8").partition("<style>")[2].partition("</style>")[0]
    assert "prefers-color-scheme: dark" in style
    assert "url(" not in style
    assert "@import" not in style
    assert any(attrs.get("name") == "viewport" for _, attrs in page.tags)


@pytest.mark.parametrize("attack", ["</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>'])
def test_text_from_outside_stays_text(new_study: Any, tmp_path: Path, attack: str) -> None:
    study = new_study(space={"name": attack}, data={"name": attack, attack: attack}, measure={attack: [attack]})
    study.add(0.9, 1000, key=attack, source=f"preset:{attack}", fusion=attack, curve=(0.5, 0.9))
    study.add(status="failed", error=attack)
    page = read_page(write_report(tmp_path / "s"))
    assert page.text.count(attack) >= 4
    assert not [attrs for tag, attrs in page.tags if tag == "img" or "onerror" in attrs]
    # The data of each figure, plotly.js, and the lines that draw.
    assert sum(tag == "script" for tag, _ in page.tags) == len(figure_ids(page)) + 2


def test_an_empty_study(new_study: Any, tmp_path: Path) -> None:
    new_study()
    path = write_report(tmp_path / "s")
    page = read_page(path)
    assert "0 architectures were tried on digits; none has been trained to the end yet" in page.text
    assert figure_ids(page) == []
    assert path.stat().st_size < 30_000


def test_all_failed(new_study: Any, tmp_path: Path) -> None:
    study = new_study()
    for _ in range(20):
        study.add(status="failed", error="CUDA out of memory")
    page = read_page(write_report(tmp_path / "s"))
    assert "none has been trained to the end yet" in page.text
    numbers = ", ".join(str(trial) for trial in range(12))
    assert f"failed 20 CUDA out of memory {numbers} and 8 more" in page.text


def test_one_trial(new_study: Any, tmp_path: Path) -> None:
    new_study().add(0.9, 1000)
    page = read_page(write_report(tmp_path / "s"))
    assert "one forms the Pareto front, at 1.00 k FLOPs" in page.text
    assert "Most accurate, cheapest close to it" in page.text
    assert "accuracy-throughput_ips-data" not in figure_ids(page)


def test_numbers_that_are_none(new_study: Any, tmp_path: Path) -> None:
    study = new_study()
    study.add(math.nan, 1000)
    study.add(0.5, 2000, params=math.nan, throughput_ips=math.inf)
    page = read_page(write_report(tmp_path / "s"))
    assert "one forms the Pareto front, at 2.00 k FLOPs" in page.text
    assert "nan" not in page.text.lower().split()


def test_a_front_over_another_cost_says_so_and_shows_it(new_study: Any, tmp_path: Path) -> None:
    named = [{"metric": "val_accuracy", "direction": "max"}, {"metric": "latency_ms", "direction": "min"}]
    study = new_study(objectives=named)
    study.add(0.80, 100_000, latency_ms=2.5, throughput_ips=900.0)  # the cheapest, and slow
    study.add(0.85, 200_000, latency_ms=1.25, throughput_ips=2000.0)
    study.add(0.90, 400_000, latency_ms=1.75, throughput_ips=1000.0)
    page = read_page(write_report(tmp_path / "s"))
    assert "2 form the Pareto front in accuracy and latency, from 200 k to 400 k FLOPs (multiply-adds)." in page.text
    assert "The front in accuracy and latency trial accuracy latency FLOPs params" in page.text
    assert "1 85.0 % 1.25 ms 200 k 20.0 k" in page.text
    assert "40.0 k parameters, 1,000 images/s, 1.75 ms latency" in page.text
    assert "| trial | accuracy | latency |" in (tmp_path / "s" / "report" / "front.md").read_text()


def test_a_copied_study_is_called_as_its_folder(new_study: Any, tmp_path: Path) -> None:
    new_study().add(0.9, 1000)
    shutil.copytree(tmp_path / "s", tmp_path / "copy")
    page = write_report(tmp_path / "copy").read_text(encoding="utf-8")
    assert "<h1>copy</h1>" in page


def test_a_study_that_says_little_has_a_report(new_study: Any, tmp_path: Path) -> None:
    study = new_study(space=None, data=None, objectives=None, presets=None, measure=None, recipe="x")
    study.add(0.9, 1000)
    assert "tried on ?" in read_page(write_report(tmp_path / "s")).text


def test_the_first_cost_among_the_objectives_leads() -> None:
    named = [{"metric": "val_accuracy"}, {"metric": "params"}, {"metric": "macs"}]
    assert primary_cost({"objectives": named}) == "params"
    assert primary_cost({}) == "macs"


def test_limits_and_sizes_are_read_from_the_study(typical_study: Any, tmp_path: Path) -> None:
    findings: Findings = load_findings(tmp_path / "s")
    assert findings.limit("macs") == 1_000_000
    assert findings.limit("params") is None
    assert validation_images(findings.study) == 200


def test_a_folder_that_cannot_be_written(typical_study: Any, tmp_path: Path) -> None:
    (tmp_path / "s" / "report").write_text("a file is in the way", encoding="utf-8")
    with pytest.raises(StoreError, match="cannot write the report to"):
        write_report(tmp_path / "s")


def test_a_missing_study(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no study 'nothing'"):
        write_report(tmp_path / "nothing")


def test_why_a_search_ended_is_told_and_not_once_it_goes_on(typical_study: Any, tmp_path: Path) -> None:
    typical_study.store.append(Ended(reason="its 2 hours are spent"))
    assert "The search ended: its 2 hours are spent." in read_page(write_report(tmp_path / "s")).text
    typical_study.add(0.5, 300_000)
    assert "The search ended" not in read_page(write_report(tmp_path / "s")).text


def test_what_must_be_alike_to_compare_is_on_the_page(typical_study: Any, tmp_path: Path) -> None:
    text = read_page(write_report(tmp_path / "s")).text
    for words in ("device cpu", "machine a CPU", "seed 0", "data digits, fingerprint ab", "recipe 2 epochs"):
        assert words in text


def test_baselines_stand_on_the_same_axes(typical_study: Any, tmp_path: Path) -> None:
    rows = "name,macs,params,val_accuracy\ntimm:vit_tiny,500000,40000,0.93\ntimm:untrained,300000,20000,\n"
    (tmp_path / "s" / "baselines.csv").write_text(rows, encoding="utf-8")
    findings = load_findings(tmp_path / "s")
    drawn = {one.name: one.figure for one in accuracy_figures(findings)}
    for name, cost in (("accuracy-macs", 500_000), ("accuracy-params", 40_000)):
        (trace,) = [trace for trace in drawn[name].data if trace.name == "baselines"]
        assert (list(trace.x), list(trace.y)) == ([cost], [pytest.approx(93)])
        assert "timm:untrained" in {note.text for note in drawn[name].layout.annotations}
    # No throughput is on record for them.
    assert "baselines" not in {trace.name for trace in drawn["accuracy-throughput_ips"].data}


def test_a_network_of_timm_among_the_records_is_named(new_study: Any, tmp_path: Path) -> None:
    new_study().add(0.9, 1000, source="timm:vit_tiny")
    (drawn,) = (one.figure for one in accuracy_figures(load_findings(tmp_path / "s")) if one.name == "accuracy-macs")
    assert "vit_tiny" in {note.text for note in drawn.layout.annotations}


def test_damaged_baselines_are_told(typical_study: Any, tmp_path: Path) -> None:
    (tmp_path / "s" / "baselines.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StoreError, match=r"baselines\.csv is damaged"):
        write_report(tmp_path / "s")


def test_many_reasons_are_folded(new_study: Any, tmp_path: Path) -> None:
    study = new_study()
    for index in range(70):
        study.add(status="failed", error=f"reason {index:02d}")
    page = read_page(write_report(tmp_path / "s"))
    assert "70 trials of 70: 70 failed." in page.text
    assert "70 reasons" in page.text
    assert "reason 59 59" in page.text
    assert "reason 60" not in page.text
    assert "10 further reasons are in trials.csv." in page.text


def test_a_long_front_is_cut_on_the_page_and_whole_in_the_file(new_study: Any, tmp_path: Path) -> None:
    study = new_study()
    for index in range(70):
        study.add(0.1 + 0.01 * index, 1000 * (index + 1))
    path = write_report(tmp_path / "s")
    assert "The 60 cheapest of 70; all are in front.csv." in read_page(path).text
    assert len(pd.read_csv(path.parent / "front.csv")) == 70


def test_keys_are_buttons_that_copy_the_whole_key(new_study: Any, tmp_path: Path) -> None:
    new_study().add(0.9, 1000, key="0123456789abcdef")
    page = read_page(write_report(tmp_path / "s"))
    buttons = [attrs for tag, attrs in page.tags if tag == "button"]
    assert {attrs["data-copy"] for attrs in buttons} == {"0123456789abcdef"}
    assert ("p", {"id": "status", "role": "status"}) in page.tags


def test_another_format_is_one_sentence(typical_study: Any, tmp_path: Path) -> None:
    path = tmp_path / "s" / "study.json"
    study = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**study, "format": 99}), encoding="utf-8")
    with pytest.raises(StoreError, match="study 's' has format 99; this version reads format 1"):
        write_report(tmp_path / "s")


def test_a_line_that_is_being_written_is_left_for_later(typical_study: Any, tmp_path: Path) -> None:
    before = write_report(tmp_path / "s").read_bytes()
    with open(tmp_path / "s" / "ledger.jsonl", "a", encoding="utf-8") as file:
        file.write('{"event": "finished", "trial": 9, "sta')
    assert write_report(tmp_path / "s").read_bytes() == before


def test_the_page_owns_up_to_a_look_at_the_test_split(typical_study: Any, tmp_path: Path) -> None:
    assert "The test split has not been looked at." in read_page(write_report(tmp_path / "s")).text
    open_look(tmp_path / "s", [TestedRun(3, "key00003", 0, 7, "ab")], "ab", 200, clock=lambda: 0.0)
    add_score(tmp_path / "s", 0, 0.931, clock=lambda: 1.0)
    text = read_page(write_report(tmp_path / "s")).text
    assert "has not been looked at" not in text
    assert "The test split was opened on 1970-01-01 00:00:00 UTC for trial 3 (93.1 %)." in text


def test_quantised_points_stand_beside_the_front(typical_study: Any, tmp_path: Path) -> None:
    def add(method: str, precision: str, bits: float, accuracy: float, operations: int) -> None:
        point = QuantizedPoint(
            trial=2,
            arch_key="key00002",
            method=method,
            precision=precision,
            bits=bits,
            val_accuracy=accuracy,
            kl=0.01,
            weight_bits=bits,
            activation_bits=bits,
            mean_bits=bits,
            model_bytes=1000,
            bit_operations=operations,
            num_val_images=200,
            weights="sha256-1",
            calibration_images=128,
            alpha=0.5,
            rho=1.0,
            device="cpu",
            torch="2",
            seconds=1.0,
        )
        append_point(trial_folder(tmp_path / "s", 2), point)

    add("none", "full", 32, 0.90, 200_000 * 1024)
    add("base", "single", 8, 0.89, 200_000 * 64)
    add("base", "single", 4, 0.10, 200_000 * 64 + 1)
    add("sqb_optm", "mixed", 4, 0.88, 200_000 * 16)
    page = write_report(tmp_path / "s").read_text(encoding="utf-8")
    section = page[page.index("Fewer bits") : page.index("How the search went")]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", section)
    rows = [cells[start : start + 5] for start in range(0, len(cells), 7)]
    # The cheapest of the front has 100 k FLOPs x 1024 and 80 %: 8 bits of trial 2 have fewer and 89 %.
    assert rows == [
        ["2", "search", "SQ-b + OPT-m, Greedy MP", "4", "88.0 %"],
        ["2", "search", "symmetric", "8", "89.0 %"],
        ["2", "search", "full precision", "32", "90.0 %"],
        ["3", "search", "full precision", "32", "95.0 %"],
    ]


def test_without_quantised_points_nothing_is_said_of_them(typical_study: Any, tmp_path: Path) -> None:
    assert "Fewer bits" not in write_report(tmp_path / "s").read_text(encoding="utf-8")
