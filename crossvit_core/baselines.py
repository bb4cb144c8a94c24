"""Networks of timm by name, to stand beside ours: random weights, nothing is ever fetched. timm is imported on use.

``timm:deit_tiny_patch16_224`` is a model of timm; ``timm:resnet50+cbam`` is one with a gate of ``GATES`` in each block,
as SENet, ECA-Net and CBAM put it into a ResNet; ``timm:deit_tiny_patch16_224+patch_size=2+depth=4`` one whose
arguments are changed, so that it fits small images.
"""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crossvit_core.config import ArchError, Size, suggest

PREFIX = "timm:"

GATES = ("cbam", "ceca", "eca", "ecam", "ese", "gca", "lcbam", "se")

_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")
_NEAREST = 3


class BaselineError(ArchError):
    """A name that timm does not know, or a network that cannot be built as it is wanted."""


@dataclass(frozen=True)
class Wanted:
    """What a network is built for. Without a ``size`` (height, width) it reads the images that it was published for."""

    size: Size | None = None
    in_channels: int = 3
    num_classes: int = 1000
    drop_path: float = 0.0


@dataclass(frozen=True)
class TimmName:
    """A model of timm, the gate that its blocks get ('' for none), and numbers that it is built with."""

    model: str
    gate: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


def parse_timm_name(name: str) -> TimmName:
    """What a name such as 'timm:pvt_v2_b0' means. Raises BaselineError with the nearest names of timm."""
    import timm

    model, *changes = name.removeprefix(PREFIX).split("+")
    bare, dot, _ = model.partition(".")
    if not timm.is_model(bare) or bare != bare.strip() or ":" in bare:
        raise BaselineError(f"timm has no model {model!r}; {_nearest(bare, timm.list_models())}")
    if dot:
        plain = "+".join([PREFIX + bare, *changes])
        raise BaselineError(f"{name!r} names weights, and none are ever fetched: write {plain!r}")
    gates = [change for change in changes if "=" not in change]
    if len(gates) > 1 or not set(gates) <= set(GATES):
        raise BaselineError(f"{name!r} asks for an unknown gate {'+'.join(gates)!r}; {suggest(gates[-1], GATES)}")
    return TimmName(bare, "".join(gates), dict(_parse_number(change, name) for change in changes if "=" in change))


def _parse_number(change: str, name: str) -> tuple[str, float]:
    argument, _, text = change.partition("=")
    try:
        return argument, int(text) if text.lstrip("-").isdecimal() else float(text)
    except ValueError:
        raise BaselineError(f"{name!r}: {text!r} is no number; write it as '+patch_size=4'") from None


def build_baseline(name: str, wanted: Wanted) -> tuple[nn.Module, Size]:
    """The network of a name, in evaluation mode and tried on two images, and the size (height, width) that it reads.

    Raises BaselineError for an unknown name, and for a network that cannot take the size, the channels or the gate.
    """
    import timm

    parsed = parse_timm_name(name)
    arguments: dict[str, Any] = {
        "in_chans": wanted.in_channels,
        "num_classes": wanted.num_classes,
        **({"drop_path_rate": wanted.drop_path} if wanted.drop_path else {}),
        **({"img_size": wanted.size} if wanted.size else {}),
        **({"block_args": {"attn_layer": parsed.gate}} if parsed.gate else {}),
        **parsed.numbers,
    }
    try:
        model = _create(lambda **given: timm.create_model(parsed.model, pretrained=False, **given), arguments).eval()
        size = wanted.size or _published_size(model)
        _try(model, (2, wanted.in_channels, *size), wanted.num_classes)
    except BaselineError as error:
        raise BaselineError(f"{name}: {error}") from error
    except Exception as error:  # timm's models refuse in every way there is: assertions, shapes, arithmetic
        raise BaselineError(f"{name} cannot take {_describe(wanted)}: {_reason(error)}") from error
    return model, size


def _create(make: Callable[..., nn.Module], arguments: dict[str, Any]) -> nn.Module:
    """The network, without those arguments that it does not know and can do without: many take images of any size."""
    given = dict(arguments)
    while True:
        try:
            return make(**given)
        except TypeError as error:
            found = _UNEXPECTED.search(str(error))
            if found is None or found[1] not in given:
                raise
            if found[1] == "block_args":
                hint = f"take a ResNet, as '{PREFIX}resnet50+cbam'"
                raise BaselineError(f"its blocks have no place for a gate; {hint}") from error
            if found[1] not in ("img_size", "drop_path_rate"):
                raise BaselineError(f"it takes no argument {found[1]!r}") from error
            del given[found[1]]


def _published_size(model: nn.Module) -> Size:
    described: Any = model.pretrained_cfg
    _, height, width = described["input_size"]
    return (height, width)


@torch.inference_mode()
def _try(model: nn.Module, shape: tuple[int, ...], num_classes: int) -> None:
    logits = model(torch.zeros(shape))
    if not isinstance(logits, Tensor) or logits.shape != (shape[0], num_classes):
        raise BaselineError("its output is not one row of logits an image")


def _describe(wanted: Wanted) -> str:
    size = f" of {wanted.size[0]} x {wanted.size[1]} px" if wanted.size else ""
    return f"images{size} (channels: {wanted.in_channels}, classes: {wanted.num_classes})"


def _reason(error: Exception) -> str:
    """The first line of what it said; of an assertion that says nothing, the statement of timm's that failed."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame.line for frame in frames if "timm" in Path(frame.filename).parts and frame.line]
    said = str(error).strip() or (theirs[-1] if theirs else type(error).__name__)
    return said.split("\n", 1)[0][:200]


def _nearest(name: str, known: list[str]) -> str:
    """The nearest of more than a thousand names, or of their beginnings: most end in what few people remember."""

    def likeness(other: str) -> float:
        matcher.set_seq1(other)
        whole = matcher.ratio()
        matcher.set_seq1(other[: len(name) + 1])
        return max(whole, matcher.ratio())

    matcher = difflib.SequenceMatcher(None, "", name)
    near = sorted(known, key=likeness, reverse=True)[:_NEAREST]
    return f"nearest: {', '.join(PREFIX + other for other in near)}"
