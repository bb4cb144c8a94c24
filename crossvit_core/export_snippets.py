"""How to load an artefact, in Python that runs as it is printed: ``PATH`` stands for the file."""

from __future__ import annotations

from pathlib import Path

_ONNX = """\
import json, numpy as np, onnxruntime
path = PATH
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["crossvit"])
steps = about["preprocessing"]
pixels = np.zeros((1, *steps["input_size"]), np.uint8)  # your images, resized and cropped as steps["resize"] says
mean, std = (np.array(steps[name], np.float32).reshape(-1, 1, 1) for name in ("mean", "std"))
images = (pixels / np.float32(255) - mean) / std
logits = session.run(["logits"], {"images": images})[0]
print(logits.shape, logits.argmax(1))
"""

_PROGRAM = """\
import json, torch
path = PATH
extra = {"crossvit.json": ""}
model = torch.export.load(path, extra_files=extra).module()
about = json.loads(extra["crossvit.json"])
"""

_WEIGHTS = """\
import torch
from crossvit_core.weights import load_model, read_metadata
path = PATH
model, about = load_model(path), read_metadata(path)
"""

_TIMM = """\
import timm, torch
import crossvit_core.timm_entry  # registers crossvit_arch
from crossvit_core.weights import read_metadata
path = PATH
model = timm.create_model("crossvit_arch", arch=path, checkpoint_path=path).eval()
about = read_metadata(path)
"""

_RUN_IN_TORCH = """\
steps = about["preprocessing"]
pixels = torch.zeros(1, *steps["input_size"], dtype=torch.uint8)  # your images, resized and cropped as steps["resize"]
mean, std = (torch.tensor(steps[name]).view(-1, 1, 1) for name in ("mean", "std"))
with torch.no_grad():
    logits = model((pixels / 255 - mean) / std)
print(tuple(logits.shape), logits.argmax(1).tolist())
"""

STANDALONE = ("onnx", "torch_export")  # formats that need nothing of this package to be loaded

SNIPPETS: dict[str, str] = {
    "onnx": _ONNX,
    "torch_export": _PROGRAM + _RUN_IN_TORCH,
    "safetensors": _WEIGHTS + _RUN_IN_TORCH,
    "timm": _TIMM + _RUN_IN_TORCH,
}


def snippet(format_name: str, path: Path) -> str:
    """The code that loads and runs the artefact at ``path``, from any folder."""
    return SNIPPETS[format_name].replace("PATH", repr(str(path.resolve())))
