"""Which running trials are worth going on with, when there are several objectives: the rules of early stopping.

A rule sees the events of the ledger and nothing else: at a resume it is shown them again. It is asked at a trial's
first arrival at a rung; what it says is written down before it is acted on and never asked again.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from crossvit_core.config import suggest
from results.metrics import ACCURACY
from results.pareto import pareto_ranks
from results.records import Decision, Event, Finished, Rung
from search.curves import Curves, forecast_final
from search.objectives import Objective
from search.plan import GEOMETRIC, geometric_rungs

_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


class StoppingError(ValueError):
    """Early stopping that was asked for in a way that cannot be."""


@dataclass(frozen=True)
class Verdict:
    """Whether a trial goes on, and the figures that say why: they are kept with the rung's metrics."""

    decision: Decision = "continue"
    why: dict[str, float] = field(default_factory=dict)


class StoppingRule(Protocol):
    """A function of the events it observed, in their order: nothing else may change a verdict.

    ``compares``: the events by which it compares trials. ``search.rounds`` holds these back until a round is over.
    """

    compares: ClassVar[tuple[type, ...]]

    def observe(self, event: Event) -> None:
        """Learn of an event that is on the disk; also, in order, of those of an earlier process."""
        ...

    def decide(self, rung: Rung) -> Verdict:
        """Whether the trial of this rung goes on. The rung itself has not been observed yet."""
        ...


@dataclass(frozen=True)
class Stopping:
    """What was asked for. ``rungs`` are the shares of the epochs after which a trial is judged.

    ``eta``: ``asha``, ``hyperband`` and ``pareto_rank`` let the best 1/eta of a rung go on. ``max_killed``: the chance,
    over all its rungs, that ``optimistic`` stops a trial that would have ended on the front.
    """

    rule: str = "none"
    max_killed: float = 0.05
    eta: int = 3
    rungs: tuple[float, ...] = GEOMETRIC

    def check(self) -> Stopping:
        """Itself. Raises StoppingError naming the first field that cannot be."""
        if not isinstance(self.rule, str) or self.rule not in RULES:
            raise StoppingError(f"unknown stopping rule {self.rule!r}; {suggest(str(self.rule), RULES)}")
        if not (_is_number(self.max_killed) and 0 < self.max_killed <= 0.5):
            raise StoppingError(f"max_killed must be a share above 0 and up to 0.5, got {self.max_killed!r}")
        if not (isinstance(self.eta, int) and not isinstance(self.eta, bool) and self.eta >= 2):
            raise StoppingError(f"eta must be a whole number of at least 2, got {self.eta!r}")
        if not self.rungs or not all(_is_number(share) and 0 < share < 1 for share in self.rungs):
            raise StoppingError(f"rungs must be shares of the epochs between 0 and 1, got {self.rungs!r}")
        return self

    @classmethod
    def from_setting(cls, setting: Any) -> Stopping:
        """From a space file: a rule's name, or a mapping of this class's fields. Raises StoppingError."""
        data = {"rule": setting} if isinstance(setting, str) else setting
        if not isinstance(data, Mapping):
            raise StoppingError(f"stopping must be a rule's name or a mapping, got {setting!r}")
        known = cls.__dataclass_fields__
        for name in data:
            if name not in known:
                raise StoppingError(f"unknown stopping setting {name!r}; {suggest(str(name), known)}")
        rungs = data.get("rungs", cls.rungs)
        return cls(**{**data, "rungs": tuple(rungs) if isinstance(rungs, (list, tuple)) else (rungs,)}).check()

    def changed(self, **settings: Any) -> Stopping:
        """With the settings that are not None. Raises StoppingError, also for one that the rule does not read."""
        asked = {name: value for name, value in settings.items() if value is not None}
        stopping = dataclasses.replace(self, **asked).check()
        for name in asked:
            if name not in ("rule", *RULES[stopping.rule].settings):
                readers = ", ".join(rule for rule, built in RULES.items() if name in built.settings)
                raise StoppingError(f"{name} is a setting of the stopping rule {readers}, not of {stopping.rule!r}")
        return stopping

    def to_dict(self) -> dict[str, Any]:
        """For study.json: the rule with the settings that it reads. The rungs stand there by themselves."""
        return {"rule": self.rule, **{name: getattr(self, name) for name in RULES[self.rule].settings}}

    def epochs_of(self, epochs: int) -> tuple[int, ...]:
        """The rungs of a training of this many epochs, each at least 1 and below the last."""
        return geometric_rungs(epochs, self.rungs)


