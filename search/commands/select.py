"""The commands ``select`` and ``retrain``. Heavy imports happen inside the one that needs them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.commands.options import (
    RUNS_DIR,
    Device,
    ExecutorName,
    GpusPerTrial,
    MovedTo,
    RunsDir,
    StudyName,
    Workers,
    parse_settings,
)
from search.commands.running import run_shown

if TYPE_CHECKING:
    from search.executors.base import Executor
    from search.finalists import Wish
    from search.retrain import Retraining


MaxFlops = Annotated[str | None, typer.Option(help="Most FLOPs (multiply-adds), as 40M.")]
MaxParams = Annotated[str | None, typer.Option(help="Most parameters, as 1.5M.")]
MinThroughput = Annotated[str | None, typer.Option(help="Fewest images/s, as the search measured them.")]
MaxLatency = Annotated[str | None, typer.Option("--max-latency-ms", help="Longest milliseconds for one image.")]
Prefer = Annotated[
    str,
    typer.Option(
        help="accuracy, knee, or weighted:accuracy=1,macs=0.02 (ten times the FLOPs must earn 2 points of accuracy)."
    ),
]
Trials = Annotated[str | None, typer.Option(help="Take these trials as finalists, as 1,2,3.")]
Finalists = Annotated[int, typer.Option(help="Most finalists.", min=1, max=100)]


def select(
    study: StudyName,
    max_flops: MaxFlops = None,
    max_params: MaxParams = None,
    min_throughput: MinThroughput = None,
    max_latency_ms: MaxLatency = None,
    prefer: Prefer = "accuracy",
    trials: Trials = None,
    finalists: Finalists = 5,
    open_test: Annotated[
        bool, typer.Option("--open-test", help="Open the test split, once, for the retrained finalists.")
    ] = False,
    device: Annotated[str, typer.Option(help="For the test: auto, cpu or cuda:N.")] = "auto",
    data: MovedTo = None,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Choose what to deploy: hard limits, a preference, and how sure fresh seeds are of it."""
    from results.store import check_study_name
    from search.choices import check_device

    check_device(device)
    if data is not None and not open_test:
        raise typer.BadParameter("images are read with --open-test only (make: OPEN_TEST=1)", param_hint="--data")
    wish = make_wish(max_flops, max_params, min_throughput, max_latency_ms, prefer, trials, finalists)
    show_selection(runs_dir / check_study_name(study), wish, device if open_test else None, data)


def retrain(
    study: StudyName,
    trials: Trials = None,
    seeds: Annotated[int, typer.Option(help="Fresh seeds for each finalist.", min=1)] = 3,
    epochs: Annotated[int | None, typer.Option(help="Epochs of training; the search's.")] = None,
    max_flops: MaxFlops = None,
    max_params: MaxParams = None,
    min_throughput: MinThroughput = None,
    max_latency_ms: MaxLatency = None,
    prefer: Prefer = "accuracy",
    finalists: Finalists = 5,
    workers: Workers = None,
    executor: ExecutorName = "ray",
    gpus_per_trial: GpusPerTrial = None,
    device: Device = "auto",
    data: MovedTo = None,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Train finalists again on fresh seeds, then show what that says of them. Repeated, it goes on where it was."""
    from results.store import check_study_name
    from search.executors.sizing import make_executor
    from search.retrain import RetrainConfig, resolve_retraining
    from search.selection import select as choose
    from search.study_config import StudyConfig

    study_dir = runs_dir / check_study_name(study)
    wish = make_wish(max_flops, max_params, min_throughput, max_latency_ms, prefer, trials, finalists)
    numbers = tuple(finalist.trial for finalist in choose(study_dir, wish).finalists)
    settings = parse_settings(None, epochs)
    config = RetrainConfig(
        study_dir=study_dir, trials=numbers, seeds=seeds, settings=settings, device=device, moved_to=data
    )
    retraining = resolve_retraining(config)
    sizes = StudyConfig(executor=executor, workers=workers, gpus_per_trial=gpus_per_trial, device=device)
    _run(retraining, make_executor(sizes))
    # The choice is among all that were trained again, not among those of this time alone.
    show_selection(study_dir, replace(wish, trials=()), device=None, moved_to=data)


def make_wish(
    max_flops: str | None,
    max_params: str | None,
    min_throughput: str | None,
    max_latency_ms: str | None,
    prefer: str,
    trials: str | None,
    finalists: int,
) -> Wish:
    """The wish in what was typed. Raises SelectionError for a number that is none."""
    from search.finalists import SelectionError, Wish
    from space import LimitError
    from space.limits import make_limit

    asked = (
        ("macs", "max", max_flops),
        ("params", "max", max_params),
        ("throughput_ips", "min", min_throughput),
        ("latency_ms", "max", max_latency_ms),
    )
    try:
        limits = tuple(make_limit(metric, {side: value}) for metric, side, value in asked if value is not None)
    except LimitError as error:
        raise SelectionError(str(error)) from error
    return Wish(limits=limits, prefer=prefer, trials=_parse_trials(trials), max_finalists=finalists)


def show_selection(study_dir: Path, wish: Wish, device: str | None, moved_to: str | None = None) -> None:
    """Print the selection and write it into the study's folder; a ``device`` opens the test split on it.

    ``moved_to``: where the study's images are now, if they have moved.
    """
    from rich.console import Console

    from results.selection_table import rich_selection, selection_notes
    from results.test_ledger import read_look
    from search.selection import select as choose
    from search.selection_report import (
        describe_choice,
        describe_test,
        epochs_notes,
        following_command,
        selection_rows,
        write_selection,
    )

    selection = choose(study_dir, wish)
    if device is None:
        look = read_look(study_dir)
    else:
        from search.final_test import look_at_test

        look = look_at_test(study_dir, selection, device, moved_to=moved_to)
    console = Console(highlight=False)
    rows = selection_rows(selection, look)
    console.print(rich_selection(rows, describe_choice(selection)))
    for line in (*epochs_notes(study_dir), *selection_notes(rows)):
        console.print(line, style="dim", markup=False)
    for line in (selection.verdict, *selection.notes, describe_test(selection, look)):
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"next: {following_command(selection, study_dir, moved_to)}", markup=False, soft_wrap=True)
    # Last: what was found is shown also where nothing can be written.
    write_selection(study_dir, selection, look, moved_to)


def _run(retraining: Retraining, executor: Executor) -> None:
    from rich.console import Console

    from search.retrain import run_retraining

    run, console = partial(run_retraining, retraining, executor), Console(highlight=False)
    run_shown(run, console, lambda session: [_headline(retraining)], items=retraining.items)


def _headline(retraining: Retraining) -> str:
    from results.units import plural

    archs = len({item.arch_key for item in retraining.items})
    data = retraining.described["data"]["name"]
    runs = f"{plural(archs, 'architecture')}, {plural(len(retraining.items), 'run')}"
    return f"study {retraining.path.name}: {runs} on {data}, {plural(retraining.plan.recipe.epochs, 'epoch')} each"


def _parse_trials(text: str | None) -> tuple[int, ...]:
    from search.finalists import SelectionError

    if text is None:
        return ()
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdecimal() for word in words):
        raise SelectionError(f"trials must be numbers with commas between, as 1,2,3, got {text!r}")
    return tuple(dict.fromkeys(int(word) for word in words))
