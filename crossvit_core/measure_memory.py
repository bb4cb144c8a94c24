"""Peak memory of a forward pass and of a training step, exact to the byte that is asked of torch's allocators.

On a GPU the caching allocator keeps the statistics. A CPU's allocator keeps none, so torch's profiler records each
allocation and release while one pass runs, temporaries inside kernels included; the peak is the highest running sum.
The resident size of the process would be too coarse, and what the C library and oneDNN keep outside torch's allocators
is no part of either figure.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import os
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossvit_core.config import Size
from crossvit_core.device_info import autocast
from crossvit_core.device_lock import DeviceLock
from crossvit_core.timing import quiet, random_images

_BYTES_PER_MB = 2**20
_REQUESTED = "requested_bytes.all"


def measure_peak_memory_mb(
    model: nn.Module,
    *,
    size: Size,
    in_channels: int,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    amp: bool = False,
    lock: DeviceLock | None = None,
) -> float:
    """Weights, buffers, the batch and what a forward pass needs at its peak, in units of 2**20 bytes.

    ``model`` is moved to ``device`` and left there; ``lock`` is held exclusively meanwhile. Other tensors of the
    process, such as a dataset on the device, do not count.
    """
    target = torch.device(device)
    images = random_images(batch_size, in_channels, size, target)

    def run() -> None:
        with autocast(target, amp):  # its copies of the weights are part of what a pass needs
            model(images)

    with quiet(model.to(target), target, amp, lock):
        growth = _growth_bytes(run, target)
    return (_tensor_bytes([*model.parameters(), *model.buffers(), images]) + growth) / _BYTES_PER_MB


def measure_train_memory_mb(
    model: nn.Module,
    *,
    size: Size,
    in_channels: int,
    num_classes: int,
    batch_size: int,
    device: torch.device | str = "cpu",
    amp: bool = False,
    ema: bool = False,
    lock: DeviceLock | None = None,
) -> float:
    """As ``measure_peak_memory_mb``, of a training step: also gradients, AdamW's two moments and kept activations.

    ``ema`` adds the averaged copy of the weights. Steps are taken on a copy of the model: its weights, gradients and
    mode are not touched, nor is torch's random state. Augmenting a batch is not part of the step.
    """

    target = torch.device(device)
    held = lock.exclusive() if lock is not None else contextlib.nullcontext()
    with held, torch.random.fork_rng(devices=[target] if target.type == "cuda" else []):
        trained = copy.deepcopy(model).to(target).train()
        images = random_images(batch_size, in_channels, size, target)
        labels = torch.zeros(batch_size, dtype=torch.int64, device=target) % num_classes
        optimizer = torch.optim.AdamW(trained.parameters(), fused=True)
        step = _training_step(trained, optimizer, images, labels, amp)
        growth = _growth_bytes(step, target)
        moments = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
        weights = [*trained.parameters(), *trained.buffers()]
    lasting = _tensor_bytes([*weights, *moments, images, labels]) + (_tensor_bytes(weights) if ema else 0)
    return (lasting + growth) / _BYTES_PER_MB


def _training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, amp: bool
) -> Callable[[], object]:
    """A step that begins and ends without gradients, so that all it allocates shows."""

    def step() -> None:
        with autocast(images.device, amp):
            logits = model(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _growth_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Most memory that a call holds beyond what was held before. One call warms up: workspaces and moments stay."""
    run()
    return _growth_on_gpu(run, device) if device.type == "cuda" else _growth_on_cpu(run)


def _growth_on_gpu(run: Callable[[], object], device: torch.device) -> int:
    """By the bytes asked for: the blocks handed out are larger, by what the allocator happens to have in store."""
    gc.collect()
    with _no_garbage_collection():
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_stats(device)[f"{_REQUESTED}.current"]
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return int(torch.cuda.memory_stats(device)[f"{_REQUESTED}.peak"] - before)


def _growth_on_cpu(run: Callable[[], object]) -> int:
    # The profiler's engine prints its comings and goings unless its level is above all of its messages.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    with _no_garbage_collection(), torch.autograd.profiler.profile(use_kineto=True, profile_memory=True) as profile:
        run()
    results: Any = profile.kineto_results
    changes = (event.nbytes() for event in results.events() if event.name() == "[memory]")
    return max(accumulate(changes, initial=0))


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Tensors of earlier work that are freed meanwhile would confuse the sum."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _tensor_bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
