"""``crossvit search``: the main command."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from search.commands.options import (
    RUNS_DIR,
    Data,
    Device,
    ExecutorName,
    GpusPerTrial,
    KeepWeights,
    NewStudy,
    RayAddress,
    RunsDir,
    Settings,
    Workers,
    parse_settings,
    split_list,
)
from search.commands.running import describe_surplus, run_shown

if TYPE_CHECKING:
    from rich.console import Console

    from search.session import Session
    from search.study import Study
    from search.study_config import StudyConfig

_SAMPLER_HELP = "tpe, nsga2, nsga3, random, gp (a Gaussian process), or brute_force (all of a space up to 20,000)."


def search(
    space: Annotated[str, typer.Option(help="A built-in space (see 'crossvit spaces') or a YAML file.")] = "small",
    data: Data = None,
    study: NewStudy = None,
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
    workers: Workers = None,
    executor: ExecutorName = "ray",
    gpus_per_trial: GpusPerTrial = None,
    ray_address: RayAddress = None,
    trial_minutes: Annotated[
        float | None, typer.Option(help="End a trial that reports nothing for so long; no limit.")
    ] = None,
    device: Device = "auto",
    set_: Settings = None,
    dashboard: Annotated[bool, typer.Option("--dashboard", help="Keep a journal for optuna-dashboard.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write learning curves for TensorBoard.")] = False,
    weights: KeepWeights = True,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Search a space: train and measure architectures, report the Pareto front. Repeated, it goes on where it was."""
    from search.study_config import StudyConfig

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
        objectives=split_list(objectives),
        limits=tuple(part for text in limit or [] for part in split_list(text)),
        measure=split_list(measure),
        dashboard=dashboard,
        tensorboard=tensorboard,
        stopping=stopping,
        max_killed=max_killed,
        settings=parse_settings(set_, epochs),
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


def _search(config: StudyConfig) -> None:
    from rich.console import Console

    from search.driver import check_success
    from search.executors.sizing import make_executor
    from search.reporting import show_report
    from search.study import resolve_study, run_study

    console = Console(highlight=False)
    study = resolve_study(config)
    executor = make_executor(config)
    session = run_shown(partial(run_study, study, executor), console, partial(_header, study))
    if session.stop_reason:
        console.print(f"the search ended early: {session.stop_reason}", markup=False)
    show_report(study.path, console)
    check_success(session)
    _show_next(study, session, console)


def _header(study: Study, session: Session) -> list[str]:
    return [_headline(study, session.trials), *study.notes, *describe_surplus(study)]


def _headline(study: Study, trials: int) -> str:
    from results.units import plural

    space, data = study.space, study.data
    limits = ", ".join(limit.describe() for limit in (*space.limits, *study.plan.measure.limits))
    return (
        f"study {study.name}: {plural(trials, 'trial')} over {plural(space.size(), 'architecture')}"
        f"{f' ({limits})' if limits else ''}, {data.name} "
        f"({len(data.splits['train'])} training and {len(data.splits['val'])} validation images, "
        f"{data.num_classes} classes), {plural(study.plan.recipe.epochs, 'epoch')} each"
    )


def _show_next(study: Study, session: Session, console: Console) -> None:
    from search.environment import command_line, in_runs_dir

    if session.stop_reason:
        console.print("next: open the report", markup=False)
        return
    lines: tuple[str, ...] = (
        "next: open the report; choose what to deploy with",
        f"  {in_runs_dir(f'make select STUDY={study.name}', study.path.parent)}",
    )
    more = min(2 * session.trials, study.space.size())
    if more > session.trials:
        lines += ("or go on searching with", f"  {command_line(trials=more)}")
    console.print("\n".join(lines), markup=False, soft_wrap=True)
