"""All that a report tells of, read from a study's folder in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from results.baselines import load_baselines
from results.decision import Decision, load_decision
from results.described import mapping, objective_names, primary_cost, upper_limit, validation_images
from results.frame import build_frame, complete, front
from results.importance import Importance, assess_importance, read_dimensions
from results.memory import READ, check_fits
from results.metrics import ACCURACY, COSTS, cost_metric
from results.quantization import add_origin, latest_points, load_quantized
from results.records import Asked, Ended, Event, Rung
from results.repeats import RUNS, describe_stranger, find_retraining, fold_repeats
from results.rung_curves import RungCurves
from results.store import StudyStore
from results.test_ledger import read_look
from results.timings import read_timings, timed_rows, with_timings


class Findings:
    """The study as asked, what it ran on, its trials, and the front over its cost.

    ``frame`` has a row a trial, ``points`` a row an architecture where one was trained more than once, ``timed`` the
    same with the throughput of ``bench`` where there is one (``timings``, by arch_key), ``members`` the front among
    these, ``retrained`` a row a finalist of the retraining, ``quantized`` a row a quantised point of the weights that
    a trial was quantised with last; ``stranger`` says what has the retraining's name and is none.
    ``rungs`` are (epoch, accuracy) of each trial; ``settings`` the dimensions' values, by arch_key. ``ended`` says why
    the search ended; it is empty while it has not. ``look`` is the one at the test split, if there was one.
    """

    def __init__(self, study_dir: Path, study: dict[str, Any], environment: dict[str, Any], log: EventLog) -> None:
        self.study_dir, self.study, self.environment = study_dir, study, environment
        self.frame = build_frame(log.read())
        self.points = fold_repeats(self.frame)
        self.cost = cost_metric(primary_cost(study))
        self.timings = read_timings(study_dir, self.frame)
        self.timed = with_timings(self.points, self.timings)
        self.members = self.front_over(self.cost.name)
        self.rungs, self.settings, self.ended = log.rungs, log.settings(), log.ended
        self.baselines: list[Mapping[Any, Any]] = [*load_baselines(study_dir).to_dict("records")]
        self.retrained, self.stranger = read_retrained(study_dir), describe_stranger(study_dir)
        self.quantized = add_origin(latest_points(load_quantized(study_dir)), study_dir)
        self.look = read_look(study_dir)

    @property
    def name(self) -> str:
        """The folder's: commands know a study by it, also after it was copied or renamed."""
        return self.study_dir.name

    def front_over(self, cost: str) -> pd.DataFrame:
        """The front over a cost. Over throughput it is among what was timed alone, once that holds all who could be
        on it by the search's own timings: those of others are from busier times, and on no front beside these.
        """
        alone = cost == "throughput_ips" and self._was_front_timed
        return front(timed_rows(self.timed, self.timings) if alone else self.timed, cost)

    @cached_property
    def _was_front_timed(self) -> bool:
        own = front(self.points, "throughput_ips")
        return 0 < len(own) == len(timed_rows(own, self.timings))

    def count(self, status: str) -> int:
        return int((self.frame["status"] == status).sum())

    def limit(self, metric: str) -> float | None:
        """The space's upper bound on a metric, if it has one."""
        return upper_limit(self.study, metric)

    @property
    def num_architectures(self) -> int:
        """How many different ones were tried. One that has no key is taken for different from all others."""
        keys = self.frame["arch_key"]
        return int(keys[keys != ""].nunique() + (keys == "").sum())

    @property
    def has_repeats(self) -> bool:
        return bool((self.points[RUNS] > 1).any())

    @cached_property
    def decision(self) -> Decision | None:
        """What fresh seeds say of the finalists; None before there are any."""
        frame = with_timings(self.frame, self.timings)
        return load_decision(self.study_dir, frame, validation_images(self.study), self.look)

    @cached_property
    def importance(self) -> dict[str, Importance]:
        """By metric: the accuracy, then the costs of the study; those left out for which there is too little."""
        costs = [name for name in COSTS if name in {self.cost.name, *self.objectives}]
        found = {name: self._assess(name) for name in (ACCURACY, *costs)}
        return {name: importance for name, importance in found.items() if importance is not None}

    @property
    def objectives(self) -> list[str]:
        return objective_names(self.study)

    def _assess(self, metric: str) -> Importance | None:
        rows = complete(self.points, self.cost.name if metric == ACCURACY else metric)
        values = rows[metric].to_numpy(dtype=float)
        target = values if metric == ACCURACY else np.array([COSTS[metric].log_cost(value) for value in values])
        known = np.isfinite(target) & rows["arch_key"].isin(self.settings.index).to_numpy()
        return assess_importance(self.settings.loc[rows["arch_key"][known]], target[known])


class EventLog:
    """The events of a ledger, passed on one by one; what a table of trials has no place for is noted on the way."""

    def __init__(self, events: Iterable[Event], dimensions: list[str]) -> None:
        self._events, self._dimensions = events, dimensions
        self._settings: dict[str, tuple[Any, ...]] = {}
        self.rungs = RungCurves()
        self.ended = ""

    def read(self) -> Iterator[Event]:
        for event in self._events:
            self.ended = event.reason if isinstance(event, Ended) else ""
            if isinstance(event, Rung) and ACCURACY in event.metrics:
                self.rungs.add(event.trial, event.epoch, event.metrics[ACCURACY])
            elif isinstance(event, Asked) and event.arch_key not in self._settings:
                self._settings[event.arch_key] = read_dimensions(event.arch, self._dimensions)
            yield event

    def settings(self) -> pd.DataFrame:
        return pd.DataFrame.from_dict(self._settings, orient="index", columns=self._dimensions)


def load_findings(study_dir: Path) -> Findings:
    """All that a report tells of. Raises StoreError if there is none that this version and this machine can read."""
    store = StudyStore.open_readonly(study_dir)
    check_fits(study_dir, READ, "a report")
    study = store.study
    dimensions = [str(path) for path in mapping(mapping(study.get("space")).get("dimensions"))]
    return Findings(study_dir, study, store.environment, EventLog(store.events(), dimensions))


def read_retrained(study_dir: Path) -> pd.DataFrame:
    """The finalists that were trained again on fresh seeds, in the study beside this one: see ``fold_repeats``."""
    path = find_retraining(study_dir)
    frame = build_frame(StudyStore.open_readonly(path).events() if path is not None else ())
    folded = fold_repeats(frame[frame["status"] == "ok"])
    return folded[np.isfinite(folded[ACCURACY])].sort_values(["macs", "trial"])


def number(value: Any) -> float:
    """The value as a number; NaN if it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
