"""Plots as files: drawn where a browser is, and one clear line where none is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from results.figures import FigureFormatError, check_format, find_browser, write_figures
from results.findings import load_findings
from results.report_figures import accuracy_figures, all_figures


def test_without_a_browser_a_line_says_so(typical_study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    line = write_figures(all_figures(load_findings(tmp_path / "s")), tmp_path / "figures", "svg")
    assert line.startswith("no figures: they need a Chromium or Chrome")
    assert "BROWSER_PATH" in line
    assert not (tmp_path / "figures").exists()


def test_a_browser_that_is_none_is_no_error(
    typical_study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/bin/false")
    drawn = list(accuracy_figures(load_findings(tmp_path / "s")))[:1]
    assert write_figures(drawn, tmp_path / "figures", "svg").startswith("no figures: /bin/false could not draw them")


def test_formats_are_checked() -> None:
    assert check_format("svg") == "svg"
    with pytest.raises(FigureFormatError, match="cannot be written as 'gif'; use png or svg"):
        check_format("gif")


@pytest.mark.slow
@pytest.mark.skipif(not find_browser(), reason="there is no browser here")
def test_files_are_drawn(typical_study: Any, tmp_path: Path) -> None:
    drawn = list(accuracy_figures(load_findings(tmp_path / "s")))
    assert write_figures(drawn, tmp_path / "figures", "png") == f"figures: {len(drawn)} in {tmp_path / 'figures'}"
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {one.name for one in drawn}
    with Image.open(tmp_path / "figures" / "accuracy-macs.png") as image:
        assert image.size == (1800, 920)
        assert image.convert("RGB").getpixel((2, 2)) == (255, 255, 255)
