"""Throughput with its spread, its protocol and its device; peak memory.

A forward pass is timed in short windows that alternate with windows of a small fixed reference network on the same
batch. The median of the paired ratios is what repeats; the reference's own speed turns it into images per second. On a
CPU one thread is timed by its CPU time, which other processes hardly touch; on a GPU the device's events are.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from crossvit_core.config import Size
from crossvit_core.device_info import describe_device, device_id, device_name
from crossvit_core.device_lock import DeviceLock
from crossvit_core.reference_net import build_reference

__all__ = [
    "FLAGS",
    "Throughput",
    "describe_device",
    "device_id",
    "device_name",
    "measure_peak_memory_mb",
    "measure_throughput",
]

_MAX_CONTENTION = 1.15
_MAX_DRIFT = 0.03
_MAX_SPREAD = 0.10  # torch.utils.benchmark warns from the same spread on
_STABLE_WITHIN = 0.05
_STABLE_WINDOWS = 3
_MAX_WARM_UP = 30
_MIN_PAIRS = 10
_BYTES_PER_MB = 2**20

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
    reference's windows. 1 is a device to itself. ``flags`` are keys of ``FLAGS``; none means a clean measurement.
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
    for name, value, least in (("batch_size", batch_size, 1), ("pairs", pairs, 2), ("window_ms", window_ms, 0.1)):
        if value < least:
            raise ValueError(f"{name} {value} is too small; use at least {least}")
    target = torch.device(device)
    images = _random_images(batch_size, in_channels, size, target)
    reference = build_reference(size, in_channels).to(target)
    with _quiet(model.to(target), target, amp, lock):
        windows = _time_pairs(model, reference, images, pairs, window_ms / 1000, max_seconds)
        threads = torch.get_num_threads()
    return _summarise(windows, batch_size, device_id(target), threads)


def measure_peak_memory_mb(
    model: nn.Module,
    *,
    size: Size,
    in_channels: int,
    batch_size: int = 32,
    device: torch.device | str = "cuda",
    amp: bool = False,
    lock: DeviceLock | None = None,
) -> float:
    """Most memory that tensors (weights and activations) take on a GPU during a forward pass, in units of 2**20 bytes.

    Raises ValueError for a CPU, where torch does not count.
    """
    target = torch.device(device)
    if target.type != "cuda":
        raise ValueError(f"peak memory is counted on a GPU only, got device {str(device)!r}; use 'cuda'")
    images = _random_images(batch_size, in_channels, size, target)
    with _quiet(model.to(target), target, amp, lock):
        torch.cuda.reset_peak_memory_stats(target)
        model(images)
        torch.cuda.synchronize(target)
        return torch.cuda.max_memory_allocated(target) / _BYTES_PER_MB


# Protocol ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _quiet(model: nn.Module, device: torch.device, amp: bool, lock: DeviceLock | None) -> Iterator[None]:
    """Evaluation mode, no gradients, one thread on a CPU, the device locked; all of it put back afterwards."""
    training = [module for module in model.modules() if module.training]
    threads = torch.get_num_threads()
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock.exclusive() if lock is not None else contextlib.nullcontext())
        stack.callback(_restore, training, threads)
        model.eval()
        if device.type == "cpu":
            torch.set_num_threads(1)
        stack.enter_context(torch.inference_mode())
        stack.enter_context(_autocast(device, amp))
        yield


def _restore(training: list[nn.Module], threads: int) -> None:
    for module in training:
        module.training = True
    torch.set_num_threads(threads)


def _autocast(device: torch.device, amp: bool) -> AbstractContextManager[Any]:
    enabled = amp and device.type == "cuda"
    return torch.autocast(device.type, torch.bfloat16) if enabled else contextlib.nullcontext()


def _random_images(batch_size: int, in_channels: int, size: Size, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch_size, in_channels, *size, generator=generator).to(device)


def _time_pairs(
    model: nn.Module, reference: nn.Module, images: Tensor, pairs: int, window: float, max_seconds: float
) -> _Windows:
    timer = _time_on_gpu if images.device.type == "cuda" else _time_on_cpu
    plans = [_warm_up(network, images, window, timer) for network in (model, reference)]
    pair_seconds = sum(plan.seconds for plan in plans)
    affordable = min(pairs, max(_MIN_PAIRS, int(max_seconds / pair_seconds)))
    times = np.empty((affordable, 2, 2))  # pair, network, (busy, wall)
    for pair in range(affordable):
        for side in (0, 1) if pair % 2 else (1, 0):  # who goes first alternates: a steady drift cancels
            network, calls = plans[side].network, plans[side].calls
            times[pair, side] = np.array(timer(network, images, calls)) / (calls * len(images))
    settled = all(plan.settled for plan in plans)
    return _Windows(times[:, :, 0], _contention(times, images.device), settled, pairs)


@dataclass(frozen=True)
class _Plan:
    """How often a network runs in one window, found while warming up."""

    network: nn.Module
    calls: int
    seconds: float
    settled: bool


_Timer = Callable[[nn.Module, Tensor, int], tuple[float, float]]


def _warm_up(network: nn.Module, images: Tensor, window: float, timer: _Timer) -> _Plan:
    """Run windows until three in a row agree within 5 %; a slow network gets fewer."""
    timer(network, images, 1)
    seconds: list[float] = []
    calls = max(1, round(window / timer(network, images, 1)[0]))
    for _ in range(_MAX_WARM_UP):
        seconds.append(timer(network, images, calls)[0] / calls)
        calls = max(1, round(window / seconds[-1]))
        last = seconds[-_STABLE_WINDOWS:]
        if len(last) == _STABLE_WINDOWS and max(last) <= min(last) * (1 + _STABLE_WITHIN):
            return _Plan(network, calls, seconds[-1] * calls, True)
        if len(last) == _STABLE_WINDOWS and sum(seconds) * calls > _MAX_WARM_UP * window:
            break
    return _Plan(network, calls, seconds[-1] * calls, False)


def _time_on_cpu(network: nn.Module, images: Tensor, calls: int) -> tuple[float, float]:
    """(CPU seconds of this thread, wall seconds) of some passes; with one torch thread all work is this thread's."""
    wall = time.perf_counter()
    busy = time.thread_time()
    for _ in range(calls):
        network(images)
    return time.thread_time() - busy, time.perf_counter() - wall


