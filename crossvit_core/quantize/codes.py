"""Quantisers: functions that map a tensor to at most 2^bits values, and the candidates that calibration chooses from.

All are symmetric fake quantisers: they return the rounded values in the tensor's own dtype. Applying one twice changes
nothing, and zero stays zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

GELU_MIN_MAGNITUDE = 0.16997124253703522  # of GELU's minimum, at x = -0.7518, as PTQ4ViT has it
_SMALLEST_STEP = 1e-12
_STEP_CANDIDATES = 101
_SPLIT_EXPONENTS = 20
_RATIO_EXPONENTS_TRIED = 6


@dataclass(frozen=True)
class Uniform:
    """``clamp(round(x / step), -2^(b-1), 2^(b-1) - 1) * step`` (PTQ4ViT). ``step``: a number, or one per row."""

    bits: int
    step: Tensor

    @property
    def num_steps(self) -> int:
        """Scales that must be stored; equal neighbours of a group of rows are one."""
        return int(self.step.flatten().unique_consecutive().numel())

    def __call__(self, x: Tensor) -> Tensor:
        levels = 2 ** (self.bits - 1)
        return (x / self.step).round_().clamp_(-levels, levels - 1).mul_(self.step)


@dataclass(frozen=True)
class GeluRegions:
    """Two steps for what comes out of a GELU, of which the ratio is ``2^exponent``.

    The negative side is as wide as GELU's and its step so fixed; half of the codes are its own, the other half the
    positive side's.
    """

    bits: int
    exponent: int
    num_steps = 1

    def __call__(self, x: Tensor) -> Tensor:
        levels = 2 ** (self.bits - 1)
        fine = negative_gelu_step(self.bits)
        coarse = fine * 2**self.exponent
        below = (x / fine).round_().clamp_(-levels, 0).mul_(fine)
        return torch.where(x < 0, below, (x / coarse).round_().clamp_(0, levels - 1).mul_(coarse))


@dataclass(frozen=True)
class SoftmaxSplit:
    """Two ranges for probabilities (PTQ4ViT's twin): up to ``2^-exponent`` in fine steps, above in steps of the whole.

    One bit says which range, the others count steps. Codes of the upper range that lie below the split are not used.
    """

    bits: int
    exponent: int
    num_steps = 1

    def __call__(self, x: Tensor) -> Tensor:
        largest = 2 ** (self.bits - 1) - 1
        split = 2.0**-self.exponent
        first_above = min(math.floor(split * largest) + 1, largest)
        below = (x * (largest / split)).round_().clamp_(0, largest).div_(largest).mul_(split)
        above = (x * largest).round_().clamp_(first_above, largest).div_(largest)
        return torch.where(x <= split, below, above)


Quantizer = Uniform | GeluRegions | SoftmaxSplit


def negative_gelu_step(bits: int) -> float:
    """The step of the negative side of ``GeluRegions``."""
    return GELU_MIN_MAGNITUDE / 2 ** (bits - 1)


def uniform_candidates(largest: Tensor, bits: int) -> list[Uniform]:
    """Steps from 0.01 to 1.2 times the one that clips nothing of magnitude ``largest``: smaller ones clip."""
    whole = (largest / (2 ** (bits - 1) - 0.5)).clamp_min(_SMALLEST_STEP)
    shares = [0.01 + index * 1.19 / (_STEP_CANDIDATES - 1) for index in range(_STEP_CANDIDATES)]
    return [Uniform(bits, whole * share) for share in shares]


def unclipped_exponent(largest: float, bits: int) -> int:
    """The hand rule: the smallest ratio of ``GeluRegions`` that clips nothing of magnitude ``largest``."""
    reached = negative_gelu_step(bits) * (2 ** (bits - 1) - 1)
    return max(0, math.ceil(math.log2(largest / reached))) if largest > 0 else 0


def gelu_candidates(largest: float, bits: int) -> list[GeluRegions]:
    """OPT-m: the ratio of the hand rule and the six below it, which clip."""
    highest = unclipped_exponent(largest, bits)
    lowest = max(0, highest - _RATIO_EXPONENTS_TRIED)
    return [GeluRegions(bits, exponent) for exponent in range(highest, lowest - 1, -1)]


def softmax_candidates(bits: int) -> list[SoftmaxSplit]:
    """Splits at 1, 1/2, ... 2^-19."""
    return [SoftmaxSplit(bits, exponent) for exponent in range(_SPLIT_EXPONENTS)]
