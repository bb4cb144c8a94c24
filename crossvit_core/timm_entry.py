"""Our networks under a name that timm knows: ``timm.create_model("crossvit_arch", arch=...)``.

Importing this module registers the name; timm has no plug-ins that it would find by itself. timm's own scripts run by
``python -m crossvit_core.timm_entry path/to/train.py --model crossvit_arch --model-kwargs arch=... ARGUMENTS``.
"""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import build_model_with_cfg, register_model
from torch import Tensor, nn

from crossvit_core.config import ArchConfig, ArchError, suggest
from crossvit_core.input_config import input_config
from crossvit_core.model import CrossViT, build_model, check_pool
from crossvit_core.positions import with_image_size
from crossvit_core.presets import PRESETS
from crossvit_core.pretrained import pretrained_file, pretrained_names
from crossvit_core.state_dicts import described, differences, from_official, interpolated
from crossvit_core.weights import WeightsError, read_architecture, read_metadata

USAGE = "usage: python -m crossvit_core.timm_entry SCRIPT [ARGUMENTS]: runs a script of timm's that knows crossvit_arch"

ArchLike = ArchConfig | Mapping[str, Any] | str | Path


def crossvit_arch(
    pretrained: bool = False,
    *,
    arch: ArchLike | None = None,
    pretrained_cfg: Any = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | Iterable[int] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """A network for timm: of a preset's name, a mapping, a .json file, one of our .safetensors, or an ``ArchConfig``.

    ``num_classes``, ``in_chans`` and ``img_size`` change the architecture, the last by ``positions.with_image_size``;
    0 classes give the features. ``pretrained`` loads the weights of the .safetensors, or those that this package or
    timm has for a preset, with positions interpolated to ``img_size`` and, as timm does, a new classifier for other
    classes. Takes ``drop_rate``, ``drop_path_rate`` and ``features_only`` as timm's models do. Raises ArchError,
    WeightsError.
    """
    source = resolve_arch(arch)
    target = source if in_chans is None else source.replace(in_channels=in_chans)
    target = target if img_size is None else with_image_size(target, img_size)
    classes = source.num_classes if num_classes is None else num_classes
    count = len(source.encoders)
    outputs = kwargs.pop("out_indices", tuple(b * count + count - 1 for b in range(len(source.branches))))
    model = build_model_with_cfg(
        _construct,
        "crossvit_arch",
        pretrained,
        pretrained_cfg=pretrained_cfg or {**input_config(source), **_origin(arch)},
        pretrained_filter_fn=_filter_from(source),
        feature_cfg={"out_indices": outputs, "feature_cls": "getter"},
        arch=target,
        num_classes=classes,
        in_chans=target.in_channels,
        img_size=target.size,
        **kwargs,
    )
    model.pretrained_cfg = model.default_cfg = {**model.pretrained_cfg, **_feeding(source, target)}
    return model


def resolve_arch(arch: ArchLike | None) -> ArchConfig:
    """The architecture that is meant. Raises ArchError saying what is known; WeightsError for a file of others."""
    if isinstance(arch, ArchConfig):
        return arch.check()
    if isinstance(arch, Mapping):
        return ArchConfig.from_dict(arch).check()
    if not isinstance(arch, (str, Path)):
        raise ArchError(
            f"arch {arch!r} names no architecture; give a preset, a mapping, a .json or a .safetensors file"
        )
    if str(arch) in PRESETS:
        return PRESETS[str(arch)]
    return _read_architecture(Path(arch))


def _read_architecture(path: Path) -> ArchConfig:
    if path.suffix not in (".json", ".safetensors"):
        raise ArchError(
            f"arch {str(path)!r} is neither a .json or .safetensors file nor a preset; {suggest(str(path), PRESETS)}"
        )
    if not path.is_file():
        raise ArchError(f"arch {str(path)!r}: there is no such file")
    if path.suffix == ".safetensors":
        return read_architecture(path)
    try:
        return ArchConfig.from_dict(json.loads(path.read_text(encoding="utf-8"))).check()
    except ValueError as error:  # no JSON, no text, no architecture
        raise ArchError(f"arch {str(path)!r}: {error}") from error


def _construct(
    arch: ArchConfig,
    num_classes: int,
    in_chans: int,
    img_size: Iterable[int],
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    global_pool: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> CrossViT:
    """``in_chans`` and ``img_size``, which timm passes on, are those of ``arch``."""
    check_pool(global_pool)
    model = build_model(
        arch.replace(num_classes=num_classes or arch.num_classes), drop_path_rate=drop_path_rate, drop_rate=drop_rate
    )
    if not num_classes:
        model.reset_classifier(0)
    return model.to(device=device, dtype=dtype)


def _feeding(source: ArchConfig, target: ArchConfig) -> dict[str, Any]:
    """What becomes of the description of the source, so that timm's loaders make images that the network reads."""
    described = input_config(target)
    changed = ("input_size",) if target.in_channels == source.in_channels else ("input_size", "mean", "std")
    return {name: described[name] for name in changed}


def _origin(arch: ArchLike | None) -> dict[str, Any]:
    """Where weights are, for timm's loader: our file, or the hub for the models that timm publishes."""
    if not isinstance(arch, (str, Path)):
        return {}
    if str(arch) in pretrained_names():
        return _origin_of_file(pretrained_file(str(arch)))
    if str(arch) not in PRESETS:
        return _origin_of_file(Path(arch)) if Path(arch).suffix == ".safetensors" else {}
    published = timm.get_pretrained_cfg(str(arch)) if timm.is_model(str(arch)) else None
    return {"hf_hub_id": published.hf_hub_id} if published and published.hf_hub_id else {}


def _origin_of_file(path: Path) -> dict[str, Any]:
    """With the mean, deviation and crop that the network was trained on, where the file tells them.

    Our own training reads whole images; only what timm publishes was evaluated on a crop.
    """
    known = read_metadata(path)
    statistics: dict[str, Any] = {name: tuple(known[name]) for name in ("mean", "std") if name in known}
    return {"file": str(path), "crop_pct": known.get("crop_pct", 1.0), **statistics}


def _filter_from(source: ArchConfig) -> Callable[[dict[str, Tensor], CrossViT], dict[str, Tensor]]:
    """What timm calls on weights of ``source`` before it adapts first convolutions and classifiers and loads them."""

    def adapted(state_dict: dict[str, Tensor], model: CrossViT) -> dict[str, Tensor]:
        with torch.device("meta"):
            expected = build_model(source).state_dict()
        tensors = from_official(state_dict)
        # timm loads other classes without strictness, and would pass over whatever else does not fit.
        found = [item for item in differences(tensors, expected) if not item.of_classifier]
        if found:
            raise WeightsError(f"the weights are of another architecture: {described(found, tensors)}")
        return interpolated(tensors, model.arch, source)

    return adapted


def main(arguments: list[str]) -> int:
    """Run a script with ``crossvit_arch`` registered; 2 for what is no script and for an architecture that is none."""
    if not arguments or not Path(arguments[0]).is_file():
        print(f"there is no script {arguments[0]!r}; {USAGE}" if arguments else USAGE, file=sys.stderr)
        return 2
    sys.argv = arguments
    sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except (ArchError, WeightsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    from crossvit_core import timm_entry  # under its name, which is the one that registers

    sys.exit(timm_entry.main(sys.argv[1:]))
else:
    register_model(crossvit_arch)
