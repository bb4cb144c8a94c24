"""Greedy bit widths on made-up losses, and what can be asked of a quantisation."""

from __future__ import annotations

import itertools

import pytest

from crossvit_core.quantize.mixed import greedy
from crossvit_core.quantize.network import Bits, Slot, mean_bits
from crossvit_core.quantize.settings import (
    QuantizeError,
    check_alpha,
    check_bits,
    check_calibration,
    check_targets,
    find_method,
)

SLOTS = {
    slot.name: slot
    for slot in (
        Slot("edge", True, 50, True),
        *(Slot(f"t{index}", index % 2 == 0, 10 * (index + 1), False) for index in range(6)),
    )
}


def made_up_loss(bits: Bits) -> float:
    """Small tensors are the sensitive ones, and bits interact."""
    own = sum(4.0 ** -bits[name] * (7 - index) for index, name in enumerate(SLOTS))
    return own + 1e-3 * max(bits.values()) / min(bits.values())


def test_greedy_meets_its_targets_from_above() -> None:
    found = list(greedy(SLOTS, made_up_loss, [4, 6, 5]))
    assert [each.target for each in found] == [6, 5, 4]
    means = [each.mean_bits for each in found]
    assert means == sorted(means, reverse=True)
    widest = max(slot.numel for slot in SLOTS.values()) / sum(slot.numel for slot in SLOTS.values())
    for each in found:
        assert each.target - widest <= each.mean_bits <= each.target
        assert each.mean_bits == mean_bits(list(SLOTS.values()), each.bits)
        assert each.bits["edge"] == 8
        assert all(2 <= width <= 8 for width in each.bits.values())
        assert each.loss == made_up_loss(each.bits)
    for before, after in itertools.pairwise(found):
        assert all(after.bits[name] <= before.bits[name] for name in SLOTS)
    assert found == list(greedy(SLOTS, made_up_loss, [4, 6, 5]))


def test_greedy_takes_the_cheapest_bit_first() -> None:
    price = {"t0": 5.0, "t1": 1.0, "t2": 4.0, "t3": 2.5, "t4": 2.0, "edge": 0.0}
    slots = {name: Slot(name, True, 10, name == "edge") for name in price}

    def loss(bits: Bits) -> float:
        return sum(price[name] * (8 - width) ** 2 for name, width in bits.items())

    # The second bit of a tensor costs three times its first.
    found = greedy(slots, loss, [8 - taken / 6 for taken in range(1, 6)])
    lowered = [{name: 8 - width for name, width in each.bits.items() if width < 8} for each in found]
    assert lowered == [
        {"t1": 1},
        {"t1": 1, "t4": 1},
        {"t1": 1, "t3": 1, "t4": 1},
        {"t1": 2, "t3": 1, "t4": 1},
        {"t1": 2, "t2": 1, "t3": 1, "t4": 1},
    ]


def test_a_target_that_cannot_be_reached_ends_the_descent() -> None:
    assert [each.target for each in greedy(SLOTS, made_up_loss, [6, 2])] == [6]


# What can be asked ---------------------------------------------------------------------------------------------------


def test_bad_questions_are_answered_with_what_is_possible() -> None:
    with pytest.raises(QuantizeError, match="did you mean 'sqb'"):
        find_method("sbq")
    with pytest.raises(QuantizeError, match=r"9 bits are not possible; use 2 to 8, such as 8"):
        check_bits([9])
    with pytest.raises(QuantizeError, match=r"mean of 8 bits is no target"):
        check_targets([8.0])
    with pytest.raises(QuantizeError, match=r"0\.3 to 0\.8"):
        check_alpha(1.5)
    with pytest.raises(QuantizeError, match=r"300 calibration images .* such as 256"):
        check_calibration(300)
    assert check_bits([4, 8, 4]) == (8, 4)
    assert check_targets([4, 4.5]) == (4.5, 4)
