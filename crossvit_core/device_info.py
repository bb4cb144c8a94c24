"""What a device is called and what a timing on it depends on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

_BYTES_PER_MB = 2**20


def device_id(device: torch.device | str) -> str:
    """``cpu`` or ``cuda:0``: with the number that torch leaves out."""
    target = torch.device(device)
    if target.type == "cuda" and target.index is None:
        return f"cuda:{torch.cuda.current_device()}"
    return str(target)


def device_name(device: torch.device | str) -> str:
    """The maker's name of a processor or GPU."""
    target = torch.device(device)
    if target.type == "cuda":
        return torch.cuda.get_device_name(target)
    return _cpu_name()


def describe_device(device: torch.device | str) -> dict[str, Any]:
    """What a timing depends on: the device, its memory, the versions. Plain JSON values."""
    target = torch.device(device)
    about: dict[str, Any] = {
        "device": device_id(target),
        "name": device_name(target),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_cores": _usable_cores(),
    }
    if target.type == "cuda":
        properties = torch.cuda.get_device_properties(target)
        about["memory_mb"] = properties.total_memory // _BYTES_PER_MB
        about["compute_capability"] = f"{properties.major}.{properties.minor}"
        about["cuda"] = torch.version.cuda
    else:
        about["instructions"] = torch.backends.cpu.get_cpu_capability()
    return about


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
