"""How many trials a cluster takes, and what errors of Ray's mean: both without Ray."""

from __future__ import annotations

import pytest

from search.executors.base import ExecutorError
from search.executors.pool_size import PoolSize, choose_size
from search.executors.ray_errors import first_line, last_line, memory_figures, memory_victims

CPU_ONLY = [{"CPU": 4.0}, {"CPU": 2.0}, {}]
MIXED = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 3.0, "GPU": 4.0}, {"CPU": 16.0}]


@pytest.mark.parametrize(
    ("machines", "workers", "gpus", "expected"),
    [
        (CPU_ONLY, None, None, PoolSize(6, 0.0)),
        (CPU_ONLY, 3, None, PoolSize(3, 0.0)),
        (MIXED, None, None, PoolSize(5, 1.0)),  # two GPUs; four GPUs, but three cores
        (MIXED, None, 0.25, PoolSize(11, 0.25)),  # eight cores for eight quarters; three cores
        (MIXED, None, 0.4, PoolSize(7, 0.4)),  # two to a GPU: the fifth left over of each serves nobody
        (MIXED, None, 2.0, PoolSize(3, 2.0)),
        (MIXED, None, 0.0, PoolSize(27, 0.0)),
        (MIXED, 4, None, PoolSize(4, 1.0)),
        (MIXED, 9, None, PoolSize(7, 0.5)),  # halves for all nine; the machine with three cores takes three
        ([{"CPU": 4.0, "GPU": 1.0}], 4, None, PoolSize(4, 0.25)),
        ([{"CPU": 4.0, "GPU": 1.0}], 4, 1.0, PoolSize(1, 1.0)),  # as asked: three more would only wait
    ],
)
def test_what_is_left_open_follows_from_the_machines(
    machines: list[dict[str, float]], workers: int | None, gpus: float | None, expected: PoolSize
) -> None:
    assert choose_size(machines, workers, gpus) == expected


def test_room_for_nothing_is_said_before_anybody_waits() -> None:
    with pytest.raises(ExecutorError, match=r"no machine has room for a trial of 1 core and 0\.5 GPUs; the most GPUs"):
        choose_size(CPU_ONLY, 2, 0.5)
    with pytest.raises(ExecutorError, match="8 GPUs; the most GPUs are 4"):
        choose_size(MIXED, None, 8.0)


def test_devices_are_shared_unless_each_trial_has_one() -> None:
    assert PoolSize(2, 0.0).shares_devices
    assert PoolSize(2, 0.5).shares_devices
    assert not PoolSize(2, 1.0).shares_devices


class OutOfMemoryError(Exception):
    """Named as Ray's."""


def test_the_culprits_of_a_memory_shortage_are_found_by_their_actors() -> None:
    text = (
        "Memory on the node (IP: 192.0.2.7) was 6.34GB used / 23.54GB limit (0.27)\nSelected to kill: (Actor(6bd4): ..."
    )
    error = RuntimeError("Caught unexpected exception")
    assert memory_victims(error, {"a": "6bd4"}) == {}
    error.__cause__ = OutOfMemoryError(text)
    assert {run: loss.reason for run, loss in memory_victims(error, {"a": "6bd4", "b": "77aa"}).items()} == {
        "a": "6.34GB used / 23.54GB limit"
    }
    assert memory_figures("nothing of the kind") == "Ray ended its worker as the machine's memory ran short"


def test_lines_of_messages() -> None:
    assert first_line("one\n two \n\n") == "one"
    assert last_line(ValueError("one\n two \n\n")) == "two"
    assert last_line(ValueError()) == "ValueError"
    assert len(last_line("x" * 1000)) == 300
