"""Latency: how long one image takes from call to result, with its spread and its tail.

The protocol is that of ``measure``: windows in turn with the fixed reference network, CPU time of one thread on a CPU,
events on a GPU. Each pass of the model is timed by itself, since a mean over a window has no tail.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from crossvit_core import measure
from crossvit_core.config import Size
from crossvit_core.device_info import autocast, device_id
from crossvit_core.device_lock import DeviceLock
from crossvit_core.reference_net import build_reference
from crossvit_core.timing import (
    MAX_CONTENTION,
    Timer,
    Warm,
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

FLAGS = {name: measure.FLAGS[name] for name in ("contended", "unstable", "few_windows")}


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a forward pass at batch 1: median, interquartile range and 95th percentile over ``passes``.

    A pass's time is divided by how slow the reference was in the same pair of windows, against its median: a machine
    that slows down for a while moves neither figure. On a CPU it is CPU time, so it holds what caches and the clock do
    to a pass, not what other processes do. ``flags`` are keys of ``FLAGS``.
    """

    ms: float
    iqr_ms: float
    p95_ms: float
    passes: int
    device: str
    threads: int
    contention: float
    flags: tuple[str, ...]

    def metrics(self) -> dict[str, float]:
        """The figures that a trial records."""
        return {
            "latency_ms": self.ms,
            "latency_iqr_ms": self.iqr_ms,
            "latency_p95_ms": self.p95_ms,
            "latency_flags": float(len(self.flags)),
        }


def measure_latency(
    model: nn.Module,
    *,
    size: Size,
    in_channels: int,
    device: torch.device | str = "cpu",
    pairs: int = 15,
    window_ms: float = 5.0,
    max_seconds: float = 10.0,
    amp: bool = False,
    lock: DeviceLock | None = None,
) -> Latency:
    """Time single passes of ``model`` on one random image (1, in_channels, height, width).

    As with ``measure.measure_throughput``, the model is moved to ``device`` and left there, everything else is put
    back, ``lock`` is held exclusively, and slow models get fewer pairs (at least ten). The defaults take about a
    quarter of a second.

    Raises ValueError for a number of pairs or a window that is too small.
    """
    check_settings(1, pairs, window_ms)
    target = torch.device(device)
    image = random_images(1, in_channels, size, target)
    reference = build_reference(size, in_channels).to(target)
    with quiet(model.to(target), target, amp, lock), autocast(target, amp):
        warm = (warm_up(model, image, window_ms / 1000), warm_up(reference, image, window_ms / 1000))
        affordable = affordable_pairs(warm, pairs, max_seconds)
        passes, windows = _time_passes(warm, image, affordable)
        threads = torch.get_num_threads()
    shared = contention(passes.mean(axis=1), windows, target)
    return _summarise(
        passes[:, :, 0], windows[:, 0], _flags(warm, shared, affordable < pairs), device_id(target), threads, shared
    )


def _time_passes(warm: tuple[Warm, Warm], image: Tensor, pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """(busy, wall) seconds of the model's passes (pairs, calls, 2), and of the reference's per window (pairs, 2)."""
    timer: Timer = timer_for(image.device)
    model, reference = warm
    passes, windows = np.empty((pairs, model.calls, 2)), np.empty((pairs, 2))
    for pair, side in turns(pairs):
        if side == 0:
            passes[pair] = [timer(model.network, image, 1) for _ in range(model.calls)]
        else:
            windows[pair] = np.array(timer(reference.network, image, reference.calls)) / reference.calls
    return passes, windows


def _summarise(
    passes: np.ndarray, reference: np.ndarray, flags: tuple[str, ...], device: str, threads: int, shared: float
) -> Latency:
    """From busy seconds of the passes (pairs, calls) and of the reference (pairs,)."""
    slowness = reference / np.median(reference)
    milliseconds = 1000 * (passes / slowness[:, None]).ravel()
    return Latency(
        ms=float(np.median(milliseconds)),
        iqr_ms=iqr(milliseconds),
        p95_ms=float(np.percentile(milliseconds, 95)),
        passes=len(milliseconds),
        device=device,
        threads=threads,
        contention=shared,
        flags=flags,
    )


def _flags(warm: tuple[Warm, Warm], shared: float, fewer: bool) -> tuple[str, ...]:
    signs = {
        "contended": shared > MAX_CONTENTION,
        "unstable": not all(network.settled for network in warm),
        "few_windows": fewer,
    }
    return tuple(flag for flag in FLAGS if signs[flag])
