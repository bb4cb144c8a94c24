"""What can be asked of a quantisation, as plain data. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from crossvit_core.config import suggest

MIN_BITS, MAX_BITS = 2, 8
MAX_CALIBRATION_IMAGES = 256
FULL_BITS = 32


class QuantizeError(ValueError):
    """What was asked cannot be quantised so; the message is for the user."""


class Method(NamedTuple):
    """One way to quantise.

    ``smoothing``: "none", "scale" (SmoothQuant) or "scale_and_bias" (SQ-b). ``gelu``: "uniform", "hand" (two regions,
    the ratio that clips nothing) or "searched" (OPT-m). ``softmax``: "uniform" or "searched" (the twin split).
    """

    smoothing: str = "none"
    gelu: str = "uniform"
    softmax: str = "uniform"


def find_method(name: str) -> Method:
    """The method of this name. Raises QuantizeError with the nearest known."""
    if name not in METHODS:
        raise QuantizeError(f"quantisation method {name!r} is unknown; {suggest(name, METHODS)}")
    return METHODS[name]


def check_bits(bits: Iterable[int]) -> tuple[int, ...]:
    """Bit widths of single precision, largest first, each once. Raises QuantizeError outside 2 to 8."""
    wanted = sorted(set(bits), reverse=True)
    for value in wanted:
        if not MIN_BITS <= value <= MAX_BITS:
            nearest = min(max(value, MIN_BITS), MAX_BITS)
            raise QuantizeError(f"{value} bits are not possible; use {MIN_BITS} to {MAX_BITS}, such as {nearest}")
    return tuple(wanted)


def check_targets(targets: Iterable[float]) -> tuple[float, ...]:
    """Mean bits of mixed precision, largest first, each once. Raises QuantizeError outside [2, 8)."""
    wanted = sorted(set(targets), reverse=True)
    for value in wanted:
        if not MIN_BITS <= value < MAX_BITS:
            raise QuantizeError(
                f"a mean of {value:g} bits is no target; use {MIN_BITS} to less than {MAX_BITS}, such as 5"
            )
    return tuple(wanted)


def check_alpha(alpha: float) -> float:
    """The share of a channel's range that SQ-b gives to the weights. Raises QuantizeError outside [0, 1]."""
    if not 0 <= alpha <= 1:
        raise QuantizeError(f"alpha {alpha:g} is no share; use 0 to 1, of which 0.3 to 0.8 is usual")
    return alpha


def check_calibration(count: int) -> int:
    """Images to calibrate on. Raises QuantizeError outside 1 to 256."""
    if not 1 <= count <= MAX_CALIBRATION_IMAGES:
        nearest = min(max(count, 1), MAX_CALIBRATION_IMAGES)
        raise QuantizeError(
            f"{count} calibration images are not possible; use 1 to {MAX_CALIBRATION_IMAGES}, such as {nearest}"
        )
    return count


METHODS: dict[str, Method] = {
    "base": Method(),
    "smoothquant": Method(smoothing="scale"),
    "sqb": Method(smoothing="scale_and_bias"),
    "hand": Method(gelu="hand", softmax="searched"),
    "optm": Method(gelu="searched", softmax="searched"),
    "sqb_optm": Method(smoothing="scale_and_bias", gelu="searched", softmax="searched"),
}
