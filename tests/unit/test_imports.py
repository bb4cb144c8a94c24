"""The rules of who may import whom, and what stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("crossvit_core", "space", "search", "results")

# Which of our packages each may import.
ALLOWED = {
    "crossvit_core": {"crossvit_core"},
    "results": {"results"},
    "space": {"space", "crossvit_core"},
    "search": {"search", "space", "crossvit_core", "results"},
}
SPACE_MAY_USE = {"crossvit_core.config", "crossvit_core.cost", "crossvit_core.presets", "crossvit_core.reading"}

LIGHT = ("crossvit_core", "crossvit_core.config", "crossvit_core.cost", "crossvit_core.presets", "crossvit_core.recipe")
ONLY_IN = {
    "optuna": {"search/optuna_searcher.py", "search/samplers.py", "search/optuna_journal.py"},
    "tensorboardX": {"search/tensorboard.py"},
    "ray": {"search/executors/ray_tune.py"},
}


def modules() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield node.module or ""


def test_there_are_modules_to_check() -> None:
    assert len(modules()) > 30


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    for name in imports_of(path):
        top = name.split(".")[0]
        if top in PACKAGES:
            assert top in ALLOWED[package], f"{path} imports {name}"
            if package == "space" and top == "crossvit_core":
                assert name in SPACE_MAY_USE, f"{path} imports {name}"
        if top in ONLY_IN:
            assert path.relative_to(ROOT).as_posix() in ONLY_IN[top], f"{path} imports {name}"
        if top == "plotly":
            assert package == "results"


def loaded_after(statement: str) -> set[str]:
    script = f"{statement}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize("module", LIGHT)
def test_describing_and_counting_need_no_torch(module: str) -> None:
    assert not loaded_after(f"import {module}") & {"torch", "timm", "ray", "pandas"}


def test_data_and_results_need_neither_torch_nor_ray() -> None:
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted((ROOT / "results").glob("*.py"))]
    statements = "; ".join(f"import {name}" for name in [*names, "crossvit_core.data"])
    assert not loaded_after(statements) & {"torch", "timm", "ray", "optuna"}


def test_the_driver_of_a_search_imports_no_torch() -> None:
    statement = "import search.study, search.optuna_searcher, search.executors.ray_tune, search.progress, search.cli"
    assert not loaded_after(statement) & {"torch", "timm", "ray"}


def test_a_worker_imports_neither_timm_nor_torchvision() -> None:
    """They triple the time until a worker is ready."""
    loaded = loaded_after("import search.evaluate")
    assert "torch" in loaded
    assert not loaded & {"timm", "torchvision", "ray", "optuna", "pandas"}


def test_telling_how_a_study_stands_is_light() -> None:
    assert not loaded_after("import search.status") & {"torch", "timm", "ray", "optuna", "pandas", "plotly"}


def test_views_of_a_study_need_no_torch_until_one_is_written() -> None:
    assert not loaded_after("import search.mirrors, search.optuna_journal, search.tensorboard") & {"torch", "ray"}


def test_help_is_light() -> None:
    assert not loaded_after("import search.cli") & {"torch", "optuna", "pandas", "plotly", "numpy", "ray"}


def test_packages_are_this_checkout() -> None:
    script = (
        "import sys, crossvit_core, space, search, results\nfor name in sys.argv[1:]: print(sys.modules[name].__file__)"
    )
    command = [sys.executable, "-c", script, *PACKAGES]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    assert all(Path(name).is_relative_to(ROOT) for name in run.stdout.split())
