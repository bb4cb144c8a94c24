"""Every sampler through the same contract: feasible, never twice, the same after a restart."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from crossvit_core.config import FUSION_NAMES, ArchConfig
from crossvit_core.cost import count_cost
from crossvit_core.recipe import TrainRecipe
from results.records import Asked, Event, Finished
from results.store import StudyStore
from search.objectives import find_objectives
from search.optuna_searcher import SAMPLERS, OptunaSearcher
from search.plan import Plan, geometric_rungs
from search.session import Session
from search.start import start_vectors
from search.synthetic import SyntheticEvaluation
from search.trial import derive_seed
from space import Dimension, Limit, Space, SpaceError, load_space

OBJECTIVES = find_objectives(("val_accuracy", "macs"))
PLAN = Plan(TrainRecipe(), Path("unused"), None)
GP_WHEN_SLOW = [pytest.param(name, marks=pytest.mark.slow) if name == "gp" else name for name in SAMPLERS]


@pytest.fixture(scope="module")
def space() -> Space:
    return load_space("small").space


@pytest.fixture(scope="module")
def smoke() -> Space:
    return load_space("smoke").space


@pytest.fixture
def searched(sampler: str, space: Space, smoke: Space) -> Space:
    """The space for a sampler: one that tries everything needs a small one."""
    return smoke if sampler == "brute_force" else space


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


def drive(session: Session, workers: int, seed: int) -> None:
    """Drive a session to its end as if by workers of random speed."""
    rng = random.Random(seed)
    running: list[Finished] = []
    while not session.is_over():
        while len(running) < workers and (trial := session.next_trial()) is not None:
            running.append(next(event for event in SyntheticEvaluation()(trial, PLAN) if isinstance(event, Finished)))
        if running:
            session.record(running.pop(rng.randrange(len(running))))


OpenSession = Callable[..., Session]


@pytest.fixture
def open_session(tmp_path: Path) -> Iterator[OpenSession]:
    """Opens a study's session as a new process would: the one before is closed first."""
    with contextlib.ExitStack() as stores:

        def open_one(name: str, searcher: OptunaSearcher, trials: int, round_size: int = 0) -> Session:
            stores.close()
            path = tmp_path / name
            store = StudyStore.open(path) if StudyStore.exists(path) else StudyStore.create(path, {})
            return Session(stores.enter_context(store), searcher, trials=trials, seed=7, round_size=round_size)

        yield open_one


