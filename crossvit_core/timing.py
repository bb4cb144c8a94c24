"""The protocol that all timed measurements share: a quiet device, warm-up, windows that alternate with a reference.

A network is timed in short windows in turn with a small fixed reference network on the same batch, so that what slows
both cancels in their ratio. On a CPU one thread is timed by its CPU time, which other processes hardly touch; on a GPU
the device's events are.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from crossvit_core.config import Size
from crossvit_core.device_info import precision
from crossvit_core.device_lock import DeviceLock

MAX_CONTENTION = 1.15
MIN_PAIRS = 10

_STABLE_WITHIN = 0.05
_STABLE_WINDOWS = 3
_MAX_WARM_UP = 30

Timer = Callable[[nn.Module, Tensor, int], tuple[float, float]]


@contextlib.contextmanager
def quiet(model: nn.Module, device: torch.device, amp: bool, lock: DeviceLock | None) -> Iterator[None]:
    """Evaluation mode, no gradients, one thread on a CPU, the device locked; all of it put back afterwards.

    ``amp`` says that ``autocast`` will be used within: it keeps its copies of the weights from pass to pass under
    ``no_grad``, as a network in service has them, and makes them anew for every pass under ``inference_mode``.
    """
    training = [module for module in model.modules() if module.training]
    threads = torch.get_num_threads()
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock.exclusive() if lock is not None else contextlib.nullcontext())
        stack.callback(_restore, training, threads)
        model.eval()
        if device.type == "cpu":
            torch.set_num_threads(1)
        stack.enter_context(torch.no_grad() if precision(device, amp) == "bf16" else torch.inference_mode())
        yield


def random_images(batch_size: int, in_channels: int, size: Size, device: torch.device) -> Tensor:
    """Always the same images (batch_size, in_channels, height, width), with no draw from the global stream."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch_size, in_channels, *size, generator=generator).to(device)


def check_settings(batch_size: int, pairs: int, window_ms: float) -> None:
    """Raise ValueError for a batch, a number of pairs or a window that is too small."""
    for name, value, least in (("batch_size", batch_size, 1), ("pairs", pairs, 2), ("window_ms", window_ms, 0.1)):
        if value < least:
            raise ValueError(f"{name} {value} is too small; use at least {least}")


@dataclass(frozen=True)
class Warm:
    """A network that is warm: how often it runs in one window, and whether its window times had settled."""

    network: nn.Module
    calls: int
    seconds: float
    settled: bool


def warm_up(network: nn.Module, images: Tensor, window: float) -> Warm:
    """Run windows of ``window`` seconds until three in a row agree within 5 %; a slow network gets fewer."""
    timer = timer_for(images.device)
    timer(network, images, 1)
    seconds: list[float] = []
    calls = max(1, round(window / timer(network, images, 1)[0]))
    for _ in range(_MAX_WARM_UP):
        seconds.append(timer(network, images, calls)[0] / calls)
        calls = max(1, round(window / seconds[-1]))
        last = seconds[-_STABLE_WINDOWS:]
        if len(last) == _STABLE_WINDOWS and max(last) <= min(last) * (1 + _STABLE_WITHIN):
            return Warm(network, calls, seconds[-1] * calls, True)
        if len(last) == _STABLE_WINDOWS and sum(seconds) * calls > _MAX_WARM_UP * window:
            break
    return Warm(network, calls, seconds[-1] * calls, False)


def affordable_pairs(warm: tuple[Warm, Warm], pairs: int, max_seconds: float) -> int:
    """As many of ``pairs`` windows as fit into ``max_seconds``, and at least ``MIN_PAIRS``."""
    pair_seconds = sum(network.seconds for network in warm)
    return min(pairs, max(MIN_PAIRS, int(max_seconds / pair_seconds)))


def turns(pairs: int) -> Iterator[tuple[int, int]]:
    """(pair, side) in the order of timing. Who goes first alternates: a steady drift cancels."""
    for pair in range(pairs):
        for side in (0, 1) if pair % 2 else (1, 0):
            yield pair, side


def timer_for(device: torch.device) -> Timer:
    """How passes are timed on a device: (busy seconds, wall seconds) of a number of them."""
    return _time_on_gpu if device.type == "cuda" else _time_on_cpu


def contention(model: np.ndarray, reference: np.ndarray, device: torch.device) -> float:
    """How far the device was shared, 1 if not. Both arrays hold (busy, wall) seconds per pass, a row a window."""
    if device.type == "cuda":
        low, high = np.percentile(reference[:, 0], (10, 90))
        return float(high / low)
    both = model + reference
    return float(np.median(both[:, 1] / both[:, 0]))


def iqr(values: np.ndarray) -> float:
    """Interquartile range."""
    low, high = np.percentile(values, (25, 75))
    return float(high - low)


def _restore(training: list[nn.Module], threads: int) -> None:
    for module in training:
        module.training = True
    torch.set_num_threads(threads)


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
