"""Drawing from a seed of one's own while torch's global streams stand still."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within, torch draws from ``seed``; afterwards all its streams go on as if nothing had happened.

    Those of GPUs too, once this process uses them: ``torch.manual_seed`` reaches them all.
    """
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed)
        yield
