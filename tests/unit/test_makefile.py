"""What make hands to the command: every variable as it was given, and nothing that was not understood."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def make(*words: str, **exported: str) -> subprocess.CompletedProcess[str]:
    """``make -n`` as a user types it, the environment taken as installed but for what is ``exported``."""
    return subprocess.run(
        ["make", "-n", "--no-print-directory", "-o", ".venv/.installed", *words],
        cwd=ROOT,
        env={**os.environ, **exported},
        capture_output=True,
        text=True,
        check=False,
    )


def called(*words: str, **exported: str) -> list[str]:
    """What a shell would call, and the environment before it."""
    done = make(*words, **exported)
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stdout.replace("\\\n", " ").splitlines() if "bin/crossvit" in line]
    return shlex.split(line)


def arguments(*words: str) -> list[str]:
    """What the command is called with."""
    line = called(*words)
    return line[line.index(".venv/bin/crossvit") + 1 :]


@pytest.mark.parametrize("value", ["0", "no", "false", "off"])
@pytest.mark.parametrize(
    ("words", "variable", "switch"),
    [
        (("select", "STUDY=a"), "OPEN_TEST", "--open-test"),
        (("export", "STUDY=a", "TRIAL=1"), "FORCE", "--force"),
        (("bench", "STUDY=a", "BASELINES=x"), "TRAIN", "--train"),
        (("search",), "DETERMINISTIC", "--deterministic"),
        (("search",), "DASHBOARD", "--dashboard"),
        (("search",), "TENSORBOARD", "--tensorboard"),
        (("status", "STUDY=a"), "FOLLOW", "--follow"),
    ],
)
def test_a_switch_that_is_off_is_off(words: tuple[str, ...], variable: str, switch: str, value: str) -> None:
    assert switch not in arguments(*words, f"{variable}={value}")
    assert switch in arguments(*words, f"{variable}=1")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("select", "STUDY=a", "OPEN_TEST=maybe"), "OPEN_TEST=maybe is neither on nor off; use 1 or 0"),
        (("search", "TRIALZ=3"), "unknown variable TRIALZ; known: SPACE DATA"),
        (("search", "space=small"), "unknown variable space; known: SPACE DATA"),
        (("search", "small"), "no target small; a space is named by SPACE=small"),
        (("status",), "STUDY= is missing"),
        (("export", "STUDY=a"), "TRIAL= is missing"),
    ],
)
def test_what_is_not_understood_is_refused(words: tuple[str, ...], says: str) -> None:
    done = make(*words)
    assert done.returncode == 2
    assert says in done.stderr
    assert "crossvit" not in done.stdout


@pytest.mark.parametrize("value", ["/d/it's mine", '/d/a"b', "/d/a`id`b", "/d/a;b & c", "/d/ä ö"])
def test_a_path_reaches_the_command_as_it_is(value: str) -> None:
    words = called("search", f"DATA={value}")
    assert words[words.index("--data") + 1] == value
    asked = words[0].removeprefix("CROSSVIT_MAKE_COMMAND=")
    assert shlex.split(asked) == ["make", "search", f"DATA={value}"]


def test_what_was_exported_is_part_of_the_command_that_goes_on() -> None:
    words = called("search", "TRIALS=4", SPACE="smoke", DATA="/d/it's mine", PYTHON="python3")
    assert words[words.index("--space") + 1] == "smoke"
    asked = shlex.split(words[0].removeprefix("CROSSVIT_MAKE_COMMAND="))
    assert asked[:2] == ["make", "search"]
    assert sorted(asked[2:]) == ["DATA=/d/it's mine", "SPACE=smoke", "TRIALS=4"]


def test_variables_with_several_words_and_commas() -> None:
    words = arguments(
        "search", "SPACE=smoke", "OBJECTIVES=val_accuracy,macs", "ENQUEUE=a.json other:17", "RUNS_DIR=x y"
    )
    assert words[0] == "search"
    assert [words[index + 1] for index, word in enumerate(words) if word == "--enqueue"] == ["a.json", "other:17"]
    assert words[words.index("--objectives") + 1] == "val_accuracy,macs"
    assert words[words.index("--runs-dir") + 1] == "x y"
    assert arguments("report", "STUDY=a b") == ["report", "a", "b"]
    assert arguments("bench", "STUDY=a", "SEEDS=3") == ["bench", "a", "--seeds", "3"]


@pytest.mark.parametrize(
    "words",
    [
        ("export", "TRIAL=1"),
        ("quantize", "TRIAL=1"),
        ("retrain",),
        ("select", "OPEN_TEST=1"),
        ("bench", "BASELINES=x", "TRAIN=1"),
    ],
    ids=lambda words: words[0],
)
def test_where_the_images_are_now_reaches_every_command_that_reads_them(words: tuple[str, ...]) -> None:
    given = arguments(*words, "STUDY=a", "DATA=/d/my images")
    assert given[given.index("--data") + 1] == "/d/my images"
    assert "--data" not in arguments(*words, "STUDY=a")