def asked_events(path: Path) -> list[Asked]:
    return [event for event in StudyStore.open_readonly(path).events() if isinstance(event, Asked)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_resumed_search_goes_on_as_an_unbroken_one(
    sampler: str, searched: Space, open_session: OpenSession, tmp_path: Path
) -> None:
    trials = 30
    whole = open_session("whole", make_searcher(searched, sampler), trials)
    expected = run(whole)
    assert len(set(expected)) == trials
    for cut in (3, trials - 2, trials):
        part = open_session("parts", make_searcher(searched, sampler), cut)
        run(part)
    asked = asked_events(tmp_path / "parts")
    assert [event.arch_key for event in asked] == expected
    for event in asked:
        assert searched.validate(ArchConfig.from_dict(event.arch)) == []


def play(searcher: OptunaSearcher, events: list[Event], restored: int) -> list[str]:
    """Show a searcher the first events as a restart does, then ask it for the others; keys as asked."""
    keys, taken = [], set()
    for index, event in enumerate(events):
        if isinstance(event, Finished):
            searcher.tell(event)
        elif isinstance(event, Asked) and index < restored:
            searcher.restore(event)
            keys.append(event.arch_key)
            taken.add(event.arch_key)
        elif isinstance(event, Asked):
            proposal = searcher.ask(event.trial, taken)
            assert proposal is not None
            keys.append(proposal.arch.key())
            taken.add(keys[-1])
    return keys


@pytest.mark.parametrize("sampler", GP_WHEN_SLOW)
def test_the_ledger_of_three_workers_can_be_played_again(
    sampler: str, searched: Space, open_session: OpenSession, tmp_path: Path
) -> None:
    """What is proposed follows from the order in which trials were asked and told, and that order is on record.

    Also from the middle, with trials running: of what a sampler does, nothing is lost with its process.
    """
    drive(open_session("s", make_searcher(searched, sampler), 40), workers=3, seed=1)
    events = list(StudyStore.open_readonly(tmp_path / "s").events())
    expected = [event.arch_key for event in events if isinstance(event, Asked)]
    told = [event.trial for event in events if isinstance(event, Finished)]
    assert told != sorted(told)
    for restored in (0, len(events) // 2, len(events) - 6):
        assert play(make_searcher(searched, sampler), events, restored) == expected


@pytest.mark.parametrize("sampler", GP_WHEN_SLOW)
def test_in_rounds_the_speed_of_workers_changes_nothing(
    sampler: str, searched: Space, open_session: OpenSession, tmp_path: Path
) -> None:
    trials = 32
    for name, seed in (("a", 1), ("b", 2)):
        drive(open_session(name, make_searcher(searched, sampler), trials, round_size=3), workers=3, seed=seed)
    for part in (trials // 2, trials):
        drive(open_session("c", make_searcher(searched, sampler), part, round_size=3), workers=3, seed=3)
    keys = {name: [event.arch_key for event in asked_events(tmp_path / name)] for name in "abc"}
    assert keys["a"] == keys["b"] == keys["c"]
    values = [finished_metrics(tmp_path / name) for name in "abc"]
    assert values[0] == values[1] == values[2]
    assert len(values[0]) == trials


def finished_metrics(path: Path) -> dict[int, dict[str, float]]:
    events = StudyStore.open_readonly(path).events()
    return {event.trial: event.metrics for event in events if isinstance(event, Finished)}


def test_sources_say_who_proposed(space: Space, open_session: OpenSession, tmp_path: Path) -> None:
    session = open_session("s", make_searcher(space, "tpe"), 12)
    run(session)
    assert [event.source for event in asked_events(tmp_path / "s")] == ["start"] * 6 + ["tpe"] * 6


def test_what_others_propose_does_not_shorten_the_start(space: Space) -> None:
    """An architecture that was enqueued in the middle takes a number, not a place of the start."""
    alone, disturbed = make_searcher(space, "random"), make_searcher(space, "random")
    expected = [alone.ask(number, set()) for number in range(6)]
    arch = space.decode(tuple(0 for _ in space.dimensions))
    for number in range(7):
        if number == 2:
            asked = Asked(trial=2, arch_key=arch.key(), arch=arch.to_dict(), seed=0, source="enqueued:mine")
            disturbed.restore(asked)
        else:
            proposal = disturbed.ask(number, {arch.key()})
            before = expected[number - (number > 2)]
            assert proposal is not None and before is not None
            assert (proposal.source, proposal.arch) == ("start", before.arch)


def test_the_start_is_spread_over_flops_and_fusions(space: Space) -> None:
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


FUSIONS = ("none", "class_token", "pairwise", "cross_attention")


def keys_of(space: Space) -> set[str]:
    return {space.decode(vector).key() for vector in space.vectors()}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_small_space_is_exhausted_without_a_repeat(sampler: str, smoke: Space, open_session: OpenSession) -> None:
    dimensions = (Dimension("branches.0.embed_dim", (8, 16, 24)), Dimension("encoders.*.fusion", FUSIONS))
    space = Space("tiny", smoke.base, dimensions)
    session = open_session("s", make_searcher(space, sampler), 50)
    keys = run(session)
    assert len(keys) == len(set(keys)) == len(keys_of(space)) == 12
    assert session.is_over()
    assert "every architecture" in session.stop_reason


@pytest.mark.parametrize("sampler", SAMPLERS)
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_small_space_with_a_limit_is_tried_once_and_whole(sampler: str, smoke: Space, data: st.DataObject) -> None:
    """Feasible, never twice, and to the last member, whatever the choices and wherever the limit cuts."""
    widths = data.draw(st.lists(st.sampled_from((4, 8, 12, 16, 20, 24)), min_size=1, max_size=4, unique=True))
    fusions = data.draw(st.lists(st.sampled_from(FUSION_NAMES), min_size=1, max_size=3, unique=True))
    depths = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True))
    paths = {"branches.*.embed_dim": widths, "encoders.*.fusion": fusions, "encoders.*.depths.1": depths}
    counts = {"num_encoders": [1, 2]} if data.draw(st.booleans()) else {}
    dimensions = tuple(Dimension(path, tuple(choices)) for path, choices in {**counts, **paths}.items())
    free = Space("free", smoke.base, dimensions)
    macs = sorted(count_cost(free.decode(vector)).macs for vector in free.vectors())
    assume(macs)  # without depth and without a fusion that reads it, a branch leaves no member
    space = Space("limited", smoke.base, dimensions, (Limit("macs", None, data.draw(st.sampled_from(macs))),))
    searcher = make_searcher(space, sampler, trials=20)
    taken: set[str] = set()
    while (proposal := searcher.ask(len(taken), taken)) is not None:
        assert space.validate(proposal.arch) == []
        assert proposal.arch.key() not in taken
        taken.add(proposal.arch.key())
        # One runs beside the one that is asked, and one in five fails.
        if len(taken) > 1:
            number = len(taken) - 2
            accuracy = 0.5 + 0.001 * (number * 7919 % 100)
            status = "failed" if number % 5 == 4 else "ok"
            searcher.tell(outcome(number, proposal.arch, status, accuracy, count_cost(proposal.arch).macs))
    assert taken == keys_of(space)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp"])
def test_a_starred_path_beside_one_of_its_places_is_searched_whole(
    sampler: str, smoke: Space, open_session: OpenSession
) -> None:
    dimensions = (
        Dimension("num_encoders", (1, 2, 3)),
        Dimension("encoders.*.fusion", ("none", "cross_attention")),
        Dimension("encoders.0.fusion", ("none", "cross_attention", "pairwise")),
    )
    space = Space("overlapping", smoke.base, dimensions)
    keys = run(open_session("s", make_searcher(space, sampler), 20))
    assert len(keys) == len(set(keys)) == len(keys_of(space)) == 3 + 6 + 6


WIDTHS = tuple(range(8, 40, 4))
WIDE = (
    Dimension("num_encoders", (1, 2, 3)),
    Dimension("branches.0.embed_dim", WIDTHS),
    Dimension("branches.1.embed_dim", WIDTHS),
    Dimension("encoders.*.depths.0", (1, 2, 3)),
    Dimension("encoders.*.depths.1", (1, 2, 3)),
    Dimension("encoders.*.fusion", ("none", "pairwise")),
)


@pytest.fixture
def wide(smoke: Space, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], Space]:
    """Makes a space of those members of WIDE whose multiply-adds have the ranks from ``first`` to before ``end``.

    The space counts as too large to go through; by that its members are known to the test.
    """
    monkeypatch.setattr("space.space.MAX_ENUMERABLE", 100)
    free = Space("wide", smoke.base, WIDE)
    macs = sorted(count_cost(free.decode(vector)).macs for vector in free.vectors())

    def window(first: int, end: int) -> Space:
        return Space("wide", smoke.base, WIDE, (Limit("macs", macs[first], macs[end - 1]),))

    return window


