"""Networks as files for other programs: written, read back, compared with the network, and only then kept."""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crossvit_core.artefact import ExportError, MismatchError
from crossvit_core.config import suggest
from crossvit_core.device_lock import DeviceLock
from crossvit_core.export_onnx import PACKAGES, open_onnx, write_onnx
from crossvit_core.export_torch import open_program, open_weights, open_with_timm, write_program, write_weights
from crossvit_core.measure import Throughput, measure_throughput
from crossvit_core.model import CrossViT

BATCH_SIZES = (1, 3, 32, 128)
TOLERANCE = 1e-4  # of logits; of the largest logit where that exceeds 1

_IMAGES_ONE_BY_ONE = 64

Runner = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ExportFormat:
    """How a network becomes a file and a file a function again.

    ``write`` returns the description as it stands in the file. ``packages`` must be importable; ``runtime`` names what
    runs the file.
    """

    suffix: str
    runtime: str
    write: Callable[[CrossViT, Path, dict[str, Any]], dict[str, Any]]
    open: Callable[[Path], Runner]
    packages: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise ExportError for packages that are not installed."""
        missing = [name for name in self.packages if not _is_importable(name)]
        if missing:
            raise ExportError(
                f"this format needs {', '.join(missing)}, not installed here; "
                f"install with: pip install {' '.join(self.packages)}"
            )


@dataclass(frozen=True)
class Agreement:
    """Artefact against network on the same images, fed ``batch_size`` at a time.

    ``same_decision`` is the share of images with the same best class; ``max_difference`` is between logits.
    """

    batch_size: int
    images: int
    max_difference: float
    same_decision: float


@dataclass(frozen=True)
class Exported:
    """A file that was verified: its description as written, and how well it agreed."""

    path: Path
    about: dict[str, Any]
    agreements: list[Agreement]
    tolerance: float


def find_format(name: str) -> ExportFormat:
    """The format of this name. Raises ExportError saying which there are."""
    if name not in FORMATS:
        raise ExportError(f"unknown format {name!r}; {suggest(name, FORMATS)}")
    return FORMATS[name]


def export_model(
    model: CrossViT, out: Path, form: ExportFormat, about: dict[str, Any], images: Tensor, *, force: bool = False
) -> Exported:
    """Write ``model`` (on the CPU, put into evaluation mode) to ``out``, once it is shown to compute the same.

    ``images`` (N, C, H, W), normalised, should be real ones. The file is written under another name, read back by its
    runtime and compared at ``BATCH_SIZES``; then it takes its name, with the format's suffix if that has none. Raises
    MismatchError if it differs, which leaves nothing behind; ExportError for packages that are missing and for a file
    that is there already (unless ``force``, which replaces it at the very end) or cannot be written.
    """
    form.check()
    out = _complete(out, form)
    _check_out(out, form, force)
    model.eval()
    with _folder_beside(out) as folder:
        written = folder / f"artefact{form.suffix}"
        about = form.write(model, written, about)
        agreements, tolerance = compare(model, form.open(written), images)
        with open(written, "rb") as file:
            os.fsync(file.fileno())
        os.replace(written, out)
    return Exported(out, about, agreements, tolerance)


def compare(model: nn.Module, run: Runner, images: Tensor) -> tuple[list[Agreement], float]:
    """Agreement at every batch size, and the tolerance that it was held to.

    Decisions may differ only where the two best logits lie closer than the tolerance allows logits to move. Raises
    MismatchError.
    """
    found = []
    tolerance = 0.0
    for batch_size in BATCH_SIZES:
        chosen = images[:_IMAGES_ONE_BY_ONE] if batch_size == 1 else images
        expected, actual = (_in_batches(each, chosen, batch_size) for each in (model, run))
        tolerance = max(tolerance, TOLERANCE * max(1.0, float(expected.abs().max())))
        found.append(_agreement(expected, actual, batch_size, tolerance))
    return found, tolerance


def time_runner(run: Runner, about: dict[str, Any], *, batch_size: int, pairs: int) -> Throughput:
    """Images per second on one CPU thread, in turn with the reference network (``crossvit_core.measure``)."""
    channels, height, width = about["preprocessing"]["input_size"]
    return measure_throughput(
        _Watched(run),
        size=(height, width),
        in_channels=channels,
        batch_size=batch_size,
        pairs=pairs,
        lock=DeviceLock("cpu"),
    )


class _Watched(nn.Module):
    """A runner as a module: exported programs refuse to change their mode."""

    def __init__(self, run: Runner) -> None:
        super().__init__()
        self._run = (run,)  # in a tuple: a module would be registered, and have its mode changed

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits."""
        return self._run[0](images)


@torch.inference_mode()
def _in_batches(run: Runner, images: Tensor, batch_size: int) -> Tensor:
    return torch.cat([run(batch) for batch in images.split(batch_size)])


def _agreement(expected: Tensor, actual: Tensor, batch_size: int, tolerance: float) -> Agreement:
    if actual.shape != expected.shape:
        raise MismatchError(f"the artefact answers {tuple(actual.shape)}, the network {tuple(expected.shape)}")
    difference = float((actual - expected).abs().max())
    same = actual.argmax(1) == expected.argmax(1)
    best = expected.topk(min(2, expected.shape[1]), dim=1).values
    decided = best[:, 0] - best[:, -1] > 2 * tolerance
    if not difference <= tolerance or bool((decided & ~same).any()):
        raise MismatchError(
            f"the artefact differs from the network by {difference:.2g} (allowed: {tolerance:.2g}) and decides "
            f"{int((~same).sum())} of {len(same)} images otherwise, in batches of {batch_size}; nothing was kept"
        )
    return Agreement(batch_size, len(same), difference, float(same.double().mean()))


def _complete(out: Path, form: ExportFormat) -> Path:
    return out if out.suffix or out.is_dir() else out.with_name(f"{out.name}{form.suffix}")


def _check_out(out: Path, form: ExportFormat, force: bool) -> None:
    if out.is_dir():
        raise ExportError(f"{out} is a folder; name a file in it")
    if not out.name.endswith(form.suffix):
        raise ExportError(f"{out} should end in {form.suffix}, as files of this format do: {out.stem}{form.suffix}")
    if out.exists() and not force:
        raise ExportError(f"{out} exists already; name another file, or replace it with --force (make: FORCE=1)")


@contextmanager
def _folder_beside(out: Path) -> Iterator[Path]:
    """A folder on the same disk that is gone afterwards, whatever happens."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise ExportError(f"cannot write to {out.parent}: {error.strerror or error}") from error
    try:
        yield folder
    except OSError as error:
        raise ExportError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_importable(package: str) -> bool:
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True


FORMATS: dict[str, ExportFormat] = {
    "onnx": ExportFormat(".onnx", "onnxruntime", write_onnx, open_onnx, PACKAGES),
    "torch_export": ExportFormat(".pt2", "torch", write_program, open_program),
    "safetensors": ExportFormat(".safetensors", "torch", write_weights, open_weights),
    "timm": ExportFormat(".safetensors", "timm", write_weights, open_with_timm, ("timm",)),
}
