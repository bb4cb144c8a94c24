"""What every trial of a study shares, as plain data that travels to workers. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossvit_core.config import ArchConfig
from crossvit_core.recipe import TrainRecipe
from results.store import trial_name
from search.measures import ALWAYS

if TYPE_CHECKING:
    from space import Limit

GEOMETRIC = (0.125, 0.25, 0.5)

_PROTOCOL = ("batch_size", "pairs", "window_ms")


@dataclass(frozen=True)
class MeasurePlan:
    """What is measured of a candidate, in the order of ``search.measures``, and the limits that it is held against.

    The throughput protocol: ``pairs`` windows of candidate and reference in turn, each ``window_ms`` long.
    """

    batch_size: int = 32
    pairs: int = 60
    window_ms: float = 10.0
    measures: tuple[str, ...] = ALWAYS
    limits: tuple[Limit, ...] = ()

    @classmethod
    def of_study(cls, study: Mapping[str, Any]) -> MeasurePlan:
        """The protocol of a study.json, without the limits; what it does not say is usual."""
        written = study.get("measure", {})
        return cls(**{name: written[name] for name in _PROTOCOL if name in written})

    def to_dict(self) -> dict[str, Any]:
        """What a study must keep: the protocol, and the limits if there are any. More may be measured later."""
        protocol = {name: getattr(self, name) for name in _PROTOCOL}
        return {**protocol, "limits": [limit.to_dict() for limit in self.limits]} if self.limits else protocol


@dataclass(frozen=True)
class Plan:
    """How a trial is evaluated. ``rungs`` are the epochs after which it reports; ``data_path`` is a cached dataset.

    ``trial_minutes``: a worker that reports nothing for so long (wall clock) is ended, its trial has failed.
    ``share_weights_with``: start from this architecture's initial weights of the same seed wherever names and shapes
    agree, so that trials of one seed form pairs. ``score_branches``: also score each branch by itself.
    """

    recipe: TrainRecipe
    data_path: Path
    trials_dir: Path | None
    device: str = "auto"
    rungs: tuple[int, ...] = ()
    measure: MeasurePlan = field(default_factory=MeasurePlan)
    keep_weights: bool = True
    threads: int = 1
    trial_minutes: float | None = None
    share_weights_with: ArchConfig | None = None
    score_branches: bool = False

    def trial_dir(self, number: int) -> Path:
        """Folder of a trial's files."""
        if self.trials_dir is None:
            raise ValueError("this plan keeps no files")
        return self.trials_dir / trial_name(number)


def geometric_rungs(epochs: int, shares: Sequence[float] = GEOMETRIC) -> tuple[int, ...]:
    """The epochs after which a trial says how it does: at these shares of them, before the last."""
    reached = {int(share * epochs + 1e-9) for share in shares}
    return tuple(sorted(epoch for epoch in reached if 0 < epoch < epochs))
