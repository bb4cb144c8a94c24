"""Throughput with its spread, its protocol and its device.

A forward pass is timed in short windows that alternate with windows of a small fixed reference network on the same
batch (``timing``). The median of the paired ratios is what repeats; the reference's own speed turns it into images per
second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from crossvit_core.config import Size
from crossvit_core.device_info import autocast, device_id, precision
from crossvit_core.device_lock import DeviceLock
from crossvit_core.reference_net import build_reference
from crossvit_core.timing import (
    MAX_CONTENTION,
    affordable_pairs,
    check_settings,
    contention,
    iqr,
    quiet,
    random_images,
    timer_for,
    turns,
    warm_up,
)

_MAX_DRIFT = 0.03
_MAX_SPREAD = 0.10  # torch.utils.benchmark warns from the same spread on

FLAGS = {
    "contended": "the thread waited for the processor: wall exceeds CPU time, or (GPU) the reference's windows differ",
    "drift": "the ratio moved between the first and the second half of the windows",
    "spread": "the ratios' interquartile range exceeds 10 % of their median",
    "unstable": "warm-up ended before window times settled",
    "few_windows": "the model is too slow for the windows asked for within max_seconds",
}


@dataclass(frozen=True)
class Throughput:
    """Images per second of a forward pass, and how it was found.

    ``ratio`` is the model's over the reference's throughput, the median of paired windows; ``ips`` is ``ratio`` times
    ``reference_ips`` (the reference's median). ``iqr`` and ``ratio_iqr`` are interquartile ranges over windows.
    ``contention`` is wall over CPU time, median over windows; on a GPU the 90th over the 10th percentile of the
    reference's windows. 1 is a device to itself. ``precision`` is "fp32" or "bf16" (autocast). ``flags`` are keys of
    ``FLAGS``; none means a clean measurement.
    """

    ips: float
    iqr: float
    ratio: float
    ratio_iqr: float
    reference_ips: float
    batch_size: int
    windows: int
    device: str
    threads: int
    precision: str
    contention: float
    flags: tuple[str, ...]

    def metrics(self) -> dict[str, float]:
        """The figures that a trial records."""
        return {
            "throughput_ips": self.ips,
            "throughput_iqr": self.iqr,
            "throughput_ratio": self.ratio,
            "throughput_ratio_iqr": self.ratio_iqr,
            "throughput_contention": self.contention,
            "throughput_flags": float(len(self.flags)),
        }


@dataclass(frozen=True)
class _Windows:
    """Time per image in seconds, (num_pairs, 2): model, reference; and contention by pair."""

    seconds: np.ndarray
    contention: float
    settled: bool
    pairs_asked: int


def measure_throughput(
    model: nn.Module,
    *,
    size: Size,
    in_channels: int,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    pairs: int = 60,
    window_ms: float = 10.0,
    max_seconds: float = 60.0,
    amp: bool = False,
    lock: DeviceLock | None = None,
) -> Throughput:
    """Time the forward pass of ``model`` on random images (batch_size, in_channels, height, width).

    The model is moved to ``device`` and left there; its training mode and torch's thread count are put back. ``amp``
    runs under bfloat16 autocast on a GPU and means nothing on a CPU. ``lock`` is held exclusively meanwhile. A window
    lasts ``window_ms`` or one pass; slow models get fewer pairs (at least ten) to keep within about ``max_seconds``.

    Raises ValueError for a batch, a number of pairs or a window that is too small.
    """
    check_settings(batch_size, pairs, window_ms)
    target = torch.device(device)
    images = random_images(batch_size, in_channels, size, target)
    reference = build_reference(size, in_channels).to(target)
    with quiet(model.to(target), target, amp, lock), autocast(target, amp):
        windows = _time_pairs(model, reference, images, pairs, window_ms / 1000, max_seconds)
        threads = torch.get_num_threads()
    return _summarise(windows, batch_size, device_id(target), threads, precision(target, amp))


def _time_pairs(
    model: nn.Module, reference: nn.Module, images: Tensor, pairs: int, window: float, max_seconds: float
) -> _Windows:
    warm = (warm_up(model, images, window), warm_up(reference, images, window))
    affordable = affordable_pairs(warm, pairs, max_seconds)
    timer = timer_for(images.device)
    times = np.empty((affordable, 2, 2))  # pair, network, (busy, wall)
    for pair, side in turns(affordable):
        network, calls = warm[side].network, warm[side].calls
        times[pair, side] = np.array(timer(network, images, calls)) / (calls * len(images))
    settled = all(network.settled for network in warm)
    return _Windows(times[:, :, 0], contention(times[:, 0], times[:, 1], images.device), settled, pairs)


def _summarise(windows: _Windows, batch_size: int, device: str, threads: int, precision: str) -> Throughput:
    model, reference = windows.seconds.T
    ratios = reference / model
    ratio = float(np.median(ratios))
    reference_ips = float(np.median(1 / reference))
    return Throughput(
        ips=ratio * reference_ips,
        iqr=iqr(1 / model),
        ratio=ratio,
        ratio_iqr=iqr(ratios),
        reference_ips=reference_ips,
        batch_size=batch_size,
        windows=len(ratios),
        device=device,
        threads=threads,
        precision=precision,
        contention=windows.contention,
        flags=_flags(windows, ratios),
    )


def _flags(windows: _Windows, ratios: np.ndarray) -> tuple[str, ...]:
    first, second = np.median(ratios[: len(ratios) // 2]), np.median(ratios[len(ratios) // 2 :])
    signs = {
        "contended": windows.contention > MAX_CONTENTION,
        "drift": abs(second / first - 1) > _MAX_DRIFT,
        "spread": iqr(ratios) > _MAX_SPREAD * np.median(ratios),
        "unstable": not windows.settled,
        "few_windows": len(ratios) < windows.pairs_asked,
    }
    return tuple(flag for flag in FLAGS if signs[flag])
