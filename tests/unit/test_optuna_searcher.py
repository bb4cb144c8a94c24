"""Every sampler through the same contract: feasible, never twice, the same after a restart."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crossvit_core.config import FUSION_NAMES, ArchConfig
from crossvit_core.recipe import TrainRecipe
from results.records import Asked, Finished
from results.store import StudyStore
from search.objectives import find_objectives
from search.optuna_searcher import SAMPLERS, OptunaSearcher
from search.plan import Plan, geometric_rungs
from search.session import Session
from search.synthetic import SyntheticEvaluation
from search.trial import derive_seed
from space import Dimension, Limit, Space, load_space

OBJECTIVES = find_objectives(("val_accuracy", "macs"))
PLAN = Plan(TrainRecipe(), Path("unused"), None)
NUM_TRIALS = {"gp": 12}


@pytest.fixture(scope="module")
def space() -> Space:
    return load_space("small").space


def make_searcher(space: Space, sampler: str, **options: object) -> OptunaSearcher:
    settings = {"sampler": sampler, "trials": 30, "seed": 7, **options}
    return OptunaSearcher(space, OBJECTIVES, **settings)  # type: ignore[arg-type]


def run(session: Session) -> list[str]:
    """Drive a session to its end in this process; keys in the order asked."""
    keys = []
    evaluate = SyntheticEvaluation()
    while (trial := session.next_trial()) is not None:
        keys.append(trial.arch_key)
        for event in evaluate(trial, PLAN):
            session.record(event) if isinstance(event, Finished) else session.report(event)
    return keys


OpenSession = Callable[[str, OptunaSearcher, int], Session]


@pytest.fixture
def open_session(tmp_path: Path) -> Iterator[OpenSession]:
    """Opens a study's session as a new process would: the one before is closed first."""
    with contextlib.ExitStack() as stores:

        def open_one(name: str, searcher: OptunaSearcher, trials: int) -> Session:
            stores.close()
            path = tmp_path / name
            store = StudyStore.open(path) if StudyStore.exists(path) else StudyStore.create(path, {})
            return Session(stores.enter_context(store), searcher, trials=trials, seed=7)

        yield open_one


def asked_events(path: Path) -> list[Asked]:
    return [event for event in StudyStore.open_readonly(path).events() if isinstance(event, Asked)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_resumed_search_goes_on_as_an_unbroken_one(
    sampler: str, space: Space, open_session: OpenSession, tmp_path: Path
) -> None:
    trials = NUM_TRIALS.get(sampler, 30)
    whole = open_session("whole", make_searcher(space, sampler), trials)
    expected = run(whole)
    assert len(set(expected)) == trials
    for cut in (3, trials - 5, trials):
        part = open_session("parts", make_searcher(space, sampler), cut)
        run(part)
    asked = asked_events(tmp_path / "parts")
    assert [event.arch_key for event in asked] == expected
    for event in asked:
        assert space.validate(ArchConfig.from_dict(event.arch)) == []


def test_sources_say_who_proposed(space: Space, open_session: OpenSession, tmp_path: Path) -> None:
    preset = space.decode(tuple(0 for _ in space.dimensions))
    searcher = make_searcher(space, "tpe", enqueued=[("mine", preset)])
    session = open_session("s", searcher, 12)
    run(session)
    asked = asked_events(tmp_path / "s")
    assert [event.source for event in asked] == ["preset:mine"] + ["start"] * 6 + ["tpe"] * 5
    assert asked[0].arch_key == preset.key()


def test_the_start_is_spread_over_flops_and_fusions(space: Space) -> None:
    from crossvit_core.cost import count_cost

    searcher = make_searcher(space, "random", trials=80)
    macs, fusions = [], []
    for number in range(16):
        proposal = searcher.ask(number, set())
        assert proposal is not None
        assert proposal.source == "start"
        macs.append(count_cost(proposal.arch).macs)
        fusions.append(proposal.arch.encoders[0].fusion)
    assert max(macs) > 20 * min(macs)
    assert min(fusions.count(name) for name in FUSION_NAMES) >= 2


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_a_small_space_is_exhausted_without_a_repeat(sampler: str, open_session: OpenSession) -> None:
    base = load_space("smoke").space.base
    dimensions = (
        Dimension("branches.0.embed_dim", (8, 16, 24)),
        Dimension("encoders.*.fusion", ("none", "class_token", "pairwise", "cross_attention")),
    )
    space = Space("tiny", base, dimensions)
    session = open_session("s", make_searcher(space, sampler), 50)
    keys = run(session)
    assert len(keys) == len(set(keys)) == len({space.decode(v).key() for v in space.vectors()}) == 12
    assert "every architecture" in session.stop_reason


def test_a_narrow_window_is_always_met(open_session: OpenSession) -> None:
    small = load_space("small").space
    space = Space("narrow", small.base, small.dimensions, (Limit("macs", 100_000, 120_000),))
    session = open_session("s", make_searcher(space, "tpe"), 12)
    run(session)
    assert len(session.outcomes) == 12
    assert all(100_000 <= o.metrics["macs"] <= 120_000 for o in session.outcomes)


def test_failed_and_infinite_outcomes_do_not_stop_the_sampler(space: Space) -> None:
    searcher = make_searcher(space, "tpe")
    taken: set[str] = set()
    for number, (status, accuracy) in enumerate(
        [("failed", 0.5), ("ok", float("nan")), ("lost", 0.1), ("stopped", 0.4)] * 4
    ):
        proposal = searcher.ask(number, taken)
        assert proposal is not None
        taken.add(proposal.arch.key())
        searcher.tell(
            Finished(
                trial=number,
                status=status,  # type: ignore[arg-type]
                arch_key=proposal.arch.key(),
                arch=proposal.arch.to_dict(),
                seed=0,
                seconds=0.0,
                device="cpu",
                metrics={"val_accuracy": accuracy, "macs": 1.0},
            )
        )
    assert len(taken) == 16


def test_an_unknown_sampler_is_named(space: Space) -> None:
    with pytest.raises(ValueError, match="unknown sampler 'tpee'; did you mean 'tpe'"):
        make_searcher(space, "tpee")


def test_derived_seeds_are_fixed_for_ever() -> None:
    assert derive_seed(0, 1) == derive_seed(0, 1)
    assert derive_seed(0, 1) != derive_seed(1, 0)
    assert derive_seed("a") == 1699463305


def test_rungs_are_an_eighth_a_quarter_and_a_half() -> None:
    assert geometric_rungs(20) == (2, 5, 10)
    assert geometric_rungs(2) == (1,)
    assert geometric_rungs(1) == ()
