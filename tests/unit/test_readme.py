"""What the README shows works as shown."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from space import list_spaces, parse_space

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks that open with this language."""
    fences = re.split(r"^```(.*)\n", README, flags=re.MULTILINE)
    return [body for opened, body in zip(fences[1::4], fences[2::4]) if opened == language]


def test_the_space_of_the_readme_is_a_space() -> None:
    [text] = blocks("yaml")
    assert parse_space(text, "README.md").space.base.size == (64, 64)


def test_the_python_of_the_readme_runs_and_prints_what_it_says() -> None:
    [code] = blocks("python")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert printed.getvalue().split() == re.findall(r"# (\d+)$", code, re.MULTILINE) != []


def test_every_make_target_and_variable_exists() -> None:
    [listed] = re.findall(r"^VARIABLES := ((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)
    known = set(re.findall(r"[A-Z_]+", listed))
    commands = re.findall(r"make ([a-z-]+)((?: [A-Z_]+=(?:\"[^\"]*\"|\S+))*)", README)
    named = {name for _, variables in commands for name in re.findall(r" ([A-Z_]+)=", variables)}
    assert {target for target, _ in commands} <= set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    assert {"SPACE", "MAX_FLOPS", "MAX_KILLED", "OPEN_TEST"} <= named <= known


def test_every_file_of_the_tree_exists() -> None:
    [tree] = [block for block in blocks("") if block.startswith("crossvit_core/")]
    folder, named = "", 0
    for line in tree.splitlines():
        top = re.match(r"([a-z_]+)/ ", line)
        folder = top.group(1) if top else folder
        for name in re.findall(r"\b([a-z_]+\.py)\b", line):
            assert list((ROOT / folder).rglob(name)), f"{folder}/{name}"
            named += 1
    assert named > 20


@pytest.mark.parametrize("name", list_spaces())
def test_every_built_in_space_is_listed(name: str) -> None:
    assert f"| `{name}` |" in README
