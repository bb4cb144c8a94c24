"""The ``crossvit`` command. Heavy imports happen inside the subcommand that needs them."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from search import interrupt
from search.commands_ablate import ablate
from search.commands_export import export
from search.commands_select import retrain, select

if TYPE_CHECKING:
    from rich.console import Console

    from search.session import Session
    from search.study import Study
    from search.study_config import StudyConfig

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130

_RUNS_DIR = Path("results/runs")

_SAMPLER_HELP = (
    "tpe, nsga2, nsga3, random, gp (thinks for 3 to 5 s per trial), or brute_force (all of a space up to 20,000)."
)

app = typer.Typer(
    help="Search, measure and choose CrossViT architectures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Folder that holds the studies.")]


@app.command()
def search(
    space: Annotated[str, typer.Option(help="A built-in space (see 'crossvit spaces') or a YAML file.")] = "small",
    data: Annotated[
        str | None, typer.Option(help="digits, an image folder, a parquet file or folder, torch/NAME, hfds/NAME.")
    ] = None,
    study: Annotated[str | None, typer.Option(help="Name of the study; the same name goes on with it.")] = None,
    trials: Annotated[int | None, typer.Option(help="Architectures to try in all.")] = None,
    hours: Annotated[float | None, typer.Option(help="End after so many hours, all runs together.")] = None,
    device_hours: Annotated[float | None, typer.Option(help="End when trials took so many hours in all.")] = None,
    plateau: Annotated[
        int | None, typer.Option(help="End when so many trials in a row raised the hypervolume by less than 0.1 %.")
    ] = None,
    enqueue: Annotated[
        list[str] | None,
        typer.Option(help="Train this first: a preset, a JSON file, or STUDY:TRIAL. May be repeated."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of training per trial.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the search and of every training.")] = 0,
    sampler: Annotated[str, typer.Option(help=_SAMPLER_HELP)] = "tpe",
    objectives: Annotated[str, typer.Option(help="Comma-separated metrics.")] = "val_accuracy,macs,throughput_ips",
    limit: Annotated[
        list[str] | None, typer.Option(help="A limit, as 'macs<=40M' or 'latency_ms<=5'. May be repeated.")
    ] = None,
    measure: Annotated[
        str, typer.Option(help="What to measure as well: peak_memory, train_memory, energy, or all; comma-separated.")
    ] = "",
    stopping: Annotated[
        str | None, typer.Option(help="Early stopping: none, asha, hyperband, pareto_rank or optimistic.")
    ] = None,
    max_killed: Annotated[
        float | None, typer.Option(help="optimistic: the chance it may take of stopping a member of the front; 0.05.")
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Ask in rounds: one sequence of trials for any speed of workers.")
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Trials at a time; the cores or GPUs there are.")] = None,
    executor: Annotated[str, typer.Option(help="ray, or local for this machine without Ray.")] = "ray",
    gpus_per_trial: Annotated[float | None, typer.Option(help="Share of a GPU that a trial takes.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="Ray cluster to join.", envvar="RAY_ADDRESS")] = None,
    trial_minutes: Annotated[
        float | None, typer.Option(help="End a trial that reports nothing for so long; no limit.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:N.")] = "auto",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A training setting, as lr=0.001. May be repeated.")
    ] = None,
    dashboard: Annotated[bool, typer.Option("--dashboard", help="Keep a journal for optuna-dashboard.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write learning curves for TensorBoard.")] = False,
    weights: Annotated[bool, typer.Option(help="Keep every trial's weights.")] = True,
    runs_dir: RunsDir = _RUNS_DIR,
) -> None:
    """Search a space: train and measure architectures, report the Pareto front. Repeated, it goes on where it was."""
    from search.study_config import StudyConfig

    settings = _parse_settings(set_ or [])
    if epochs is not None:
        settings["epochs"] = epochs
    config = StudyConfig(
        space=space,
        name=study,
        data=data,
        trials=trials,
        hours=hours,
        device_hours=device_hours,
        plateau=plateau,
        enqueue=tuple(enqueue or []),
        deterministic=deterministic,
        seed=seed,
        sampler=sampler,
        objectives=_split(objectives),
        limits=tuple(part for text in limit or [] for part in _split(text)),
        measure=_split(measure),
        dashboard=dashboard,
        tensorboard=tensorboard,
        stopping=stopping,
        max_killed=max_killed,
        settings=settings,
        executor=executor,
        workers=workers,
        gpus_per_trial=gpus_per_trial,
        ray_address=ray_address,
        trial_minutes=trial_minutes,
        device=device,
        runs_dir=runs_dir,
        keep_weights=weights,
    )
    _search(config)


@app.command()
def report(
    studies: Annotated[list[str], typer.Argument(metavar="STUDY...", help="Name of the study; of several to compare.")],
    figures: Annotated[str, typer.Option(help="Also write every plot as a file: png or svg.")] = "",
    runs_dir: RunsDir = _RUNS_DIR,
) -> None:
    """Write a study's report again and show its front; of several studies, a page that compares them."""
    from rich.console import Console

    from results.store import check_study_name
    from search.reporting import show_comparison, show_report

    console = Console(highlight=False)
    if len(studies) == 1:
        show_report(runs_dir / check_study_name(studies[0]), console, figures)
    else:
        show_comparison(runs_dir, studies, console, figures)


