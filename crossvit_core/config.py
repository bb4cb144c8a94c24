"""The architecture of a CrossViT as plain, frozen data.

An ``ArchConfig`` is the one description that travels between the space, the search, the builder, the cost model and
the files on disk. This module imports nothing but the standard library.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Size = tuple[int, int]

STEM_NAMES = ("linear", "conv")
FUSION_NAMES = ("none", "all_attention", "class_token", "pairwise", "cross_attention")
FUSION_READINGS = ("published", "patches")
HEAD_NAMES = ("class_token",)

_STACKABLE_FUSIONS = ("all_attention", "cross_attention")


class ArchError(ValueError):
    """An architecture that cannot be built; the message lists every violation."""


def as_size(value: int | Iterable[int]) -> Size:
    """An image side, or a (height, width) pair, as (height, width) in pixels."""
    if isinstance(value, bool):
        raise ArchError(f"image_size {value!r} is not a number of pixels; use an int or [height, width]")
    if isinstance(value, int):
        return (value, value)
    sides = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else ()
    if len(sides) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) for side in sides):
        number = None if sides else nearest_count(value, 0)
        nearest = f", such as {number}," if number else ""
        raise ArchError(f"image_size {value!r} is not a size; use an int{nearest} or [height, width]")
    return (sides[0], sides[1])


@dataclass(frozen=True, kw_only=True)
class BranchConfig:
    """One scale: the image side it reads, its patches, its width.

    ``image_size`` is in pixels; a branch resizes the input to it (the paper feeds 240 to the small-patch branch and
    224 to the large-patch one). ``mlp_ratio`` is the hidden width of the FFN over ``embed_dim``.
    """

    image_size: int | Size
    patch_size: int
    embed_dim: int
    num_heads: int
    mlp_ratio: float = 4.0
    stem: str = "linear"

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", as_size(self.image_size))
        if is_number(self.mlp_ratio):  # anything else is told by ``violations``
            object.__setattr__(self, "mlp_ratio", float(self.mlp_ratio))

    @property
    def size(self) -> Size:
        """(height, width) in pixels."""
        return self.image_size  # type: ignore[return-value]

    @property
    def grid(self) -> Size:
        """Patches in (rows, columns)."""
        return (self.size[0] // self.patch_size, self.size[1] // self.patch_size)

    @property
    def num_patches(self) -> int:
        rows, columns = self.grid
        return rows * columns

    @property
    def num_tokens(self) -> int:
        """Patches and the class token."""
        return self.num_patches + 1

    @property
    def mlp_dim(self) -> int:
        return int(self.embed_dim * self.mlp_ratio)


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """One multi-scale encoder: ``depths[i]`` blocks in branch i (the paper's N and M), then one fusion.

    ``fusion_depth`` is the paper's L. For L >= 2 ``fusion_reading`` chooses between the released code, where every
    later cross-attention block sees the class token alone (``published``), and one that keeps the other branch's
    patches as keys (``patches``). ``identity_maps`` leaves out the maps between branches of equal width, as row B of
    the paper's Table 7 did.
    """

    depths: tuple[int, ...]
    fusion: str = "cross_attention"
    fusion_depth: int = 1
    fusion_reading: str = "published"
    identity_maps: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "depths", _as_tuple("depths", self.depths, "[1, 4]: the blocks of every branch"))


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The classifier. ``class_token``: one linear map per branch on its class token, logits averaged (the paper)."""

    kind: str = "class_token"


@dataclass(frozen=True, kw_only=True)
class ArchConfig:
    """A CrossViT: branches (one per scale) that run through ``encoders``; ``len(encoders)`` is the paper's K."""

    image_size: int | Size
    branches: tuple[BranchConfig, ...]
    encoders: tuple[EncoderConfig, ...]
    in_channels: int = 3
    num_classes: int = 1000
    head: HeadConfig = field(default_factory=HeadConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", as_size(self.image_size))
        object.__setattr__(self, "branches", _as_tuple("branches", self.branches, "a list of BranchConfig"))
        object.__setattr__(self, "encoders", _as_tuple("encoders", self.encoders, "a list of EncoderConfig"))

    @property
    def size(self) -> Size:
        """(height, width) of the network's input in pixels."""
        return self.image_size  # type: ignore[return-value]

    def violations(self) -> list[str]:
        """Every reason why this architecture cannot be built, each with the field, the value and a way out."""
        from crossvit_core.arch_checks import violations  # which imports this module

        return violations(self)

    def check(self) -> ArchConfig:
        """Return self, or raise ArchError with all violations."""
        problems = self.violations()
        if problems:
            raise ArchError("; ".join(problems))
        return self

    def key(self) -> str:
        """Twelve hexadecimal digits that name the function: equal for two descriptions of one network."""
        text = json.dumps(_canonical(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON and YAML: fields at their default are left out, square sizes are one number."""
        return _to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ArchConfig:
        """The inverse of ``to_dict``. Raises ArchError naming the field that is unknown, missing or of a wrong type."""
        if not isinstance(data, Mapping):
            raise ArchError(f"an architecture is a mapping of fields, got {type(data).__name__}")
        values = dict(data)
        for name, part in (("branches", BranchConfig), ("encoders", EncoderConfig)):
            items = values.get(name, [])
            if not isinstance(items, (list, tuple)):
                raise ArchError(f"{name} must be a list, got {items!r}")
            values[name] = tuple(_build(part, item, f"{name}.{index}") for index, item in enumerate(items))
        if "head" in values:
            values["head"] = _build(HeadConfig, values["head"], "head")
        return _build(cls, values, "architecture")

    def replace(self, **changes: Any) -> ArchConfig:
        """A copy with the given fields changed."""
        return dataclasses.replace(self, **changes)


def suggest(name: str, known: Iterable[str]) -> str:
    """'known: a, b', led by the nearest known name when there is one: the tail of an error message."""
    options = sorted(known)
    near = difflib.get_close_matches(name, options, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}known: {', '.join(options)}"


def _build(cls: type, data: Any, where: str) -> Any:
    if isinstance(data, cls):
        return data
    if not isinstance(data, Mapping):
        raise ArchError(f"{where} must be a mapping of fields, got {data!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for name in data:
        if name not in fields:
            raise ArchError(f"{where}: unknown field {name!r}; {suggest(str(name), fields)}")
    for name, spec in fields.items():
        required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise ArchError(f"{where}: field {name!r} is missing")
    try:
        return cls(**data)
    except (TypeError, ValueError) as error:
        raise ArchError(f"{where}: {error}") from error


def _to_dict(config: Any) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for spec in dataclasses.fields(config):
        value = getattr(config, spec.name)
        default = spec.default_factory() if spec.default_factory is not dataclasses.MISSING else spec.default
        if value == default:
            continue
        if spec.name == "image_size":
            value = value[0] if value[0] == value[1] else list(value)
        elif dataclasses.is_dataclass(value):
            value = _to_dict(value)
        elif isinstance(value, tuple):
            value = [_to_dict(item) if dataclasses.is_dataclass(item) else item for item in value]
        out[spec.name] = value
    return out


# What fields accept --------------------------------------------------------------------------------------------------


def nearest_count(value: Any, minimum: int) -> int:
    """The integer of at least ``minimum`` that comes nearest to what was given; ``minimum`` if that is no number."""
    try:
        return max(round(float(value)), minimum)
    except (TypeError, ValueError, OverflowError):
        return minimum


def is_number(value: Any) -> bool:
    """A finite int or float; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _as_tuple(name: str, value: Any, example: str) -> tuple[Any, ...]:
    if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
        raise ArchError(f"{name} must be a list, got {value!r}; use {example}")
    return tuple(value)


# Canonical form ------------------------------------------------------------------------------------------------------


def _canonical(arch: ArchConfig) -> dict[str, Any]:
    """``to_dict`` with everything folded that cannot change the function computed."""
    encoders = _merge_unfused([_fold_encoder(encoder, arch) for encoder in arch.encoders])
    branches = [_fold_branch(branch, index, encoders) for index, branch in enumerate(arch.branches)]
    return _to_dict(arch.replace(encoders=tuple(encoders), branches=tuple(branches)))


def _fold_encoder(encoder: EncoderConfig, arch: ArchConfig) -> EncoderConfig:
    equal_widths = len({branch.embed_dim for branch in arch.branches}) < len(arch.branches)
    changes: dict[str, Any] = {}
    if encoder.fusion not in _STACKABLE_FUSIONS:
        changes["fusion_depth"] = 1
    if encoder.fusion != "cross_attention" or encoder.fusion_depth == 1:
        changes["fusion_reading"] = "published"
    if encoder.fusion != "cross_attention" or not equal_widths:
        changes["identity_maps"] = False
    return dataclasses.replace(encoder, **changes)


def _merge_unfused(encoders: list[EncoderConfig]) -> list[EncoderConfig]:
    """Blocks that no fusion separates are one run of blocks: an encoder without fusion joins the next one."""
    merged: list[EncoderConfig] = []
    for encoder in encoders:
        if merged and merged[-1].fusion == "none":
            before = merged.pop()
            depths = tuple(a + b for a, b in zip(before.depths, encoder.depths))
            encoder = dataclasses.replace(encoder, depths=depths)
        merged.append(encoder)
    if len(merged) > 1 and merged[-1].fusion == "none" and not any(merged[-1].depths):
        merged.pop()
    return merged


def _fold_branch(branch: BranchConfig, index: int, encoders: list[EncoderConfig]) -> BranchConfig:
    """A branch without blocks has no FFN; one that no attention runs in has no heads."""
    without_blocks = all(encoder.depths[index] == 0 for encoder in encoders)
    without_attention = without_blocks and not any(encoder.fusion in _STACKABLE_FUSIONS for encoder in encoders)
    changes: dict[str, Any] = {}
    if without_blocks:
        changes["mlp_ratio"] = 4.0
    if without_attention:
        changes["num_heads"] = 1
    return dataclasses.replace(branch, **changes)
