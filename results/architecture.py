"""An architecture's record (``ArchConfig.to_dict``) as columns and in words. Fields left out are at their default."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

FUSION_LABELS: dict[str, str] = {
    "none": "no fusion",
    "all_attention": "all-attention",
    "class_token": "class-token",
    "pairwise": "pairwise",
    "cross_attention": "cross-attention",
    "mixed": "mixed fusion",
}

_DEFAULTS: dict[str, Any] = {"mlp_ratio": 4.0, "stem": "linear", "fusion": "cross_attention"}

COLUMNS = ("fusion", "patches", "widths", "depths", "num_encoders", "heads", "mlp_ratios", "stem", "options")


def arch_columns(arch: Mapping[str, Any]) -> dict[str, Any]:
    """One short value for each of ``COLUMNS``: 'patches' as '4/8', 'depths' as '1+2', 'fusion' a name or 'mixed'."""
    branches, encoders = _parts(arch, "branches"), _parts(arch, "encoders")
    fusions = dict.fromkeys(_read(encoder, "fusion") for encoder in encoders)
    return {
        "fusion": next(iter(fusions), "") if len(fusions) < 2 else "mixed",
        "patches": _join(branch.get("patch_size", "?") for branch in branches),
        "widths": _join(branch.get("embed_dim", "?") for branch in branches),
        "depths": _depths(encoders),
        "num_encoders": len(encoders),
        "heads": _fold(branch.get("num_heads", "?") for branch in branches),
        "mlp_ratios": _fold(f"{_read(branch, 'mlp_ratio'):g}" for branch in branches),
        "stem": _fold(_read(branch, "stem") for branch in branches),
        "options": " + ".join(_options(arch, branches, encoders)),
    }


def describe_arch(arch: Mapping[str, Any]) -> str:
    """The architecture in words: 'patch 4/8, width 32/64, K=2, depth 1+2, cross-attention, linear stem, ...'."""
    if not _parts(arch, "branches"):
        return ""
    return describe_columns(arch_columns(arch))


def describe_columns(columns: Mapping[str, Any]) -> str:
    """The words of ``describe_arch`` from the values of ``arch_columns``."""
    fusion = str(columns["fusion"])
    parts = [
        f"patch {columns['patches']}",
        f"width {columns['widths']}",
        f"K={columns['num_encoders']}",
        f"depth {columns['depths']}",
        FUSION_LABELS.get(fusion, fusion),
        f"{columns['stem']} stem",
        f"heads {columns['heads']}",
        f"MLP x{columns['mlp_ratios']}",
    ]
    return ", ".join([*parts, str(columns["options"])] if columns.get("options") else parts)


def abbreviate_columns(columns: Mapping[str, Any]) -> str:
    """One short line, 'cross-attention 4/8 32/64 2x(1+2)': fusion, patches, widths, K x (depths), options if any."""
    fusion = FUSION_LABELS.get(str(columns["fusion"]), str(columns["fusion"]))
    line = f"{fusion} {columns['patches']} {columns['widths']} {columns['num_encoders']}x({columns['depths']})"
    return f"{line} + {columns['options']}" if columns.get("options") else line


def read_field(arch: Mapping[str, Any], path: str) -> Any:
    """The value at a dimension's path, as 'branches.*.stem': one value where all are alike, else all, by slashes.

    'default' for a field that is left out and has no default here.
    """
    if path == "num_encoders":
        return len(_parts(arch, "encoders"))
    values = list(_walk(arch, path.split(".")))
    return values[0] if values and all(value == values[0] for value in values) else _join(values)


def _walk(part: Any, names: list[str]) -> Iterable[Any]:
    if not names:
        yield _join(part) if isinstance(part, (list, tuple)) else part
    elif isinstance(part, (list, tuple)):
        items = part if names[0] == "*" else part[int(names[0]) :][:1] if names[0].isdigit() else []
        for item in items:
            yield from _walk(item, names[1:])
    else:
        inner = part.get(names[0], _DEFAULTS.get(names[0], "default")) if isinstance(part, Mapping) else "default"
        yield from _walk(inner, [] if inner == "default" else names[1:])


def _options(
    arch: Mapping[str, Any], branches: list[Mapping[str, Any]], encoders: list[Mapping[str, Any]]
) -> Iterable[str]:
    """Which fusions it mixes and the improvements of later ViTs that it has, in words."""
    residual, head = arch.get("residual_attention", {}), arch.get("head", {})
    fusions = [_read(encoder, "fusion") for encoder in encoders]
    if len(set(fusions)) > 1:
        yield f"fusion {_join((FUSION_LABELS.get(name, name) for name in fusions), ', ')}"
    if residual.get("where"):
        yield f"residual attention {_join(residual['where'], '+')}"
    if residual.get("fusion"):
        yield "residual fusion"
    paths = [index for index, branch in enumerate(branches) if branch.get("conv_path")]
    if paths:
        yield f"convolutions {_join(paths, '+')}"
    windows = [_join(encoder["windows"]) if encoder.get("windows") else "0" for encoder in encoders]
    if set(windows) != {"0"}:
        yield f"windows {_fold(windows, between=', ')}"
    if head.get("kind") == "exshortcut":
        yield "ExShortcut head"


def _parts(arch: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    parts = arch.get(name, [])
    return [part for part in parts if isinstance(part, Mapping)] if isinstance(parts, (list, tuple)) else []


def _read(part: Mapping[str, Any], name: str) -> Any:
    return part.get(name, _DEFAULTS[name])


def _depths(encoders: Iterable[Mapping[str, Any]]) -> str:
    """'1+2' when all encoders are alike, else each in turn: '1+2, 1+3'."""
    return _fold(("+".join(str(depth) for depth in encoder.get("depths", ())) for encoder in encoders), between=", ")


def _join(values: Iterable[Any], between: str = "/") -> str:
    return between.join(str(value) for value in values)


def _fold(values: Iterable[Any], between: str = "/") -> str:
    """One value where all are the same."""
    texts = [str(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else between.join(texts)
