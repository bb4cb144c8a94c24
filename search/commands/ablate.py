"""The command ``ablate``. Heavy imports happen inside it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

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

    from search.ablation import Ablation, AblationConfig
    from search.executors.base import Executor
    from search.session import Session


def ablate(
    base: Annotated[
        str | None, typer.Option(help="What is varied: a preset, a JSON file, or STUDY:TRIAL; the space's own base.")
    ] = None,
    space: Annotated[
        str | None, typer.Option(help="Space that recommends base, data, recipe and values; small if there is no base.")
    ] = None,
    schemes: Annotated[str, typer.Option(help="Fusion schemes, comma-separated; all five.")] = "",
    dimension: Annotated[
        str | None, typer.Option(help="Vary this instead of the fusion, as branches.0.patch_size.")
    ] = None,
    components: Annotated[
        str, typer.Option(help="Add these improvements to the base instead, one at a time: comma-separated, or all.")
    ] = "",
    values: Annotated[str, typer.Option(help="Values of the dimension, comma-separated; the space's.")] = "",
    reference: Annotated[str | None, typer.Option(help="Compare with this one; cross_attention.")] = None,
    seeds: Annotated[int, typer.Option(help="Trainings of each, with the same seeds; at least 2.")] = 5,
    match: Annotated[str, typer.Option(help="flops: bring all to the reference's FLOPs by their widths.")] = "none",
    data: Data = None,
    study: NewStudy = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of each training.")] = None,
    seed: Annotated[int, typer.Option(help="Seed that the trainings' seeds come from.")] = 0,
    set_: Settings = None,
    workers: Workers = None,
    executor: ExecutorName = "ray",
    gpus_per_trial: GpusPerTrial = None,
    ray_address: RayAddress = None,
    device: Device = "auto",
    weights: KeepWeights = True,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Compare fusion schemes, or values of any dimension, on one base over paired seeds, and say what is chance."""
    from search.ablation import AblationConfig, resolve_ablation
    from search.executors.sizing import make_executor
    from search.study_config import StudyConfig

    where = StudyConfig(
        name=study,
        data=data,
        seed=seed,
        settings=parse_settings(set_, epochs),
        executor=executor,
        workers=workers,
        gpus_per_trial=gpus_per_trial,
        ray_address=ray_address,
        device=device,
        runs_dir=runs_dir,
        keep_weights=weights,
    )
    what = _what(dimension, schemes, values, components)
    config = AblationConfig(base=base, space=space, reference=reference, seeds=seeds, match=match, study=where, **what)
    ablation = resolve_ablation(config)
    _run(ablation, config, make_executor(where))


def _what(dimension: str | None, schemes: str, values: str, components: str) -> dict[str, Any]:
    from results.ablation_record import COMPONENT, FUSION
    from search.ablation import AblationError

    if components and (dimension is not None or schemes or values):
        raise AblationError("--components says what varies; leave --dimension, --schemes and --values out")
    if components:
        names = split_list(components)
        return {"dimension": COMPONENT, "values": names}
    if dimension is not None and dimension != FUSION and schemes:
        raise AblationError(f"--schemes are values of the fusion; for {dimension} give --values (make: VALUES=)")
    if schemes and values:
        raise AblationError("--schemes and --values (make: SCHEMES=, VALUES=) say the same thing; give one of them")
    if values and dimension is None:
        raise AblationError("--values needs --dimension (make: DIMENSION=), as branches.0.patch_size")
    return {"dimension": dimension or FUSION, "values": _parse_values(schemes or values)}


def _parse_values(text: str) -> tuple[Any, ...]:
    """'2,4,8' as numbers, 'none,pairwise' as names, '[1,2],[1,4]' as lists."""
    import yaml

    from search.ablation import AblationError

    try:
        return tuple(yaml.safe_load(f"[{text}]")) if text.strip(", ") else ()
    except yaml.YAMLError as error:
        raise AblationError(f"{text!r} is no list of values; write 2,4,8 or none,pairwise or [1,2],[1,4]") from error


def _run(ablation: Ablation, config: AblationConfig, executor: Executor) -> None:
    from rich.console import Console

    from search.ablation import run_ablation

    console = Console(highlight=False)
    run, header = partial(run_ablation, ablation, executor), partial(_header, ablation, config)
    _show(ablation, run_shown(run, console, header, items=ablation.trial_list()), console)


def _header(ablation: Ablation, config: AblationConfig, session: Session) -> list[str]:
    return [_headline(ablation, config), *ablation.notes, *describe_surplus(ablation)]


def _headline(ablation: Ablation, config: AblationConfig) -> str:
    from results.units import plural

    names = ", ".join(variant.name for variant in ablation.variants)
    return (
        f"study {ablation.name}: {config.dimension} = {names} on {ablation.ablated['base']}, "
        f"{ablation.seeds} seeds each ({ablation.trials} trainings of {plural(ablation.plan.recipe.epochs, 'epoch')}), "
        f"{ablation.data.name}, compared with {ablation.ablated['reference']}"
    )


def _show(ablation: Ablation, session: Session, console: Console) -> None:
    from results.ablation import load_ablation
    from results.ablation_page import write_findings
    from results.ablation_tables import rich_tables, verdict_lines
    from search.driver import check_success

    findings = load_ablation(ablation.path)
    page = write_findings(findings)
    for table in rich_tables(findings):
        console.print()
        console.print(table)
    console.print()
    for line in verdict_lines(findings):
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"report: {page}", markup=False, soft_wrap=True)
    check_success(session)
