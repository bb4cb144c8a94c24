"""All that the next training step depends on, gathered as tensors and put back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class TrainingState:
    """The moving parts of a training: weights, their average, optimiser, random streams.

    ``generator`` shuffles and augments; drop path draws from torch's global stream of ``device``.
    """

    model: nn.Module
    ema: nn.Module | None
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    device: torch.device

    def tensors(self) -> dict[str, Tensor]:
        """By names that ``restore`` knows; not copied. Learning rates are not in it: they follow from the step."""
        moments = self.optimizer.state_dict()["state"]
        return {
            **_prefixed("model", self.model.state_dict()),
            **(_prefixed("ema", self.ema.state_dict()) if self.ema is not None else {}),
            **{f"optimizer.{index}.{name}": value for index, part in moments.items() for name, value in part.items()},
            "random.own": self.generator.get_state(),
            "random.global": self._global_stream(),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of ``tensors``. Raises ValueError, with nothing changed, for those of another network."""
        self._check_fits(tensors)
        self.model.load_state_dict(_without_prefix("model", tensors))
        if self.ema is not None:
            self.ema.load_state_dict(_without_prefix("ema", tensors))
        self._restore_optimizer(_without_prefix("optimizer", tensors))
        self.generator.set_state(tensors["random.own"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.global"], self.device)
        else:
            torch.set_rng_state(tensors["random.global"])

    def _global_stream(self) -> Tensor:
        return torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else torch.get_rng_state()

    def _check_fits(self, tensors: Mapping[str, Tensor]) -> None:
        averaged = _prefixed("ema", self.ema.state_dict()) if self.ema is not None else {}
        asked = {**_prefixed("model", self.model.state_dict()), **averaged}
        stored = {name: value for name, value in tensors.items() if name.startswith(("model.", "ema."))}
        for name in sorted(asked.keys() | stored.keys()):
            shapes = [tuple(part[name].shape) if name in part else "absent" for part in (stored, asked)]
            if shapes[0] != shapes[1]:
                raise ValueError(f"{name} is {shapes[0]}, not {shapes[1]}")
        missing = {"random.own", "random.global"} - tensors.keys()
        if missing:
            raise ValueError(f"{', '.join(sorted(missing))} is absent")

    def _restore_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        state: dict[int, dict[str, Any]] = {}
        for place, value in tensors.items():
            index, _, name = place.partition(".")
            state.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)}
