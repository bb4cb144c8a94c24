"""What an exported file says of itself, and what can be wrong with an export. Imports no torch."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from crossvit_core.config import ArchConfig

FORMAT = "crossvit-artefact-1"
KEY = "crossvit"  # the entry of a file's metadata that holds the description, as JSON
INPUT, OUTPUT = "images", "logits"

_DISTRIBUTIONS = ("torch", "timm", "onnx", "onnxruntime", "onnxscript", "safetensors", "numpy")


class ExportError(ValueError):
    """What was asked cannot be exported; the message is for the user."""


class MismatchError(Exception):
    """The exported file does not compute what the network computes; the message is for the user."""


def describe(
    arch: ArchConfig,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    class_names: Iterable[str] = (),
    source: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The description that travels in an artefact, plain JSON values.

    ``mean`` and ``std`` are per channel, for pixels in [0, 1]; ``source`` says where the weights come from. A writer
    adds what only it knows, as ``opset``.
    """
    return {
        "format": FORMAT,
        "architecture": arch.to_dict(),
        "arch_key": arch.key(),
        "input": {"name": INPUT, "dtype": "float32", "shape": ["batch", arch.in_channels, *arch.size]},
        "output": {"name": OUTPUT, "dtype": "float32", "shape": ["batch", arch.num_classes]},
        "preprocessing": _preprocessing(arch, mean, std),
        "class_names": list(class_names),
        "source": dict(source or {}),
        "versions": versions(),
    }


def _preprocessing(arch: ArchConfig, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """The steps of ``crossvit_core.data_decode`` and of normalisation, in their order."""
    return {
        "colour": "gray" if arch.in_channels == 1 else "RGB",
        "resize": "turned as EXIF says, transparent parts white; shorter side, bicubic (Pillow's ImageOps.fit); an "
        "image of the size already is not resized",
        "interpolation": "bicubic",
        "crop": "center",
        "crop_pct": 1.0,
        "input_size": [arch.in_channels, *arch.size],
        "layout": "NCHW",
        "value_range": [0.0, 1.0],
        "scale": "pixels of 0 to 255 divided by 255, less mean, divided by std, per channel",
        "mean": list(mean),
        "std": list(std),
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that write and read artefacts, where installed."""
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
