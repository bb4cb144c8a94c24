"""The report: whole in one file, the same bytes twice, and right in every state of a study."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from results.findings import Findings, load_findings, primary_cost, validation_images
from results.frame import load_frame
from results.records import Ended
from results.report import write_report
from results.store import StoreError

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