@app.command()
def bench(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:N.")] = "auto",
    pairs: Annotated[int, typer.Option(help="Timed windows per architecture.", min=10)] = 200,
    runs_dir: RunsDir = _RUNS_DIR,
) -> None:
    """Time a study's front again, alone and longer: the throughput to quote. Run nothing beside it."""
    from rich.console import Console
    from rich.table import Table

    from results.store import check_study_name
    from results.units import human_count, percent, with_spread
    from search.bench import save_timings, time_front
    from search.choices import check_device
    from search.evaluate import pick_device

    check_device(device)
    study_dir = runs_dir / check_study_name(study)
    console = Console(highlight=False)
    table = Table("trial", "key", "accuracy", "FLOPs", "images/s", "ratio", "flags", box=None, header_style="bold")
    timings = []
    for timing in time_front(study_dir, pick_device(device), pairs):
        timings.append(timing)
        speed = timing.throughput
        table.add_row(
            str(timing.trial),
            timing.arch_key[:8],
            percent(timing.val_accuracy),
            human_count(timing.macs),
            with_spread(speed.ips, speed.iqr),
            f"{speed.ratio:.3f} ±{speed.ratio_iqr / 2 / speed.ratio:.1%}",
            ", ".join(speed.flags) or "-",
        )
    console.print(table)
    console.print(
        "ratio: to the fixed reference network, timed in turn; ± is half the interquartile range", style="dim"
    )
    console.print(f"saved: {save_timings(study_dir, timings, pick_device(device))}", markup=False, soft_wrap=True)


@app.command()
def status(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    follow: Annotated[bool, typer.Option("--follow", help="Go on showing it until the search ends.")] = False,
    runs_dir: RunsDir = _RUNS_DIR,
) -> None:
    """Say how a study stands, also while it runs: trials, best accuracy, time left."""
    from rich.console import Console

    from results.store import check_study_name
    from search.status import read_status, show_status, watch_status

    study_dir = runs_dir / check_study_name(study)
    show_status(watch_status(study_dir) if follow else [read_status(study_dir)], Console(highlight=False))


@app.command()
def dashboard(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    runs_dir: RunsDir = _RUNS_DIR,
) -> None:
    """Write a study's journal for optuna-dashboard and say how to open it."""
    from results.store import check_study_name
    from search.optuna_journal import describe_opening, write_journal

    print(describe_opening(write_journal(runs_dir / check_study_name(study))))


@app.command()
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