def _time_on_gpu(network: nn.Module, images: Tensor, calls: int) -> tuple[float, float]:
    """(seconds by the device's events, wall seconds) of some passes."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(images.device)
    wall = time.perf_counter()
    stream = torch.cuda.current_stream(images.device)
    begin.record(stream)
    for _ in range(calls):
        network(images)
    end.record(stream)
    end.synchronize()
    return begin.elapsed_time(end) / 1000, time.perf_counter() - wall


def _contention(times: np.ndarray, device: torch.device) -> float:
    if device.type == "cuda":
        low, high = np.percentile(times[:, 1, 0], (10, 90))
        return float(high / low)
    return float(np.median(times[:, :, 1].sum(axis=1) / times[:, :, 0].sum(axis=1)))


def _summarise(windows: _Windows, batch_size: int, device: str, threads: int) -> Throughput:
    model, reference = windows.seconds.T
    ratios = reference / model
    ratio = float(np.median(ratios))
    reference_ips = float(np.median(1 / reference))
    return Throughput(
        ips=ratio * reference_ips,
        iqr=_iqr(1 / model),
        ratio=ratio,
        ratio_iqr=_iqr(ratios),
        reference_ips=reference_ips,
        batch_size=batch_size,
        windows=len(ratios),
        device=device,
        threads=threads,
        contention=windows.contention,
        flags=_flags(windows, ratios),
    )


def _flags(windows: _Windows, ratios: np.ndarray) -> tuple[str, ...]:
    first, second = np.median(ratios[: len(ratios) // 2]), np.median(ratios[len(ratios) // 2 :])
    signs = {
        "contended": windows.contention > _MAX_CONTENTION,
        "drift": abs(second / first - 1) > _MAX_DRIFT,
        "spread": _iqr(ratios) > _MAX_SPREAD * np.median(ratios),
        "unstable": not windows.settled,
        "few_windows": len(ratios) < windows.pairs_asked,
    }
    return tuple(flag for flag in FLAGS if signs[flag])


def _iqr(values: np.ndarray) -> float:
    low, high = np.percentile(values, (25, 75))
    return float(high - low)
