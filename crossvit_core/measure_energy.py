"""Energy of a forward pass per image, on a warm device that nothing else of ours uses. ``energy`` says what counts."""

from __future__ import annotations

import torch
from torch import nn

from crossvit_core.config import Size
from crossvit_core.device_info import autocast
from crossvit_core.device_lock import DeviceLock
from crossvit_core.energy import EnergyMeter, energy_per_image_mj, open_meter
from crossvit_core.timing import quiet, random_images, warm_up

_WARM_UP_SECONDS = 0.01


def measure_energy_mj(
    model: nn.Module,
    *,
    size: Size,
    in_channels: int,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    seconds: float = 1.0,
    amp: bool = False,
    lock: DeviceLock | None = None,
    meter: EnergyMeter | None = None,
) -> float:
    """Millijoules per image of forward passes over a batch, from ``seconds`` of them. ``lock`` is held exclusively.

    ``meter`` replaces the device's own. Raises energy.EnergyUnavailableError where nothing counts energy.
    """
    target = torch.device(device)
    counter = meter or open_device_meter(target)
    images = random_images(batch_size, in_channels, size, target)

    with quiet(model.to(target), target, amp, lock), autocast(target, amp):
        calls = warm_up(model, images, _WARM_UP_SECONDS).calls

        def run() -> int:
            for _ in range(calls):  # the device is kept busy: it is waited for once in a while, not after every pass
                model(images)
            if target.type == "cuda":
                torch.cuda.synchronize(target)
            return calls * batch_size

        return energy_per_image_mj(counter, run, seconds)


def open_device_meter(device: torch.device) -> EnergyMeter:
    """The energy counter of a torch device. Raises energy.EnergyUnavailableError."""
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}" if device.type == "cuda" else ""
    return open_meter(str(device), uuid)
