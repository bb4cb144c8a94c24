"""``crossvit bench``: time a study's front again, and networks from elsewhere beside it, or those alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.commands.options import RUNS_DIR, Device, MovedTo, RunsDir, split_list

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from search.baseline_training import BaselineEpoch, Training
    from search.baselines import Setting

_NETWORKS_HELP = (
    "Networks to measure, comma-separated: timm:NAME, timm:NAME+GATE (cbam, eca, se, ...), a preset, a JSON file, "
    "STUDY:TRIAL. Beside a study at its image size."
)


def bench(
    study: Annotated[str | None, typer.Argument(help="Name of the study; without it give --models.")] = None,
    networks: Annotated[str, typer.Option("--baselines", "--models", help=_NETWORKS_HELP)] = "",
    train: Annotated[
        bool, typer.Option("--train", help="Also train them with the study's recipe on its data.")
    ] = False,
    seeds: Annotated[int | None, typer.Option(help="Runs of each in all, with --train; 1.", min=1)] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Without a study: side in pixels; each network's own.", min=1)
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Without a study: images in a batch; 32.", min=1)] = None,
    out: Annotated[Path | None, typer.Option(help="Without a study: folder to keep baselines.csv in.")] = None,
    device: Device = "auto",
    data: MovedTo = None,
    pairs: Annotated[int, typer.Option(help="Timed windows per architecture.", min=10)] = 200,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Time a study's front again, alone and longer: the throughput to quote. Run nothing beside it."""
    from rich.console import Console

    from results.store import check_study_name
    from search.choices import check_device

    names = split_list(networks)
    if study is None and not names:
        raise typer.BadParameter(
            "name a study, or networks with --models timm:NAME,... (make: STUDY=, BASELINES=)", param_hint="STUDY"
        )
    if study is not None and (image_size or batch_size or out):
        raise typer.BadParameter("a study has its own --image-size, --batch-size and folder; leave them out")
    if train and (study is None or not names):
        raise typer.BadParameter("only --baselines beside a study are trained, with its recipe", param_hint="--train")
    if seeds and not train:
        raise typer.BadParameter("nothing is trained without --train", param_hint="--seeds")
    if data is not None and not train:
        raise typer.BadParameter("images are read with --train only (make: TRAIN=1)", param_hint="--data")
    check_device(device)
    console = Console(highlight=False)
    if study is None:
        _bench_alone(names, image_size, batch_size or 32, out, device, pairs, runs_dir, console)
    else:
        study_dir = runs_dir / check_study_name(study)
        _bench_study(study_dir, names, (seeds or 1) if train else 0, device, pairs, data, console)


def _bench_alone(
    names: tuple[str, ...],
    image_size: int | None,
    batch_size: int,
    out: Path | None,
    device: str,
    pairs: int,
    runs_dir: Path,
    console: Console,
) -> None:
    import tempfile

    from crossvit_core.baselines import Wanted
    from crossvit_core.device_info import pick_device
    from search.baselines import Setting, check_names
    from search.plan import MeasurePlan

    check_names(names, runs_dir)
    size = None if image_size is None else (image_size, image_size)
    setting = Setting(
        wanted=Wanted(size),
        protocol=MeasurePlan(batch_size=batch_size, pairs=pairs),
        device=pick_device(device),
        runs_dir=runs_dir,
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        _bench_networks(names, setting, None, out, console)
        return
    with tempfile.TemporaryDirectory() as folder:
        _bench_networks(names, setting, None, Path(folder), console)


def _bench_study(
    study_dir: Path,
    names: tuple[str, ...],
    runs: int,
    device: str,
    pairs: int,
    moved_to: str | None,
    console: Console,
) -> None:
    from crossvit_core.device_info import pick_device
    from results.store import StudyStore
    from search.baseline_training import study_training
    from search.baselines import check_names, study_setting
    from search.environment import in_runs_dir

    device = pick_device(device)
    check_names(names, study_dir.parent)
    training = study_training(study_dir, runs, moved_to) if runs else None
    with StudyStore.open(study_dir):
        pass  # what cannot be kept in the end is refused now
    _time_front(study_dir, device, pairs, console)
    if names:
        with StudyStore.open(study_dir):
            path = _bench_networks(names, study_setting(study_dir, device, pairs), training, study_dir, console)
        command = in_runs_dir(f"make report STUDY={study_dir.name}", study_dir.parent)
        console.print(f"saved: {path}; '{command}' draws them", markup=False, soft_wrap=True)


def _time_front(study_dir: Path, device: str, pairs: int, console: Console) -> None:
    from rich.table import Table

    from results.units import human_count, percent, with_spread
    from search.bench import save_timings, time_front

    table = Table("trial", "key", "accuracy", "FLOPs", "images/s", "ratio", "flags", box=None, header_style="bold")
    with console.status("timing the front") as status:
        timings = list(time_front(study_dir, device, pairs, status.update))
    for timing in timings:
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
        f"{timings[0].throughput.precision}; ratio: to the fixed reference network, timed in turn; "
        "± is half the interquartile range",
        style="dim",
    )
    console.print(f"saved: {save_timings(study_dir, timings, device)}", markup=False, soft_wrap=True)


