"""The pieces of an HTML page. Every text that comes in is escaped; what ends in ``_html`` is markup already."""

from __future__ import annotations

import base64
import html
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

# The page may run what is inside it and fetch nothing at all: it must open the same offline, and for ever.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


class Markup(str):
    """A text that is HTML already."""

    __slots__ = ()


def escape(text: object) -> str:
    """Text made safe for element content and attribute values; ``Markup`` is so already."""
    return str(text) if isinstance(text, Markup) else html.escape(str(text))


def copy_button(key: str, shown: str) -> Markup:
    """An architecture's key that a click, or Enter, copies."""
    return Markup(
        f'<button type="button" class="key" data-copy="{escape(key)}" title="copy the key">{escape(shown)}</button>'
    )


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
    rows = [(name.replace("_", " "), value) for name, value in flatten_fields(data)]
    return table(("setting", "value"), (False, False), rows, kind="fields") if rows else ""


def figure(name: str, drawn: go.Figure, title: str, caption: str = "") -> str:
    """A plot with its heading. ``name`` is its id on the page: the same study must give the same bytes."""
    height = int(drawn.layout.height or drawn.layout.template.layout.height)
    note = f"<p>{escape(caption)}</p>" if caption else ""
    return (
        f"<figure><figcaption><h3>{escape(title)}</h3>{note}</figcaption>\n"
        f'<div class="plot" style="height:{height}px" data-figure="{escape(name)}-data" aria-label="{escape(title)}">'
        f'</div>\n<script type="text/plain" id="{escape(name)}-data">{_packed(drawn.to_json())}</script></figure>\n'
    )


def page(title: str, *parts_html: str) -> str:
    """The whole document, with its style, its plots and the code that draws them inside."""
    body = "".join(parts_html)
    needed = 'data-figure="' in body
    plotly = f'<script type="text/plain" id="plotly-code">{_packed_plotly()}</script>\n' if needed else ""
    scripts = f"{plotly}<script>\n{_own_file('page.js')}</script>\n"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_own_file('page.css')}</style>\n</head>\n"
        f'<body>\n<main>\n{body}</main>\n<p id="status" role="status"></p>\n{scripts}</body>\n</html>\n'
    )


def _own_file(name: str) -> str:
    return resources.files("results").joinpath(name).read_text(encoding="utf-8")


@cache
def _packed_plotly() -> str:
    return _packed(get_plotlyjs())


def _packed(text: str) -> str:
    """Deflated, in base64: a page of a third of the size, and nothing in it that could end a script element."""
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode("ascii")


def _class(kind: str) -> str:
    return f' class="{escape(kind)}"' if kind else ""


def flatten_fields(data: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """A nested record as pairs of a name, joined by dots, and what it is in words."""
    for name, value in data.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from flatten_fields(value, f"{path}.")
        else:
            yield path, _write_value(value)


def _write_value(value: Any) -> str:
    if value is None or value in ("", [], ()):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        if all(isinstance(item, Mapping) for item in value):
            return "; ".join(_write_part(item) for item in value)
        flat = all(not isinstance(item, (Mapping, list, tuple)) for item in value)
        return ", ".join(_write_items(value)) if flat else json.dumps(value, ensure_ascii=False)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _write_part(part: Mapping[str, Any]) -> str:
    """One of several records in a list, without what it leaves open."""
    return ", ".join(f"{name} {_write_value(value)}" for name, value in part.items() if value is not None)


def _write_items(items: Sequence[Any]) -> Iterable[str]:
    """A text with a comma in it would look like two: then every text is in quotes."""
    quoted = any(isinstance(item, str) and "," in item for item in items)
    return (f"“{item}”" if quoted and isinstance(item, str) else _write_value(item) for item in items)
