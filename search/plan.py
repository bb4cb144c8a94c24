"""What every trial of a study shares, as plain data that travels to workers. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from crossvit_core.recipe import TrainRecipe


@dataclass(frozen=True)
class MeasurePlan:
    """The throughput protocol: ``pairs`` windows of candidate and reference in turn, each ``window_ms`` long."""

    batch_size: int = 32
    pairs: int = 60
    window_ms: float = 10.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """How a trial is evaluated. ``rungs`` are the epochs after which it reports; ``data_path`` is a cached dataset."""

    recipe: TrainRecipe
    data_path: Path
    trials_dir: Path | None
    device: str = "auto"
    rungs: tuple[int, ...] = ()
    measure: MeasurePlan = field(default_factory=MeasurePlan)
    keep_weights: bool = True
    threads: int = 1

    def trial_dir(self, number: int) -> Path:
        """Folder of a trial's files."""
        if self.trials_dir is None:
            raise ValueError("this plan keeps no files")
        return self.trials_dir / f"{number:05d}"


def geometric_rungs(epochs: int) -> tuple[int, ...]:
    """An eighth, a quarter and a half of the epochs: where a trial says how it does."""
    return tuple(sorted({epochs // share for share in (8, 4, 2) if 0 < epochs // share < epochs}))