@dataclass(frozen=True)
class Basis:
    """What a rule is built on: the settings, the objectives it judges by, the epochs it is asked at."""

    stopping: Stopping
    objectives: tuple[Objective, ...]
    rungs: tuple[int, ...]
    epochs: int

    def costs(self, metrics: Mapping[str, float]) -> list[float] | None:
        """The objectives besides accuracy, all known before training, lower is better; None if one is missing."""
        losses = [objective.loss(metrics) for objective in self.objectives if objective.metric != ACCURACY]
        costs = [loss for loss in losses if loss is not None]
        return costs if len(costs) == len(losses) else None


def make_rule(stopping: Stopping, objectives: Sequence[Objective], epochs: int) -> StoppingRule:
    """The rule that was asked for. Raises StoppingError if it cannot judge by these objectives."""
    stopping.check()
    if stopping.rule != "none" and ACCURACY not in [objective.metric for objective in objectives]:
        raise StoppingError(f"stopping {stopping.rule!r} judges by {ACCURACY}, which is none of the objectives")
    return RULES[stopping.rule](Basis(stopping, tuple(objectives), stopping.epochs_of(epochs), epochs))


class NeverStop:
    """Every trial is trained to its end."""

    settings: ClassVar[tuple[str, ...]] = ()
    compares: ClassVar[tuple[type, ...]] = ()

    def __init__(self, basis: Basis | None = None) -> None:
        pass

    def observe(self, event: Event) -> None:
        """See ``StoppingRule``."""

    def decide(self, rung: Rung) -> Verdict:
        """See ``StoppingRule``."""
        return Verdict()


class Asha:
    """Successive halving without waiting (Li et al. 2020), on accuracy alone: it favours large and fast learners."""

    settings: ClassVar[tuple[str, ...]] = ("eta",)
    compares: ClassVar[tuple[type, ...]] = (Rung,)

    def __init__(self, basis: Basis) -> None:
        self._basis = basis
        self._seen: dict[tuple[int, int], list[float]] = defaultdict(list)

    def observe(self, event: Event) -> None:
        """See ``StoppingRule``."""
        accuracy = _accuracy(event)
        if isinstance(event, Rung) and accuracy is not None:
            self._seen[(self.bracket(event.trial), event.epoch)].append(accuracy)

    def decide(self, rung: Rung) -> Verdict:
        """See ``StoppingRule``. Ties go on; so does what has no accuracy: its failure is not this rule's business."""
        accuracy, bracket = _accuracy(rung), self.bracket(rung.trial)
        if accuracy is None or rung.epoch not in self._basis.rungs[bracket:]:
            return Verdict()
        others = np.array(self._seen[(bracket, rung.epoch)])
        return _keep_best(int((others > accuracy).sum()), len(others) + 1, self._basis.stopping.eta)

    def bracket(self, trial: int) -> int:
        """The trials that a trial is compared with. Bracket b is judged from rung b on; here all are in one."""
        return 0


class Hyperband(Asha):
    """``Asha`` in brackets (Li et al. 2018): each starts to judge one rung later, the last one never does.

    A trial's bracket follows from its number. Brackets are dealt out evenly along the numbers, the more often the
    earlier they judge, so that they would spend alike if every trial ended where it is first judged.
    """

    def bracket(self, trial: int) -> int:
        """See ``Asha.bracket``."""
        shares = 1.0 / np.array([*self._basis.rungs, self._basis.epochs])
        return int(np.searchsorted(shares.cumsum() / shares.sum(), (trial * _GOLDEN) % 1.0, side="right"))


