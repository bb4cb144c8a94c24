"""What the operating system knows of this machine; imports no torch."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def cpu_name() -> str:
    """The maker's name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def count_cores() -> int:
    """CPU cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def visible_device(index: int) -> str:
    """What CUDA_VISIBLE_DEVICES calls the device that this process sees under a number; the number if it is silent."""
    entries = [entry.strip() for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if entry.strip()]
    return entries[index] if index < len(entries) else str(index)
