"""``crossvit export``: a trial as a verified file. Heavy imports happen when it runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.commands.options import RUNS_DIR, MovedTo, Origin, RunsDir, StudyName

if TYPE_CHECKING:
    from rich.console import Console

    from search.exporting import TrialExport


def export(
    study: StudyName,
    trial: Annotated[str, typer.Argument(help="Number of the trial.")],
    format_: Annotated[str, typer.Option("--format", help="onnx, torch_export, safetensors or timm.")] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option(help="File (its suffix may be left out) or folder to write to; the study's own folder."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there already.")] = False,
    weights: Origin = "auto",
    pairs: Annotated[int, typer.Option(help="Timed windows.", min=10)] = 60,
    data: MovedTo = None,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Export a trial: written, read back, compared with the network on validation images, timed in its runtime."""
    from rich.console import Console

    from results.store import check_study_name

    folder, number = runs_dir / check_study_name(study), _parse_trial(trial)
    from search.exporting import export_trial  # seconds of imports, for a trial that can be one

    outcome = export_trial(folder, number, format_, out, force=force, origin=weights, pairs=pairs, moved_to=data)
    show_export(outcome, Console(highlight=False))


def show_export(outcome: TrialExport, console: Console) -> None:
    """What was exported, how it was checked, how fast it is, and how to load it."""
    from crossvit_core.export_snippets import STANDALONE, snippet

    path = outcome.exported.path
    lines = [
        outcome.trained.sentence(),
        *_agreement_lines(outcome),
        *_speed_lines(outcome),
        f"saved: {path} ({path.stat().st_size / 1e6:.2f} MB), what was measured in {path.name}.json",
        "to load it anywhere:" if outcome.format_name in STANDALONE else "to load it where this package is installed:",
    ]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    print(snippet(outcome.format_name, path), end="")


def _parse_trial(text: str) -> int:
    from crossvit_core.artefact import ExportError

    if not text.isdecimal():
        raise ExportError(f"trial {text!r} is no number of a trial; give one, as 14 (make: TRIAL=14)")
    return int(text)


def _agreement_lines(outcome: TrialExport) -> list[str]:
    from results.units import percent

    opset = outcome.exported.about.get("opset")
    kind = f"{outcome.format_name}{f' (opset {opset})' if opset else ''}"
    head = f"{kind} agrees with the network on validation images (allowed difference {outcome.exported.tolerance:.0e}):"
    return [head] + [
        f"  batches of {each.batch_size:>3}: {each.images} images, largest difference {each.max_difference:.1e}, "
        f"same decision {percent(each.same_decision)}"
        for each in outcome.exported.agreements
    ]


def _speed_lines(outcome: TrialExport) -> list[str]:
    from crossvit_core.export import FORMATS
    from results.units import with_spread

    runtime = FORMATS[outcome.format_name].runtime
    rows = ((f"file in {runtime}", outcome.speed), ("network in torch", outcome.network_speed))
    ratio = outcome.speed.ratio / outcome.network_speed.ratio
    spread = math.hypot(*(speed.ratio_iqr / 2 / speed.ratio for _, speed in rows))
    disturbed = {"contended", "drift"} & {*outcome.speed.flags, *outcome.network_speed.flags}
    caution = "; the machine was busy meanwhile: a hint, to be timed again alone" if disturbed else ""
    return [
        *(
            f"{name}: {with_spread(speed.ips, speed.iqr)} images/s, ratio {speed.ratio:.3f} "
            f"±{speed.ratio_iqr / 2 / speed.ratio:.1%}, flags: {', '.join(speed.flags) or 'none'}"
            for name, speed in rows
        ),
        f"the file runs at {ratio:.2f} ±{spread:.1%} x the network's speed (one CPU thread, batches of "
        f"{outcome.speed.batch_size}, ratios to the fixed reference network timed in turn){caution}",
    ]