@pytest.mark.parametrize("sampler", ["random", "tpe"])
@pytest.mark.parametrize(("first", "end"), [(0, 90), (1000, 1003)])
def test_the_few_members_within_narrow_limits_are_tried_to_the_last(
    sampler: str, first: int, end: int, wide: Callable[[int, int], Space], open_session: OpenSession
) -> None:
    """Be they where draws seldom come, or so few that most descents end beside them."""
    space = wide(first, end)
    session = open_session("s", make_searcher(space, sampler, trials=20), 100)
    keys = run(session)
    assert len(keys) == len(set(keys))
    assert set(keys) == keys_of(space)


def test_a_start_within_narrow_limits_takes_what_members_there_are(wide: Callable[[int, int], Space]) -> None:
    space = wide(1000, 1003)
    for seed in range(3):
        assert {*start_vectors(space, seed, 16)} <= {*space.vectors()}
    with pytest.raises(SpaceError, match="found no architecture that meets macs"):
        start_vectors(Space("none", space.base, WIDE, (Limit("macs", 452_977, 452_979),)), 0, 16)


def outcome(number: int, arch: ArchConfig, status: str, accuracy: float, macs: float) -> Finished:
    return Finished(
        trial=number,
        status=status,  # type: ignore[arg-type]
        arch_key=arch.key(),
        arch=arch.to_dict(),
        seed=0,
        seconds=0.0,
        device="cpu",
        metrics={"val_accuracy": accuracy, "macs": macs},
    )


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
        searcher.tell(outcome(number, proposal.arch, status, accuracy, 1.0))
    assert len(taken) == 16


def test_an_unknown_sampler_is_named(space: Space) -> None:
    with pytest.raises(ValueError, match="unknown sampler 'tpee'; did you mean 'tpe'"):
        make_searcher(space, "tpee")


def test_brute_force_refuses_a_large_space(space: Space) -> None:
    with pytest.raises(ValueError, match=r"'small' has 311,040, more than 20,000: use another sampler, or narrow"):
        make_searcher(space, "brute_force")


def test_brute_force_tries_a_small_space_in_an_order_of_the_seed(smoke: Space, open_session: OpenSession) -> None:
    orders = [run(open_session(str(seed), make_searcher(smoke, "brute_force", seed=seed), 100)) for seed in (1, 2)]
    assert set(orders[0]) == set(orders[1]) == keys_of(smoke)
    assert orders[0] != orders[1]


def test_an_empty_space_is_no_finished_one(smoke: Space) -> None:
    space = Space("empty", smoke.base, smoke.dimensions, (Limit("macs", None, 1000),))
    for sampler in ("brute_force", "tpe"):
        with pytest.raises(SpaceError, match="the limit macs at most 1 k binds"):
            make_searcher(space, sampler).ask(0, set())


def test_derived_seeds_are_fixed_for_ever() -> None:
    assert derive_seed(0, 1) == derive_seed(0, 1)
    assert derive_seed(0, 1) != derive_seed(1, 0)
    assert derive_seed("a") == 1699463305


def test_rungs_are_an_eighth_a_quarter_and_a_half() -> None:
    assert geometric_rungs(20) == (2, 5, 10)
    assert geometric_rungs(2) == (1,)
    assert geometric_rungs(1) == ()
