"""Weights on disk: one safetensors file that carries its architecture. Nothing here unpickles.

The file's metadata holds three strings: ``format`` (which version of this layout), ``architecture`` and ``metadata``,
both JSON. Files that others wrote are read by ``load_checkpoint``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from crossvit_core.atomic_file import write_atomically
from crossvit_core.config import ArchConfig, ArchError
from crossvit_core.model import CrossViT, build_model
from crossvit_core.state_dicts import (
    Difference,
    WeightsError,
    described,
    differences,
    from_official,
    interpolated,
    read_state_dict,
)

__all__ = [
    "FORMAT",
    "WeightsError",
    "from_official",
    "load_checkpoint",
    "load_model",
    "read_architecture",
    "read_metadata",
    "save_weights",
]

FORMAT = "crossvit-weights-1"


def save_weights(path: str | Path, model: CrossViT, *, metadata: Mapping[str, Any] | None = None) -> None:
    """Write the weights and architecture of ``model``; a reader sees the old file or the whole new one.

    ``metadata`` is anything that JSON can hold. The folder must exist. Raises WeightsError for a network that was
    pruned, or whose classifier was taken off, since no architecture describes it.
    """
    if model.is_pruned:
        raise WeightsError("a network pruned to intermediate features cannot be saved; save the whole one before")
    if not model.num_classes:
        raise WeightsError("a network without classifier (num_classes 0) cannot be saved; reset_classifier(n) first")
    header = {
        "format": FORMAT,
        "architecture": json.dumps(model.arch.to_dict(), sort_keys=True),
        "metadata": json.dumps(dict(metadata or {}), sort_keys=True),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(Path(path), save(tensors, header))


def load_model(path: str | Path, arch: ArchConfig | None = None) -> CrossViT:
    """The network of a file, on the CPU, in evaluation mode, in the precision it was saved in.

    Raises WeightsError if the file is not ours, is damaged, or holds another architecture than ``arch`` if that is
    given; FileNotFoundError if there is none.
    """
    header, tensors = _read(Path(path), with_tensors=True)
    stored = _architecture(Path(path), header)
    if arch is not None and arch.key() != stored.key():
        raise WeightsError(f"{path} holds architecture {stored.key()}, not {arch.key()}: {stored.to_dict()}")
    with torch.device("meta"):
        model = build_model(stored)
    try:
        model.load_state_dict(_without_unread(tensors, model.state_dict()), assign=True)
    except RuntimeError as error:
        raise WeightsError(f"{path}: its tensors do not fit the architecture it names: {error}") from error
    return model.eval()


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What ``save_weights`` was given as metadata. Raises as ``load_model``."""
    header, _ = _read(Path(path), with_tensors=False)
    return json.loads(header.get("metadata", "{}"))


def read_architecture(path: str | Path) -> ArchConfig:
    """The architecture of a file, without its weights. Raises as ``load_model``."""
    header, _ = _read(Path(path), with_tensors=False)
    return _architecture(Path(path), header)


def load_checkpoint(
    model: CrossViT, path: str | Path, *, resize: bool = False, reset_head: bool = False, ema: bool = False
) -> None:
    """Load weights that anybody saved into ``model``, in place and in its precision: all of them or none.

    The file is safetensors or ``torch.save``'s (never unpickled), in timm's naming or the authors', bare or within a
    training checkpoint; ``ema`` takes the averaged weights of one that has them. ``resize`` interpolates the position
    embeddings of another image size. ``reset_head`` leaves out the file's classifier and gives ``model`` a new one.
    Raises FileNotFoundError, and WeightsError naming the first tensors that do not fit, with both shapes.
    """
    tensors, source = read_state_dict(path, ema=ema), _architecture_if_ours(Path(path))
    expected = model.state_dict()
    if source is not None:
        tensors = _without_unread(tensors, expected)
    found = differences(tensors, expected)
    if not all(item.of_classifier or item.of_image_size for item in found):
        raise WeightsError(f"{path} holds another architecture: {described(found, tensors)}")
    resized, new_head = _sizes_differ(found, source, model.arch), any(item.of_classifier for item in found)
    _refuse_unasked(path, found, tensors, sizes=resized and not resize, heads=new_head and not reset_head)
    if resized:
        tensors = interpolated(tensors, model.arch, source)
    if reset_head:
        model.reset_classifier(model.num_classes)
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
        tensors |= {name: tensor for name, tensor in model.state_dict().items() if name.startswith("head.")}
    model.load_state_dict(tensors)


def _without_unread(tensors: Mapping[str, Tensor], built: Collection[str]) -> dict[str, Tensor]:
    """Earlier files of this format hold convolutions behind which nothing reads: now they are not built."""
    return {name: tensor for name, tensor in tensors.items() if ".conv_path." not in name or name in built}


def _sizes_differ(found: list[Difference], source: ArchConfig | None, arch: ArchConfig) -> bool:
    """Grids may have equally many patches and yet differ; only a file that names its architecture tells."""
    if any(item.of_image_size for item in found):
        return True
    return source is not None and [b.grid for b in source.branches] != [b.grid for b in arch.branches]


def _refuse_unasked(
    path: str | Path, found: list[Difference], tensors: Mapping[str, Tensor], *, sizes: bool, heads: bool
) -> None:
    """What would load, but not as it is, is the caller's to decide; ``sizes``, ``heads``: is there such a thing?"""
    problems = ["another image size (use resize=True to interpolate its positions)"] if sizes else []
    problems += ["another classifier (use reset_head=True to start with a new one)"] if heads else []
    if problems:
        shown = [item for item in found if (item.of_image_size and sizes) or (item.of_classifier and heads)]
        raise WeightsError(f"{path} has {' and '.join(problems)}: {described(shown, tensors)}")


def _architecture_if_ours(path: Path) -> ArchConfig | None:
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
    return _architecture(path, header) if header.get("format") == FORMAT else None


def _architecture(path: Path, header: Mapping[str, str]) -> ArchConfig:
    try:
        return ArchConfig.from_dict(json.loads(header["architecture"])).check()
    except (KeyError, json.JSONDecodeError, ArchError) as error:
        raise WeightsError(f"{path} names no architecture that can be built: {error}") from error


def _read(path: Path, *, with_tensors: bool) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no weights file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise WeightsError(f"{path} has format {header.get('format')!r}, not {FORMAT!r}; use save_weights")
            names = list(file.keys()) if with_tensors else []
            # Cloned: a mapped file that somebody cuts short would end the process, and its tensors are not aligned.
            return header, {name: file.get_tensor(name).clone() for name in names}
    except SafetensorError as error:
        raise WeightsError(f"{path} is no safetensors file, or a damaged one: {error}") from error
