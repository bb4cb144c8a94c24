"""Weights on disk: one safetensors file that carries its architecture. Nothing here unpickles.

The file's metadata holds three strings: ``format`` (which version of this layout), ``architecture`` and ``metadata``,
both JSON.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from crossvit_core.config import ArchConfig, ArchError
from crossvit_core.model import CrossViT, build_model

FORMAT = "crossvit-weights-1"


class WeightsError(ValueError):
    """A file that holds no weights of ours, or those of another architecture."""


def save_weights(path: str | Path, model: CrossViT, *, metadata: Mapping[str, Any] | None = None) -> None:
    """Write the weights and architecture of ``model``; a reader sees the old file or the whole new one.

    ``metadata`` is anything that JSON can hold. The folder must exist.
    """
    header = {
        "format": FORMAT,
        "architecture": json.dumps(model.arch.to_dict(), sort_keys=True),
        "metadata": json.dumps(dict(metadata or {}), sort_keys=True),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    _write_atomically(Path(path), save(tensors, header))


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
        model.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise WeightsError(f"{path}: its tensors do not fit the architecture it names: {error}") from error
    return model.eval()


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What ``save_weights`` was given as metadata. Raises as ``load_model``."""
    header, _ = _read(Path(path), with_tensors=False)
    return json.loads(header.get("metadata", "{}"))


def from_official(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors of the authors' released files under our (timm's) names.

    Only position embeddings and class tokens differ: ``pos_embed.0`` is our ``pos_embed_0``. Training checkpoints,
    which hold the tensors under ``model``, are unwrapped. Read the file itself by
    ``torch.load(..., weights_only=True)``.
    """
    tensors = state_dict.get("model", state_dict)
    return {_our_name(name): tensor for name, tensor in tensors.items()}


def _our_name(name: str) -> str:
    return name.replace(".", "_") if "pos_embed" in name or "cls_token" in name else name


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


def _write_atomically(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
