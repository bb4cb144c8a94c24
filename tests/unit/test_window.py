"""What a sampler is shown of a long study."""

from __future__ import annotations

import numpy as np

from results.pareto import pareto_ranks
from search.window import Family, Window, best_rows


def test_a_short_study_is_shown_whole() -> None:
    window = Window(4, 2)
    for number in (3, 1, 2):
        window.add(number, None if number == 1 else (float(number), 0.0))
    assert window.members() == [1, 2, 3]


def test_the_best_and_the_latest_are_shown() -> None:
    window = Window(4, 1)
    for number in range(10):
        window.add(number, [float((number - 3) ** 2)])
    assert window.members() == [2, 3, 8, 9]


def test_trials_without_a_result_are_only_ever_among_the_latest() -> None:
    window = Window(4, 1)
    for number in range(10):
        window.add(number, [float(number)] if number < 3 else None)
    assert window.members() == [0, 1, 8, 9]


def test_its_size_is_bounded_and_it_grows_past_its_first_room() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((1000, 3))
    window = Window(100, 3)
    for number, point in enumerate(points):
        window.add(number, point.tolist())
    members = window.members()
    assert len(members) == len(set(members)) == 100
    assert set(range(960, 1000)) <= set(members)
    shown = pareto_ranks(points)[members]
    assert sorted(pareto_ranks(points))[20] >= sorted(shown)[20]


def test_ranks_fill_in_order_and_a_crowded_front_keeps_its_ends() -> None:
    front = [(x, 1 - x) for x in np.linspace(0, 1, 21)]
    behind = [(x + 1, 2 - x) for x in np.linspace(0, 1, 5)]
    points = np.array([*behind, *front])
    assert set(best_rows(points, 24)) > set(range(5, 26))
    few = best_rows(points, 5)
    assert sorted(points[few, 0].round(2)) == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_nothing_finite_means_nothing_best() -> None:
    assert len(best_rows(np.array([[np.nan, 1.0], [np.inf, 0.0]]), 3)) == 0


def test_a_family_is_two_generations_and_the_parents() -> None:
    family = Family()
    for generation in range(5):
        for member in range(3):
            family.add(10 * generation + member, generation)
        family.found([10 * generation])
    family.add(50, 5)
    family.add(2, 0)
    assert (family.youngest, family.shown()) == (5, [40, 40, 41, 42, 50])
