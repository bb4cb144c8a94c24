"""A device: which one to take, what it is called, what it computes in, and what a timing on it depends on."""

from __future__ import annotations

import contextlib
import platform
from contextlib import AbstractContextManager
from typing import Any

import torch

from crossvit_core.machine import count_cores, cpu_name

_BYTES_PER_MB = 2**20


def pick_device(asked: str) -> str:
    """'auto' is the first GPU that this process sees, else the CPU."""
    if asked == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    return asked


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
    return cpu_name()


def describe_device(device: torch.device | str) -> dict[str, Any]:
    """What a timing depends on: the device, its memory, the versions. Plain JSON values."""
    target = torch.device(device)
    about: dict[str, Any] = {
        "device": device_id(target),
        "name": device_name(target),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_cores": count_cores(),
    }
    if target.type == "cuda":
        properties = torch.cuda.get_device_properties(target)
        about["memory_mb"] = properties.total_memory // _BYTES_PER_MB
        about["compute_capability"] = f"{properties.major}.{properties.minor}"
        about["cuda"] = torch.version.cuda
    else:
        about["instructions"] = torch.backends.cpu.get_cpu_capability()
    return about


def autocast(device: torch.device | str, amp: bool) -> AbstractContextManager[object]:
    """bfloat16 autocast on a GPU, nothing on a CPU."""
    if precision(device, amp) == "bf16":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()


def precision(device: torch.device | str, amp: bool) -> str:
    """What a network computes in on ``device``: "bf16" under ``autocast``, else "fp32"."""
    return "bf16" if amp and torch.device(device).type == "cuda" else "fp32"


def free_memory(device: torch.device | str) -> None:
    """Give back what torch keeps of a GPU's memory for its next tensors; also after an error of the GPU."""
    if torch.device(device).type == "cuda":
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()
