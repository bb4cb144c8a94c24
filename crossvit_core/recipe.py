"""How a candidate is trained, as plain data. Imports neither torch nor timm, to describe a study cheaply."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crossvit_core.config import suggest

AUGMENT_NAMES = ("none", "shift1", "shift", "flip", "shift_flip")


class RecipeError(ValueError):
    """A training setting that is unknown or out of range."""


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """AdamW with linear warm-up and cosine decay to zero, stepped every batch.

    ``lr`` is the peak for the batch size as given; ``warmup_fraction`` of all steps is warm-up. ``label_smoothing`` and
    ``mixup`` (the beta distribution's alpha) at 0 are off. ``ema_decay`` at 0 is off; otherwise the averaged weights
    are the ones scored and kept. ``clip_grad`` is a norm, 0 is off. ``augment`` names a policy of
    ``crossvit_core.augment``. ``amp`` asks for bfloat16 autocast on GPUs; CPUs always train in float32.
    """

    epochs: int = 20
    batch_size: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.05
    beta2: float = 0.99
    warmup_fraction: float = 0.15
    label_smoothing: float = 0.1
    mixup: float = 0.0
    ema_decay: float = 0.0
    drop_path: float = 0.0
    clip_grad: float = 0.0
    augment: str = "shift1"
    amp: bool = True

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            wrong_type = isinstance(value, bool) or not isinstance(value, (int, float))
            if wrong_type or not low <= value <= high:
                raise RecipeError(f"{name} must be from {low} to {high}, got {value!r}")
        if self.augment not in AUGMENT_NAMES:
            raise RecipeError(f"unknown augment {self.augment!r}; {suggest(str(self.augment), AUGMENT_NAMES)}")
        for name in ("epochs", "batch_size"):
            if not isinstance(getattr(self, name), int):
                raise RecipeError(f"{name} must be a whole number, got {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, Any]:
        """Every field, defaults included: a study's record must not change when a default does."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainRecipe:
        """The recipe with the given fields changed. Raises RecipeError naming an unknown one."""
        known = recipe_fields()
        for name in data:
            if name not in known:
                raise RecipeError(f"unknown training setting {name!r}; {suggest(str(name), known)}")
        return cls(**{name: _unquoted(value) for name, value in data.items()})


def _unquoted(value: Any) -> Any:
    """YAML takes 1e-3 for a text, since its numbers have a point."""
    try:
        return float(value) if isinstance(value, str) and "e" in value.lower() else value
    except ValueError:
        return value


def recipe_fields() -> list[str]:
    """Names of the settings of a recipe."""
    return [field.name for field in dataclasses.fields(TrainRecipe)]


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("epochs", 1, 100_000),
    ("batch_size", 1, 1_000_000),
    ("lr", 1e-8, 100.0),
    ("weight_decay", 0.0, 100.0),
    ("beta2", 0.5, 0.999999),  # AdamW refuses 1
    ("warmup_fraction", 0.0, 0.9),
    ("label_smoothing", 0.0, 0.9),
    ("mixup", 0.0, 10.0),
    ("ema_decay", 0.0, 0.999999),
    ("drop_path", 0.0, 0.9),
    ("clip_grad", 0.0, 1e6),
)
