"""Weights in other people's files: read without unpickling, brought to our names, compared with a network.

A state dict is a mapping of tensors by name. timm's names are ours; the authors' differ in class tokens and positions.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from crossvit_core.config import ArchConfig, Size
from crossvit_core.model import build_model
from crossvit_core.positions import grid_of_positions, resize_positions
from crossvit_core.presets import PRESETS

_WRAPPERS = ("state_dict", "model")
_EMA_WRAPPERS = ("state_dict_ema", "model_ema")
_PREFIXES = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile
_SHOWN = 3


class WeightsError(ValueError):
    """A file that holds no weights of ours, or those of another architecture."""


class Difference(NamedTuple):
    """A tensor that a file and a network do not share; a shape is None where there is none of that name."""

    name: str
    in_file: tuple[int, ...] | None
    expected: tuple[int, ...] | None

    @property
    def of_classifier(self) -> bool:
        return self.name.startswith("head.")

    @property
    def of_image_size(self) -> bool:
        """Position embeddings of the right width, for another number of patches."""
        shapes = (self.in_file, self.expected)
        if not self.name.startswith("pos_embed_") or any(shape is None or len(shape) != 3 for shape in shapes):
            return False
        return self.in_file[::2] == self.expected[::2]  # type: ignore[index]

    def __str__(self) -> str:
        return f"{self.name} is {self.in_file or 'absent'} in the file, {self.expected or 'absent'} in the network"


def read_state_dict(path: str | Path, *, ema: bool = False) -> dict[str, Tensor]:
    """The tensors of a safetensors or ``torch.save`` file, on the CPU, under our names.

    Training checkpoints of timm and of the authors are unwrapped; ``ema`` takes the averaged weights of one that holds
    such. Nothing in the file is executed. Raises FileNotFoundError, and WeightsError for a file that holds more than
    tensors or is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no weights file {path}")
    return {_our_name(name): tensor for name, tensor in _without_prefixes(_unwrapped(_read(path), path, ema)).items()}


def from_official(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors of the authors' released files under our (timm's) names.

    Only position embeddings and class tokens differ: ``pos_embed.0`` is our ``pos_embed_0``. Training checkpoints,
    which hold the tensors under ``model``, are unwrapped.
    """
    tensors = state_dict.get("model", state_dict)
    return {_our_name(name): tensor for name, tensor in tensors.items()}


def differences(in_file: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[Difference]:
    """What stands in the way of loading one into the other, in the network's order, the file's surplus last."""
    ours, theirs = _shapes(expected), _shapes(in_file)
    return [
        Difference(name, theirs.get(name), ours.get(name))
        for name in [*ours, *(name for name in theirs if name not in ours)]
        if theirs.get(name) != ours.get(name)
    ]


def described(found: list[Difference], in_file: Mapping[str, Tensor]) -> str:
    """The first of the differences, how many more there are, and the preset that the file fits, if there is one."""
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    fits = fitting_presets(in_file)
    preset = f" (the file fits preset {' or '.join(fits)})" if fits else ""
    shown = "; ".join(map(str, found[:_SHOWN])) or "as many patches, in other rows and columns"
    return shown + more + preset


def fitting_presets(in_file: Mapping[str, Tensor]) -> list[str]:
    """Names of the presets that have these tensors, for any number of classes and channels."""
    stem = in_file.get("patch_embed.0.proj.0.weight", in_file.get("patch_embed.0.proj.weight"))
    if stem is None or stem.ndim != 4:
        return []
    classifier = in_file.get("head.0.weight")
    changes = {"in_channels": stem.shape[1], "num_classes": 1 if classifier is None else classifier.shape[0]}
    presets = {name: arch.replace(**changes) for name, arch in PRESETS.items() if _same_positions(arch, in_file)}
    return [name for name, arch in presets.items() if not differences(in_file, _tensors_of(arch))]


def interpolated(
    tensors: Mapping[str, Tensor], arch: ArchConfig, source: ArchConfig | None = None
) -> dict[str, Tensor]:
    """The same tensors with position embeddings on the grids of ``arch``.

    They come from the grids of ``source``; without it, from square ones or ones of the proportions of ``arch``. Raises
    WeightsError for a number of tokens that neither has.
    """
    resized = dict(tensors)
    for index, branch in enumerate(arch.branches):
        name = f"pos_embed_{index}"
        old = source.branches[index].grid if source else _grid(name, tensors[name], branch.grid)
        resized[name] = resize_positions(tensors[name], old, branch.grid)
    return resized


def _grid(name: str, pos: Tensor, like: Size) -> Size:
    grid = grid_of_positions(pos.shape[1], like)
    if grid is None:
        raise WeightsError(
            f"{name} holds {pos.shape[1] - 1} patches, which make neither a square grid nor one of the proportions of "
            f"{like}; give the network the proportions of the images it was trained on"
        )
    return grid


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # timm's training checkpoints hold their command line; the class only stores attributes.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails anywhere in either reader
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"{path} is damaged or holds more than tensors, and was not loaded ({reason}); "
            "use a file written by torch.save(model.state_dict(), path) or by safetensors"
        ) from error


def _unwrapped(content: Any, path: Path, ema: bool) -> dict[str, Tensor]:
    wrappers = _EMA_WRAPPERS if ema else _WRAPPERS
    held = [content[key] for key in wrappers if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)]
    if ema and not held:
        raise WeightsError(f"{path} holds no averaged weights ({' or '.join(wrappers)}); load it with ema=False")
    tensors = held[0] if held else content
    if not isinstance(tensors, Mapping):
        raise WeightsError(f"{path} holds a {type(tensors).__name__}, not a mapping of tensors by name")
    for name, value in tensors.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{path} holds {name!r}, a {type(value).__name__}, among its tensors")
    return dict(tensors)


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while prefix := next((p for p in _PREFIXES if tensors and all(name.startswith(p) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _our_name(name: str) -> str:
    return name.replace(".", "_") if name.startswith(("pos_embed.", "cls_token.")) else name


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _same_positions(arch: ArchConfig, in_file: Mapping[str, Tensor]) -> bool:
    """A quick first look, so that few presets are built."""
    pos = [in_file.get(f"pos_embed_{index}") for index in range(len(arch.branches))]
    expected = [(1, branch.num_tokens, branch.embed_dim) for branch in arch.branches]
    return [None if tensor is None else tuple(tensor.shape) for tensor in pos] == expected


def _tensors_of(arch: ArchConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        return build_model(arch).state_dict()
