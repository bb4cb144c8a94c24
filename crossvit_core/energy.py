"""Energy per image, where the driver counts it: NVIDIA's counter of a GPU, RAPL's of a processor.

A counter tells of the whole device: its idle power is in the figure, and so is whatever else runs on it meanwhile. On a
GPU the device lock keeps our own work away; on a CPU, figures of several workers include each other's work, so search
with one worker where energy matters.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

POWERCAP = Path("/sys/class/powercap")

_UJ_PER_MJ = 1000
_LONGEST_TICK_SECONDS = 1.0


class EnergyMeter(Protocol):
    """A counter of energy that rises for ever, in millijoules."""

    def read_mj(self) -> float: ...


class EnergyUnavailableError(RuntimeError):
    """No counter of energy can be read here; the message says which was looked for."""


def open_meter(device: str, gpu_uuid: str = "", powercap: Path = POWERCAP) -> EnergyMeter:
    """The counter of a device ('cpu', 'cuda', 'cuda:0'). Raises EnergyUnavailableError saying what is missing.

    ``gpu_uuid`` names the GPU to its driver, whose numbering need not be that of the process.
    """
    return _open_gpu(gpu_uuid) if device.startswith("cuda") else RaplMeter(powercap)


def energy_per_image_mj(meter: EnergyMeter, run: Callable[[], int], min_seconds: float = 1.0) -> float:
    """Millijoules per image of ``run``, which works once, waits for the device and returns its number of images.

    Counters move in steps of up to a tenth of a second, so counting starts at a step and ends at the first one after
    ``min_seconds``. Raises EnergyUnavailableError for a counter that stands still.
    """
    before, _ = _next_step(meter, run)
    start, images = time.perf_counter(), 0
    while time.perf_counter() - start < min_seconds:
        images += run()
        meter.read_mj()  # a counter that wraps around must not do so twice between two looks
    after, more = _next_step(meter, run)
    return (after - before) / (images + more)


def _next_step(meter: EnergyMeter, run: Callable[[], int]) -> tuple[float, int]:
    """Work until the counter moves: its new value, and the images of that work."""
    first, images, start = meter.read_mj(), 0, time.perf_counter()
    while time.perf_counter() - start < _LONGEST_TICK_SECONDS or not images:
        images += run()
        value = meter.read_mj()
        if value != first:
            return value, images
    raise EnergyUnavailableError("the energy counter stands still")


class RaplMeter:
    """The processor packages' counters of Linux's power capping interface, added up."""

    def __init__(self, root: Path = POWERCAP) -> None:
        self._packages = [_Package(folder) for folder in sorted(root.glob("*-rapl:*")) if _is_package(folder)]
        if not self._packages:
            raise EnergyUnavailableError(f"energy of the CPU: no readable RAPL package counter in {root}")

    def read_mj(self) -> float:
        return sum(package.read_uj() for package in self._packages) / _UJ_PER_MJ


class _Package:
    """One package's counter, going on where it wraps around."""

    def __init__(self, folder: Path) -> None:
        self._counter = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text())
        self._last = self._raw()
        self._wrapped = 0

    def read_uj(self) -> int:
        value = self._raw()
        if value < self._last:
            self._wrapped += self._range
        self._last = value
        return self._wrapped + value

    def _raw(self) -> int:
        return int(self._counter.read_text())


class _NvmlMeter:
    """An NVIDIA GPU's own counter (Volta and later)."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    def read_mj(self) -> float:
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))


def _open_gpu(uuid: str) -> EnergyMeter:
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        raise EnergyUnavailableError("energy of the GPU: needs the package nvidia-ml-py (pynvml)") from None
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid) if uuid else nvml.nvmlDeviceGetHandleByIndex(0)
        meter = _NvmlMeter(nvml, handle)
        meter.read_mj()
    except nvml.NVMLError as error:
        raise EnergyUnavailableError(f"energy of the GPU: its driver says {error}") from error
    return meter


def _is_package(folder: Path) -> bool:
    """Whether it is a whole package whose counter this user may read (others are parts of one, or the board's)."""
    try:
        int((folder / "energy_uj").read_text())
        return (folder / "name").read_text().startswith("package")
    except (OSError, ValueError):
        return False
