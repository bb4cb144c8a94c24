"""The plots of a report as files of their own, PNG or SVG, drawn by a Chromium that is installed (kaleido)."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import plotly.graph_objects as go

from results.plot_style import Drawn
from results.store import WriteError

FORMATS = ("png", "svg")
WIDTH_PX = 900
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


class FigureFormatError(ValueError):
    """A format that figures cannot be written in."""


def check_format(name: str) -> str:
    """The format, or FigureFormatError naming the known ones."""
    if name not in FORMATS:
        raise FigureFormatError(f"figures cannot be written as {name!r}; use {' or '.join(FORMATS)}")
    return name


def find_browser() -> str:
    """Path of a browser that can draw: ``BROWSER_PATH`` or the first of the usual names; empty if there is none."""
    asked = os.environ.get("BROWSER_PATH", "")
    return shutil.which(asked or "") or next(filter(None, map(shutil.which, _BROWSERS)), "")


def write_figures(drawn: Iterable[Drawn], folder: Path, fmt: str) -> str:
    """Write each plot to ``folder/<name>.<fmt>`` and say in one line how it went.

    Without a browser or kaleido nothing is written, and the line says what is missing: it is no error. Raises
    FigureFormatError for an unknown format, WriteError if the folder cannot be written.
    """
    check_format(fmt)
    browser = find_browser()
    if importlib.util.find_spec("kaleido") is None:
        return "no figures: they need the package kaleido (pip install kaleido) and a Chromium"
    if not browser:
        return "no figures: they need a Chromium or Chrome; install one, or say where it is with BROWSER_PATH="
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"*.{fmt}"):
            old.unlink()
    except OSError as error:
        raise WriteError(f"cannot write the figures to {folder}: {error.strerror or error}") from error
    return _draw(list(drawn), folder, fmt, browser)


def _draw(drawn: list[Drawn], folder: Path, fmt: str, browser: str) -> str:
    import kaleido

    jobs = [
        {"fig": _on_white(one).to_plotly_json(), "path": str(folder / f"{one.name}.{fmt}"), "opts": _options(one, fmt)}
        for one in drawn
    ]
    try:
        kaleido.write_fig_from_object_sync(jobs, kopts={"n": 1, "path": browser, "mathjax": False})
    except Exception as error:  # a browser has many ways to fail, none of which spoils the report
        return f"no figures: {browser} could not draw them ({str(error).splitlines()[0] if str(error) else error!r})"
    return f"figures: {len(drawn)} in {folder}"


def _on_white(one: Drawn) -> go.Figure:
    """On the page the ground shines through; a file must be readable on any."""
    return go.Figure(one.figure).update_layout(paper_bgcolor="white", plot_bgcolor="white")


def _options(one: Drawn, fmt: str) -> dict[str, object]:
    height = int(one.figure.layout.height or one.figure.layout.template.layout.height)
    return {"format": fmt, "width": WIDTH_PX, "height": height, "scale": 2 if fmt == "png" else 1}
