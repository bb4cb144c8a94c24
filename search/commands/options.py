"""What several commands share: options, and the reading of their texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from results.store import DEFAULT_RUNS_DIR

RUNS_DIR = DEFAULT_RUNS_DIR

RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Folder that holds the studies.")]

# Of what is asked of a study that is there.
StudyName = Annotated[str, typer.Argument(help="Name of the study.")]
Origin = Annotated[
    str,
    typer.Option(help="auto: the best retrained seed if there is one; search: the trial's own; retrain."),
]

MovedTo = Annotated[
    str | None, typer.Option("--data", help="Where the study's images are now, if they have moved; must be the same.")
]

# Of what is begun or gone on with.
NewStudy = Annotated[str | None, typer.Option(help="Name of the study; the same name goes on with it.")]
Data = Annotated[
    str | None, typer.Option(help="digits, an image folder, a parquet file or folder, torch/NAME, hfds/NAME.")
]
Settings = Annotated[list[str] | None, typer.Option("--set", help="A training setting, as lr=0.001. May be repeated.")]
KeepWeights = Annotated[bool, typer.Option(help="Keep every trial's weights.")]

# Of where it runs.
Workers = Annotated[int | None, typer.Option(help="Trials at a time; the cores or GPUs there are.")]
ExecutorName = Annotated[str, typer.Option(help="ray, or local for this machine without Ray.")]
GpusPerTrial = Annotated[float | None, typer.Option(help="Share of a GPU that a trial takes.")]
RayAddress = Annotated[str | None, typer.Option(help="Ray cluster to join.", envvar="RAY_ADDRESS")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda:N.")]


def split_list(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def parse_settings(pairs: Sequence[str] | None, epochs: int | None) -> dict[str, Any]:
    """Training settings from texts as lr=0.001; ``epochs``, if given, is one more."""
    import yaml

    settings: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"{pair!r} is no setting; write name=value, as lr=0.001", param_hint="--set")
        if name.strip() in settings:
            raise typer.BadParameter(f"{name.strip()!r} is set twice; once is enough", param_hint="--set")
        try:
            settings[name.strip()] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise typer.BadParameter(
                f"{pair!r} cannot be read; write name=value, as lr=0.001", param_hint="--set"
            ) from None
    if epochs is not None and "epochs" in settings:
        raise typer.BadParameter("'epochs' is set here and by --epochs; leave one out", param_hint="--set")
    return settings if epochs is None else {**settings, "epochs": epochs}
