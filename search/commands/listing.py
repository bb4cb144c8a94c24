"""``crossvit spaces`` and ``count``: what can be asked without a study."""

from __future__ import annotations

from typing import Annotated

import typer

from search.commands.options import RUNS_DIR, RunsDir


def spaces() -> None:
    """List the built-in spaces."""
    from rich.console import Console
    from rich.table import Table

    from space import list_spaces, load_space

    table = Table("space", "architectures", "limits", "what it is", box=None, header_style="bold")
    for name in list_spaces():
        file = load_space(name)
        limits = ", ".join(limit.describe() for limit in file.space.limits)
        table.add_row(name, f"{file.space.size():,}", limits, file.description)
    Console(highlight=False).print(table)


def count(
    preset: Annotated[str, typer.Argument(help="A preset's name, a JSON file with an architecture, or STUDY:TRIAL.")],
    modules: Annotated[bool, typer.Option(help="Also list every module.")] = False,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Count parameters and FLOPs (multiply-adds) of an architecture, in closed form."""
    from rich.console import Console
    from rich.table import Table

    from crossvit_core.cost import count_cost
    from search.enqueue import load_arch

    cost = count_cost(load_arch(preset, runs_dir))
    table = Table("", "parameters", "FLOPs (multiply-adds)", "executed", "activations", box=None, header_style="bold")
    rows = dict(cost.by_module) if modules else {}
    for name, part in {**rows, "total": cost}.items():
        table.add_row(name, f"{part.params:,}", f"{part.macs:,}", f"{part.executed_macs:,}", f"{part.activations:,}")
    Console(highlight=False).print(table)