class ParetoRank:
    """Goes on when its non-domination rank in accuracy so far and the known costs is in the best 1/eta of the rung."""

    settings: ClassVar[tuple[str, ...]] = ("eta",)
    compares: ClassVar[tuple[type, ...]] = (Rung,)

    def __init__(self, basis: Basis) -> None:
        self._basis = basis
        self._seen: dict[int, list[list[float]]] = defaultdict(list)

    def observe(self, event: Event) -> None:
        """See ``StoppingRule``."""
        point = self._point(event) if isinstance(event, Rung) else None
        if isinstance(event, Rung) and point is not None:
            self._seen[event.epoch].append(point)

    def decide(self, rung: Rung) -> Verdict:
        """See ``StoppingRule``."""
        point = self._point(rung)
        if point is None or rung.epoch not in self._basis.rungs:
            return Verdict()
        ranks = pareto_ranks([*self._seen[rung.epoch], point])
        return _keep_best(int((ranks < ranks[-1]).sum()), len(ranks), self._basis.stopping.eta)

    def _point(self, rung: Rung) -> list[float] | None:
        accuracy, costs = _accuracy(rung), self._basis.costs(rung.metrics)
        return None if accuracy is None or costs is None else [-accuracy, *costs]


class Optimistic:
    """Stops a trial only when even its optimistic final accuracy is beaten at its cost by a finished trial.

    A trial that could end on the front in any of the objectives goes on, as does every trial while too few have
    finished to tell. What is promised, and how, is in ``curves.forecast_final``. Measured on curves that cross
    (benchmarks/early_stopping.py), where rules that compare trials at a rung lose the front's large, slow learners.
    """

    settings: ClassVar[tuple[str, ...]] = ("max_killed",)
    compares: ClassVar[tuple[type, ...]] = (Finished,)

    def __init__(self, basis: Basis) -> None:
        self._basis = basis
        self._seen: dict[int, dict[int, float]] = defaultdict(dict)
        self._curves = Curves(len(basis.rungs), len(basis.objectives) - 1)

    def observe(self, event: Event) -> None:
        """See ``StoppingRule``."""
        accuracy = _accuracy(event)
        if isinstance(event, Rung) and accuracy is not None:
            self._seen[event.trial][event.epoch] = accuracy
        elif isinstance(event, Finished):
            seen = self._up_to(self._seen.pop(event.trial, {}), None)
            costs, log_macs = self._basis.costs(event.metrics), _log_macs(event.metrics)
            if event.status == "ok" and None not in (accuracy, seen, costs, log_macs):
                self._curves.add(seen, accuracy, log_macs, costs)  # type: ignore[arg-type]

    def decide(self, rung: Rung) -> Verdict:
        """See ``StoppingRule``."""
        accuracy, costs, log_macs = _accuracy(rung), self._basis.costs(rung.metrics), _log_macs(rung.metrics)
        if accuracy is None or costs is None or log_macs is None or rung.epoch not in self._basis.rungs:
            return Verdict()
        seen = self._up_to({**self._seen.get(rung.trial, {}), rung.epoch: accuracy}, rung.epoch)
        forecast = forecast_final(self._curves, seen, log_macs, self._basis.stopping.max_killed) if seen else None
        if forecast is None:
            return Verdict()
        beaten = self._curves.best_within(costs) > forecast.optimistic
        why = {"expected_accuracy": round(forecast.expected, 6), "optimistic_accuracy": round(forecast.optimistic, 6)}
        return Verdict("stop" if beaten else "continue", why)

    def _up_to(self, seen: Mapping[int, float], last: int | None) -> list[float] | None:
        """The accuracies at the rungs up to ``last`` (None: at all); None if one is missing."""
        rungs = [epoch for epoch in self._basis.rungs if last is None or epoch <= last]
        return [seen[epoch] for epoch in rungs] if all(epoch in seen for epoch in rungs) else None


def _keep_best(better: int, count: int, eta: int) -> Verdict:
    """Go on among the best 1/eta of ``count`` results, of which ``better`` are better. Too few results cut nobody."""
    stops = count >= eta and better >= count / eta
    return Verdict("stop" if stops else "continue", {"rung_better": better, "rung_results": count})


def _accuracy(event: Event) -> float | None:
    value = event.metrics.get(ACCURACY, math.nan) if isinstance(event, (Rung, Finished)) else math.nan
    return float(value) if math.isfinite(value) else None


def _log_macs(metrics: Mapping[str, float]) -> float | None:
    macs = metrics.get("macs", 0.0)
    return math.log10(macs) if math.isfinite(macs) and macs > 0 else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


RULES: dict[str, type[NeverStop | Asha | ParetoRank | Optimistic]] = {
    "none": NeverStop,
    "asha": Asha,
    "hyperband": Hyperband,
    "pareto_rank": ParetoRank,
    "optimistic": Optimistic,
}
