"""The architecture of a CrossViT as plain, frozen data.

An ``ArchConfig`` is the one description that travels between the space, the search, the builder, the cost model and
the files on disk. Here and in the modules that this one imports there is no torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from crossvit_core.fields import ArchError, Size, as_size, as_tuple, is_number, suggest
from crossvit_core.residual_config import ResidualAttentionConfig

STEM_NAMES = ("linear", "conv", "reduction")
CONV_INITS = ("published", "zero")
FUSION_NAMES = ("none", "all_attention", "class_token", "pairwise", "cross_attention")
FUSION_READINGS = ("published", "patches")
HEAD_NAMES = ("class_token", "exshortcut")

# Those that attend: they make class tokens from patches, and their attention can be stacked (``fusion_depth``).
ATTENTION_FUSIONS = ("all_attention", "cross_attention")


@dataclass(frozen=True, kw_only=True)
class BranchConfig:
    """One scale: the image side it reads, its patches, its width.

    ``image_size`` is in pixels; a branch resizes the input to it (the paper feeds 240 to the small-patch branch and
    224 to the large-patch one). ``mlp_ratio`` is the hidden width of the FFN over ``embed_dim``.

    The other fields are ViTAEv2's. ``stem_dilations``: of the first convolutions of the ``reduction`` stem. With
    ``conv_path`` every block has grouped convolutions beside its attention: ``conv_channels_per_group`` of
    ``embed_dim``, ``conv_ratio`` times it inside, ``conv_depth`` of them (2 or 3, the paper's), of which the last
    starts as torch starts convolutions (``conv_init`` "published") or at "zero".
    """

    image_size: int | Size
    patch_size: int
    embed_dim: int
    num_heads: int
    mlp_ratio: float = 4.0
    stem: str = "linear"
    stem_dilations: tuple[int, ...] = (1, 2, 3, 4)
    conv_path: bool = False
    conv_channels_per_group: int = 4
    conv_ratio: float = 4.0
    conv_depth: int = 3
    conv_init: str = "published"

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", as_size(self.image_size))
        dilations = as_tuple("stem_dilations", self.stem_dilations, "[1, 2, 3, 4]")
        object.__setattr__(self, "stem_dilations", dilations)
        for name in ("mlp_ratio", "conv_ratio"):
            if is_number(getattr(self, name)):  # anything else is told by ``violations``
                object.__setattr__(self, name, float(getattr(self, name)))

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

    @property
    def conv_dim(self) -> int:
        """Channels inside the convolutions beside attention."""
        return int(self.embed_dim * self.conv_ratio)


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """One multi-scale encoder: ``depths[i]`` blocks in branch i (the paper's N and M), then one fusion.

    ``fusion_depth`` is the paper's L. For L >= 2 ``fusion_reading`` chooses between the released code, where every
    later cross-attention block sees the class token alone (``published``), and one that keeps the other branch's
    patches as keys (``patches``). ``identity_maps`` leaves out the maps between branches of equal width, as row B of
    the paper's Table 7 did. ``windows[i]`` is the side, in patches, of the windows that the patches of branch i attend
    within (ViTAEv2), 0 for attention to all; empty is 0 for every branch.
    """

    depths: tuple[int, ...]
    fusion: str = "cross_attention"
    fusion_depth: int = 1
    fusion_reading: str = "published"
    identity_maps: bool = False
    windows: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        windows = as_tuple("windows", self.windows, "[4, 0]: a side for every branch, 0 for attention to all")
        object.__setattr__(self, "windows", windows if any(windows) else ())
        object.__setattr__(self, "depths", as_tuple("depths", self.depths, "[1, 4]: the blocks of every branch"))

    def window_side(self, branch: int) -> int:
        """The side of a branch's windows in patches; 0 for attention to all."""
        return self.windows[branch] if self.windows else 0


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The classifier. ``class_token``: one linear map per branch on its class token, logits averaged (the paper).

    ``exshortcut`` adds to those logits what ``taps`` say of the tokens of earlier encoders (ExMobileViT): each tap
    ``(k, b)`` norms the tokens of branch b after encoder k, both counted from 0, pools them (``pool``: the "mean" of
    the patches, "cls", or "both" side by side) and maps that to logits. With ``project`` it goes through a linear map
    to ``mu`` times the branch's width, norm and SiLU "after" pooling or, as in the paper, "before". A tap of an encoder
    that is not there, or is the last, is none. Taps start at "zero", as the plain head, or "normal" (``init``).
    """

    kind: str = "class_token"
    taps: tuple[tuple[int, int], ...] = ()
    pool: str = "mean"
    project: str = "none"
    mu: float = 1.0
    init: str = "zero"

    def __post_init__(self) -> None:
        taps = as_tuple("taps", self.taps, "[[0, 1]]: pairs of encoder and branch; [] for none")
        pairs = tuple(tuple(tap) if isinstance(tap, (list, tuple)) else tap for tap in taps)
        object.__setattr__(self, "taps", pairs)
        if is_number(self.mu):  # anything else is told by ``violations``
            object.__setattr__(self, "mu", float(self.mu))


@dataclass(frozen=True, kw_only=True)
class ArchConfig:
    """A CrossViT: branches (one per scale) that run through ``encoders``; ``len(encoders)`` is the paper's K."""

    image_size: int | Size
    branches: tuple[BranchConfig, ...]
    encoders: tuple[EncoderConfig, ...]
    in_channels: int = 3
    num_classes: int = 1000
    head: HeadConfig = field(default_factory=HeadConfig)
    residual_attention: ResidualAttentionConfig = field(default_factory=ResidualAttentionConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", as_size(self.image_size))
        object.__setattr__(self, "branches", as_tuple("branches", self.branches, "a list of BranchConfig"))
        object.__setattr__(self, "encoders", as_tuple("encoders", self.encoders, "a list of EncoderConfig"))

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
        from crossvit_core.canonical import canonical  # which imports this module

        text = json.dumps(canonical(self), sort_keys=True, separators=(",", ":"))
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
        singles: dict[str, type] = {"head": HeadConfig, "residual_attention": ResidualAttentionConfig}
        for name in singles.keys() & values.keys():
            values[name] = _build(singles[name], values[name], name)
        return _build(cls, values, "architecture")

    def replace(self, **changes: Any) -> ArchConfig:
        """A copy with the given fields changed."""
        return dataclasses.replace(self, **changes)


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
            value = [_to_plain(item) for item in value]
        out[spec.name] = value
    return out


def _to_plain(item: Any) -> Any:
    if dataclasses.is_dataclass(item):
        return _to_dict(item)
    return list(item) if isinstance(item, tuple) else item
