"""The formats that torch reads: torch.export's program, our weights file, and the same file read by timm."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossvit_core.artefact import KEY
from crossvit_core.export_onnx import example
from crossvit_core.model import CrossViT
from crossvit_core.weights import load_model, save_weights


def write_program(model: CrossViT, path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """A torch.export program of any batch size; the description is its extra file ``crossvit.json``."""
    with torch.no_grad():
        dynamic = ({0: torch.export.Dim("batch")},)
        program = torch.export.export(model, (example(model),), dynamic_shapes=dynamic)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # source lines and paths of the machine that exported
    torch.export.save(program, path, extra_files={f"{KEY}.json": json.dumps(about, sort_keys=True)})
    return about


def open_program(path: Path) -> Callable[[Tensor], Tensor]:
    """The program as a function (B, C, H, W) -> logits."""
    return torch.export.load(path).module().forward


def write_weights(model: CrossViT, path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Our weights file. Statistics and crop also stand where ``timm_entry`` looks for them."""
    steps = about["preprocessing"]
    save_weights(path, model, metadata={**about, **{name: steps[name] for name in ("mean", "std", "crop_pct")}})
    return about


def open_weights(path: Path) -> Callable[[Tensor], Tensor]:
    """The network of a weights file."""
    return load_model(path)


def open_with_timm(path: Path) -> Callable[[Tensor], Tensor]:
    """The network of a weights file as timm makes it."""
    import timm

    import crossvit_core.timm_entry  # noqa: F401  registers crossvit_arch

    return timm.create_model("crossvit_arch", arch=path, checkpoint_path=path).eval()