def _bench_networks(
    names: tuple[str, ...], setting: Setting, training: Training | None, folder: Path, console: Console
) -> Path:
    """Keep in ``folder`` what is found, as it is found; a table of all at the end. BaselineError if none worked."""
    from crossvit_core.baselines import BaselineError
    from results.baselines import FILE_NAME, load_baselines, save_baseline
    from search.baselines import bench_networks

    problems, worked = [], set()
    with console.status("measuring") as status:
        for found in bench_networks(names, setting, training, lambda epoch: status.update(_where(epoch, training))):
            status.update("measuring")
            if found.problem:
                problems.append(found.problem)
                console.print(found.problem, markup=False, soft_wrap=True)
                continue
            worked.add(found.name)
            save_baseline(folder, found.name, found.columns)
            console.print(_line(found.name, found.columns), markup=False, soft_wrap=True)
    if not worked:
        raise BaselineError(f"none of the networks could be measured; the last one said: {problems[-1]}")
    rows = load_baselines(folder)
    _show(rows[rows["name"].isin(worked)], console)
    return folder / FILE_NAME


def _where(epoch: BaselineEpoch, training: Training | None) -> str:
    """What a terminal shows while a network trains; '' for none."""
    from rich.markup import escape

    from results.units import percent

    if training is None:
        return ""
    done = f"run {epoch.run} of {training.runs}, epoch {epoch.result.epoch} of {training.recipe.epochs}"
    return f"{escape(epoch.name)}: {done}, {percent(epoch.result.val_accuracy)}"


def _line(name: str, columns: Mapping[str, Any]) -> str:
    from results.metrics import ACCURACY
    from results.units import percent, plural

    if ACCURACY in columns:
        return f"{name}: {percent(columns[ACCURACY])} after {plural(columns['seeds'], 'run')}"
    return f"{name}: measured{' (' + columns['note'] + ')' if columns['note'] else ''}"


def _show(rows: pd.DataFrame, console: Console) -> None:
    """A table that fits 80 columns: names are folded before anything else."""
    from rich.markup import escape
    from rich.table import Table

    from results.metrics import ACCURACY
    from results.repeats import SPREAD
    from results.units import human_count, percent, quantity, with_spread

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("network", overflow="fold")
    for title in ("accuracy", "FLOPs", "params", "images/s", "ratio", "latency"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows.to_dict("records"):
        spread = f" ±{100 * row[SPREAD]:.1f}" if row["seeds"] > 1 else ""
        table.add_row(
            escape(f"{row['name']} ({row['image_size']})"),
            percent(row[ACCURACY]) + spread,
            human_count(row["macs"]),
            human_count(row["params"]),
            with_spread(row["throughput_ips"], row["throughput_iqr"]),
            f"{row['throughput_ratio']:.3g}",
            quantity(row["latency_ms"], "ms"),
        )
    console.print(table)
    console.print(
        "FLOPs are multiply-adds; random weights, unless trained; ± of an accuracy: standard deviation of runs"
    )
