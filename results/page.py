"""The pieces of an HTML page. Every text that comes in is escaped; what ends in ``_html`` is markup already."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

# The page may run what is inside it and fetch nothing at all: it must open the same offline, and for ever.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"

_DRAW = """
const coarse = matchMedia("(pointer: coarse)").matches;
for (const element of document.querySelectorAll("[data-figure]")) {
  const figure = JSON.parse(document.getElementById(element.dataset.figure).textContent);
  if (coarse) figure.layout.dragmode = false;  // a finger on a plot must scroll the page
  Plotly.newPlot(element, figure.data, figure.layout, {
    responsive: true, displaylogo: false, displayModeBar: coarse ? false : "hover",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]]
  });
}
"""


def escape(text: object) -> str:
    """Text made safe for element content and attribute values."""
    return html.escape(str(text))


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph, with a class of page.css."""
    return f"<p{_class(kind)}>{escape(text)}</p>\n"


def bullet_list(items: Iterable[str]) -> str:
    """An unordered list."""
    return "<ul>\n" + "".join(f"<li>{escape(item)}</li>\n" for item in items) + "</ul>\n"


def section(title: str, *parts_html: str) -> str:
    """A part of the page with its heading; nothing at all when the parts are empty."""
    body = "".join(parts_html)
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}</section>\n" if body else ""


def folded(title: str, body_html: str) -> str:
    """A part that opens when asked for."""
    return f"<details>\n<summary>{escape(title)}</summary>\n{body_html}</details>\n" if body_html else ""


def table(header: Sequence[str], numeric: Sequence[bool], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table that scrolls sideways in itself on a narrow screen."""
    classes = [' class="number"' if right else "" for right in numeric]
    head = "".join(f"<th{css}>{escape(name)}</th>" for name, css in zip(header, classes))
    lines = ("".join(f"<td{css}>{escape(text)}</td>" for text, css in zip(row, classes)) for row in rows)
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    whole = f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>"
    return f'<div class="scroll{" " + escape(kind) if kind else ""}">{whole}</div>\n'


def cards(items: Iterable[tuple[str, str, Sequence[str]]]) -> str:
    """Boxes side by side, each a small title, a large line and lines below."""
    boxes = "".join(
        f'<div class="card"><h3>{escape(title)}</h3><p class="large">{escape(large)}</p>'
        + "".join(f"<p>{escape(line)}</p>" for line in lines)
        + "</div>\n"
        for title, large, lines in items
    )
    return f'<div class="cards">\n{boxes}</div>\n' if boxes else ""


def fields_table(data: Mapping[str, Any]) -> str:
    """Any nested record as two columns, nested names joined by dots."""
    rows = [(name.replace("_", " "), value) for name, value in _flatten(data)]
    return table(("setting", "value"), (False, False), rows, kind="fields") if rows else ""


def figure(name: str, drawn: go.Figure, title: str, caption: str = "") -> str:
    """A plot with its heading. ``name`` is its id on the page: the same study must give the same bytes."""
    # Inside a script element nothing is escaped, so no '<' may be left that could end it.
    data = drawn.to_json().replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    height = int(drawn.layout.height or drawn.layout.template.layout.height)
    note = f"<p>{escape(caption)}</p>" if caption else ""
    return (
        f"<figure><figcaption><h3>{escape(title)}</h3>{note}</figcaption>\n"
        f'<div class="plot" style="height:{height}px" data-figure="{escape(name)}-data"></div>\n'
        f'<script type="application/json" id="{escape(name)}-data">{data}</script></figure>\n'
    )


def page(title: str, *parts_html: str) -> str:
    """The whole document, with its style, its plots and the code that draws them inside."""
    body = "".join(parts_html)
    style = resources.files("results").joinpath("page.css").read_text(encoding="utf-8")
    scripts = f"<script>{get_plotlyjs()}</script>\n<script>{_DRAW}</script>\n" if "data-figure=" in body else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}</main>\n{scripts}</body>\n</html>\n"
    )


def _class(kind: str) -> str:
    return f' class="{escape(kind)}"' if kind else ""


def _flatten(data: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in data.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{path}.")
        else:
            yield path, _write_value(value)


def _write_value(value: Any) -> str:
    if value is None or value in ("", [], ()):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        flat = all(not isinstance(item, (Mapping, list, tuple)) for item in value)
        return ", ".join(str(item) for item in value) if flat else json.dumps(value)
    return str(value)
