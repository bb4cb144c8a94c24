"""Weights that come with the package: presets trained on CIFAR-10. Imports no torch.

``crossvit_core.weights.load_model(pretrained_file(name))`` gives the network; timm's ``create_model`` takes them too
(``crossvit_core.timm_entry``). What they reach, and how they were trained: ``results/reference/cifar10_cpu_all``.
"""

from __future__ import annotations

from pathlib import Path

from crossvit_core.config import ArchError, suggest

_FOLDER = Path(__file__).parent / "trained"


def pretrained_names() -> list[str]:
    """The presets that have weights here."""
    return sorted(path.stem for path in _FOLDER.glob("*.safetensors"))


def pretrained_file(name: str) -> Path:
    """The weights of a preset. Raises ArchError naming those that have some."""
    names = pretrained_names()
    if name not in names:
        raise ArchError(f"no weights come with {name!r}; {suggest(name, names)}")
    return _FOLDER / f"{name}.safetensors"
