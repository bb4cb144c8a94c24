"""``crossvit quantize``: what accuracy a trial keeps at fewer bits. Heavy imports happen when it runs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from search.commands.options import RUNS_DIR, Device, MovedTo, Origin, RunsDir, StudyName, split_list

if TYPE_CHECKING:
    from results.quantization import QuantizedPoint
    from search.quantizing import Request

_METHODS_HELP = "Comma-separated: base, smoothquant, sqb, hand (split softmax, GELU by rule), optm, sqb_optm."


def quantize(
    study: StudyName,
    trial: Annotated[int, typer.Argument(help="Number of the trial.", min=0)],
    bits: Annotated[str, typer.Option(help="Single precision: bits of weights and activations, 2 to 8.")] = "8,6,5,4,3",
    target: Annotated[
        str, typer.Option(help="Mixed precision: mean bits of weights and activations; '' for none.")
    ] = "6,5,4.5,4",
    calib: Annotated[int, typer.Option(help="Training images to calibrate on, up to 256.")] = 128,
    methods: Annotated[str, typer.Option(help=_METHODS_HELP)] = "base,sqb,optm,sqb_optm",
    alpha: Annotated[float, typer.Option(help="SQ-b: the weights' share of a channel's range, 0 to 1.")] = 0.5,
    rho: Annotated[float, typer.Option(help="Greedy MP: how much a tensor's size counts.")] = 1.0,
    weights: Origin = "auto",
    device: Device = "auto",
    data: MovedTo = None,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Quantise a trial after training, simulated: accuracy at 8 to 3 bits, and at mixed bits. Goes on where it was."""
    from rich.console import Console

    from results.quantization import comparable, read_points, to_frame, trial_folder
    from results.quantization_page import rich_quantized, write_quantized
    from results.store import check_study_name
    from search.choices import check_device
    from search.quantizing import Request, quantize_trial
    from search.trained import find_trained

    check_device(device)
    folder = runs_dir / check_study_name(study)
    request = Request(
        bits=tuple(_whole(text) for text in split_list(bits)),
        targets=tuple(_number(text) for text in split_list(target)),
        calibration_images=calib,
        alpha=alpha,
        rho=rho,
        methods=split_list(methods),
    )
    console = Console(highlight=False)
    console.print(find_trained(folder, trial, weights).sentence(), markup=False, soft_wrap=True)
    points = []
    for point in quantize_trial(folder, trial, request, origin=weights, device=device, moved_to=data):
        points.append(point)
        console.print(_line(point), markup=False, soft_wrap=True)
    settings = {"calibration_images": calib, "alpha": alpha, "rho": rho}
    everything, title = to_frame(read_points(trial_folder(folder, trial))), f"trial {trial} of {study}"
    shown = comparable(everything, points[0].weights, settings)
    page = write_quantized(trial_folder(folder, trial), shown, everything, title)
    console.print(rich_quantized(shown, f"{title}, quantised"))
    for line in (*_warnings(points, request), f"saved: {page}"):
        console.print(line, markup=False, soft_wrap=True)


def _line(point: QuantizedPoint) -> str:
    from results.quantization import FULL
    from results.units import divergence_text, percent

    what = "full precision" if point.precision == FULL else f"{point.method}, {point.precision}, {point.bits:g} bits"
    return f"{what}: {percent(point.val_accuracy)}, KL {divergence_text(point.kl)}"


def _warnings(points: list[QuantizedPoint], request: Request) -> list[str]:
    from results.quantization import MIXED

    reached = {point.bits for point in points if point.precision == MIXED}
    missed = [f"{target:g}" for target in request.targets if target not in reached]
    lines = ["simulated: this shows the accuracy that is left, never a speed"]
    if missed:
        lines.insert(0, f"a mean of {', '.join(missed)} bits cannot be reached: patch embeddings and heads stay at 8")
    return lines


def _whole(text: str) -> int:
    value = _number(text)
    if value != int(value):
        raise typer.BadParameter(f"{text!r} is no whole number of bits; use {round(value)}", param_hint="--bits")
    return int(value)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise typer.BadParameter(f"{text!r} is no number of bits; write numbers with commas, as 8,6,4")
    return value
