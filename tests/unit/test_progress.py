"""What a person sees while a study runs, line by line; its status, read from the ledger, says the same."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from crossvit_core import PRESETS
from results.records import Finished, Status
from results.store import StudyStore
from search.list_searcher import ListedTrial, ListSearcher, name_runs
from search.progress import SearchProgress
from search.session import Session
from search.status import describe_status, read_status
from search.trial import Trial

BASE = PRESETS["crossvit_nano_16"]
MACS_LIMIT = 1_000_000


class Watched:
    """A study driven by hand, its clock too, with its progress written as into a log.

    ``sources`` are those of a list that it trains; without any it is a search.
    """

    def __init__(self, store: StudyStore, trials: int, sources: Sequence[str]) -> None:
        self.now = 1000.0
        self.path = store.path
        items = [
            ListedTrial(BASE.replace(num_classes=n + 2), n, source)
            for n, source in enumerate(sources or ["tpe"] * trials)
        ]
        self._text = io.StringIO()
        self.progress = SearchProgress(Console(file=self._text, width=300), name_runs(items) if sources else ())
        self.session = Session(
            store, ListSearcher(items), trials=trials, seed=0, listeners=[self.progress], clock=lambda: self.now
        )
        self.progress.open(self.session)

    def ask(self, count: int = 1) -> list[Trial]:
        trials = [self.session.next_trial() for _ in range(count)]
        return [trial for trial in trials if trial is not None]

    def end(self, trial: Trial, status: Status = "ok", seconds: float = 26.0, **found: float) -> None:
        metrics = {"val_accuracy": 0.9, **found}
        about = {"arch_key": trial.arch_key, "arch": trial.arch.to_dict(), "seed": trial.seed, "device": "cpu"}
        self.session.record(Finished(trial=trial.number, status=status, seconds=seconds, metrics=metrics, **about))  # type: ignore[arg-type]

    @property
    def lines(self) -> list[str]:
        return self._text.getvalue().splitlines()

    def status_lines(self) -> list[str]:
        return [line.strip() for line in describe_status(read_status(self.path, clock=self.now))]


Watch = Callable[..., Watched]


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    """Runs study 's' as a new process would: the one before is closed first."""
    with contextlib.ExitStack() as stores:

        def watch_one(trials: int = 4, sources: Sequence[str] = (), **study: object) -> Watched:
            stores.close()
            path, limits = tmp_path / "s", {"macs": {"min": None, "max": MACS_LIMIT}}
            described = {"trials": trials, "space": {"limits": limits}, **study}
            store = StudyStore.open(path) if StudyStore.exists(path) else StudyStore.create(path, described)
            return Watched(stores.enter_context(store), trials, sources)

        yield watch_one


@pytest.mark.parametrize("macs", [{}, {"macs": float("inf")}])
def test_progress_and_status_have_one_standing(watch: Watch, macs: dict[str, float]) -> None:
    """Also of an outcome whose FLOPs are unknown: its accuracy is the best, its volume none."""
    study = watch()
    first, second, third = study.ask(3)
    study.end(first, val_accuracy=0.99, **macs)
    study.end(second, val_accuracy=0.9, macs=10_000.0)
    study.end(third, "stopped", val_accuracy=0.999, macs=10_000.0)
    assert "best 99.0 %  hypervolume 1.800" in study.lines[-1]
    assert "best accuracy: 99.0 %; hypervolume 1.800" in study.status_lines()


def test_progress_and_status_agree_on_the_time_left(watch: Watch) -> None:
    """Two workers, ready after 14 seconds; a process that goes on with it counts for itself."""
    study = watch(trials=6)
    running = study.ask(2)
    study.now += 40.0
    study.end(running[0])
    assert "left" not in study.lines[-1]
    running += study.ask()
    study.end(running[1])
    assert study.lines[-1].endswith("80 s left")
    assert "pace: 3 trials a minute, 80 s left" in study.status_lines()
    again = watch(trials=6)
    [second] = again.ask()
    assert not any("pace" in line for line in again.status_lines())
    again.now += 10.0
    again.end(second)
    assert again.lines[-1].endswith("30 s left")
    assert "pace: 6 trials a minute, 30 s left" in again.status_lines()


@pytest.mark.parametrize(
    ("study", "sources", "names"),
    [
        ({"retrain_of": "t"}, ("trial:3", "trial:12") * 2, ("trial 3, run 1 of 2 ", "trial 12, run 2 of 2")),
        ({"ablation": {}}, ("variant:none", "variant:pairwise") * 2, ("none, run 1 of 2    ", "pairwise, run 2 of 2")),
    ],
)
def test_runs_of_a_list_have_names_and_no_front(
    watch: Watch, study: dict[str, object], sources: tuple[str, ...], names: tuple[str, str]
) -> None:
    """The best of them is one run, of which the report shows the mean with others."""
    watched = watch(sources=sources, **study)
    first, _, _, last = watched.ask(4)
    watched.end(first, val_accuracy=0.665, macs=10_000.0)
    watched.end(last, val_accuracy=0.5, macs=1_000.0)
    for line, number, name in zip(watched.lines[-2:], "12", names):
        assert line.startswith(f"[{number}/4] {name}  ")
        assert line.endswith("  | best single run 66.5 %")
    assert "best single run: 66.5 %" in watched.status_lines()
    assert "hypervolume" not in "\n".join([*watched.lines, *watched.status_lines()])


def test_a_run_beyond_a_list_that_became_shorter_has_its_number(watch: Watch) -> None:
    watch(sources=("variant:none", "variant:pairwise") * 2, ablation={}).ask(4)
    again = watch(trials=2, sources=("variant:none", "variant:pairwise"), ablation={})
    again.end(again.ask(4)[3])
    assert again.lines[-1].startswith("[1/4] #3 ")


def test_only_what_is_not_over_goes_on(watch: Watch) -> None:
    study = watch(trials=2)
    study.end(*study.ask())
    study = watch(trials=2)
    assert study.lines == ["going on: 1 of 2 trials are done"]
    study.end(*study.ask())
    assert watch(trials=2).lines == ["2 of 2 trials are done"]
    assert watch(trials=1).lines == ["2 of 2 trials are done"]