@app.command()
def count(
    preset: Annotated[str, typer.Argument(help="A preset's name, a JSON file with an architecture, or STUDY:TRIAL.")],
    modules: Annotated[bool, typer.Option(help="Also list every module.")] = False,
    runs_dir: RunsDir = _RUNS_DIR,
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


app.command()(ablate)
app.command()(export)
app.command()(select)
app.command()(retrain)


def main() -> NoReturn:
    """Run the command; turn what a user can mend into one line and exit code 2, what failed on the way into 1."""
    interrupt.arm()
    try:
        app(standalone_mode=False)
    except KeyboardInterrupt:
        _fail("interrupted", EXIT_INTERRUPTED)
    except Exception as error:
        _fail_with(error)
    raise SystemExit(0)


def _search(config: StudyConfig) -> None:
    from rich.console import Console

    from search.environment import command_line
    from search.executors.sizing import make_executor
    from search.progress import SearchProgress
    from search.reporting import show_report
    from search.study import resolve_study, run_study

    console = Console(highlight=False)
    study = resolve_study(config)
    executor = make_executor(config)
    for line in (_headline(study), *study.notes):
        console.print(line, markup=False, soft_wrap=True)
    try:
        macs_limit = next((limit.maximum for limit in study.space.limits if limit.metric == "macs"), None)
        with SearchProgress(console, macs_limit) as progress:
            session = run_study(study, executor, listeners=[progress], on_open=progress.open)
    except KeyboardInterrupt:
        _ignore_signals()
        console.print(
            f"interrupted; what finished is kept. To go on:\n  {command_line()}", markup=False, soft_wrap=True
        )
        raise SystemExit(EXIT_INTERRUPTED) from None
    if session.stop_reason:
        console.print(f"the search ended early: {session.stop_reason}", markup=False)
    show_report(study.path, console)
    _check_success(session)
    _show_next(study, session, console)


def _check_success(session: Session) -> None:
    """A study in which nothing worked has failed, though every trial is on record."""
    from search.session import StudyFailedError

    outcomes = session.outcomes
    if outcomes and all(outcome.status in ("failed", "lost", "infeasible") for outcome in outcomes):
        raise StudyFailedError(f"none of {len(outcomes)} trials succeeded; the last one said: {outcomes[-1].error}")


def _headline(study: Study) -> str:
    space, data = study.space, study.data
    limits = ", ".join(limit.describe() for limit in (*space.limits, *study.plan.measure.limits))
    return (
        f"study {study.name}: {study.trials} trials over {space.size():,} architectures"
        f"{f' ({limits})' if limits else ''}, {data.name} "
        f"({len(data.splits['train'])} training and {len(data.splits['val'])} validation images, "
        f"{data.num_classes} classes), {study.plan.recipe.epochs} epochs each"
    )


def _show_next(study: Study, session: Session, console: Console) -> None:
    from search.environment import command_line

    if session.stop_reason:
        console.print("next: open the report", markup=False)
        return
    more = command_line(trials=2 * study.trials)
    console.print(f"next: open the report, or go on searching with\n  {more}", markup=False, soft_wrap=True)


def _split(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def _parse_settings(pairs: list[str]) -> dict[str, Any]:
    import yaml

    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"{pair!r} is no setting; write name=value, as lr=0.001", param_hint="--set")
        settings[name.strip()] = yaml.safe_load(text)
    return settings


def _ignore_signals() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _fail_with(error: Exception) -> NoReturn:
    if isinstance(error, typer.Exit):
        raise SystemExit(error.exit_code)
    if isinstance(error, typer.Abort):
        _fail("interrupted", EXIT_INTERRUPTED)
    if hasattr(error, "show") and hasattr(error, "exit_code"):  # typer's own complaint about options
        error.show()
        raise SystemExit(error.exit_code)
    code = _exit_code(error)
    if code is None:
        raise error
    _fail(str(error), code)


def _exit_code(error: Exception) -> int | None:
    """2 for what the user asked, 1 for what broke under way, None for a defect of ours."""
    from crossvit_core.artefact import ExportError, MismatchError
    from crossvit_core.config import ArchError
    from crossvit_core.data import DataError
    from crossvit_core.recipe import RecipeError
    from results.figures import FigureFormatError
    from results.store import StoreError, WriteError
    from search.executors.base import ExecutorError
    from search.limits import LimitConfigError
    from search.mirrors import MirrorError
    from search.session import StudyFailedError
    from search.study_config import StudyConfigError
    from space import SpaceError

    if isinstance(error, (StudyFailedError, ExecutorError, MismatchError, WriteError)):
        return EXIT_FAILED
    configured = (FigureFormatError, LimitConfigError, MirrorError, StudyConfigError)
    if isinstance(error, (ArchError, DataError, ExportError, RecipeError, SpaceError, StoreError, *configured)):
        return EXIT_BAD_INPUT
    return None


def _fail(message: str, code: int) -> NoReturn:
    print(f"crossvit: {message}", file=sys.stderr)
    raise SystemExit(code)
