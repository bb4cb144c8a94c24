"""A name that is unknown is answered with the one that was meant, and with none where nobody could tell."""

from __future__ import annotations

import pytest

from crossvit_core.fields import suggest
from crossvit_core.presets import PRESETS
from crossvit_core.pretrained import pretrained_names


@pytest.mark.parametrize("typed", ["crossvit_foo", "crossvit_fo", "crossvit_vgg_19", "crossvit_", "vit", "foo"])
def test_what_all_names_start_with_makes_none_of_them_near(typed: str) -> None:
    assert suggest(typed, PRESETS).startswith("known: crossvit_15_240, ")


def test_what_the_only_name_starts_with_does_not_make_it_near() -> None:
    assert suggest("crossvit_foo", ["crossvit_bar"]) == "known: crossvit_bar"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("crossvit_tini", "crossvit_tiny_"),
        ("crossvit_nan_16", "crossvit_nano_16'"),
        ("crossvit_nano16", "crossvit_nano_16'"),
        ("crossvit_base_384", "crossvit_base_240'"),
        ("crossvit-small-240", "crossvit_small_240'"),
        ("crosvit_small_240", "crossvit_small_240'"),
        ("crossvit_small_24", "crossvit_small_240'"),
        ("crossvit_cifar_x", "crossvit_cifar_"),
        ("nano_16", "crossvit_nano_16'"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(typed: str, meant: str) -> None:
    assert suggest(typed, PRESETS).startswith(f"did you mean '{meant}")


def test_one_letter_is_a_slip_however_little_is_left_to_compare() -> None:
    assert suggest("crossvit_cifar_x", pretrained_names()).startswith("did you mean 'crossvit_cifar_")
    assert suggest("layer_1", ["layer_10"]) == "did you mean 'layer_10'? known: layer_10"


def test_a_name_that_another_only_adds_to_is_near() -> None:
    assert suggest("latency", ["latency_ms"]) == "did you mean 'latency_ms'? known: latency_ms"
