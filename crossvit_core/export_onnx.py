"""ONNX: written by torch's exporter, read and timed by ONNX Runtime on the CPU. Both are imported when used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossvit_core.artefact import INPUT, KEY, OUTPUT
from crossvit_core.model import CrossViT

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def write_onnx(model: CrossViT, path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """One file, weights within, any batch size; returns the description as written: ``about`` and the opset."""
    with torch.no_grad():
        program = torch.onnx.export(
            model,
            (example(model),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    assert program is not None
    graph = program.model.graph
    graph.metadata_props.clear()
    for node in graph.all_nodes():
        node.metadata_props.clear()  # source lines and paths of the machine that exported
    written = {**about, "opset": program.model.opset_imports[""]}
    program.model.metadata_props[KEY] = json.dumps(written, sort_keys=True)
    program.save(path, external_data=False)
    return written


def open_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    """A function (B, C, H, W) -> logits that runs the file in ONNX Runtime, in the calling thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])

    return run


def example(model: CrossViT) -> Tensor:
    """Two blank images: exporters take a size of one for a constant."""
    return torch.zeros(2, model.arch.in_channels, *model.arch.size)
