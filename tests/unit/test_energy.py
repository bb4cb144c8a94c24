"""Energy from counters: RAPL's files as the kernel lays them out, steps, wrap-around, and what is said without any."""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from crossvit_core.energy import EnergyUnavailableError, RaplMeter, energy_per_image_mj, open_meter
from crossvit_core.measure_energy import measure_energy_mj


def add_zone(root: Path, folder: str, name: str, energy_uj: int) -> Path:
    zone = root / folder
    zone.mkdir(parents=True)
    (zone / "name").write_text(f"{name}\n")
    (zone / "max_energy_range_uj").write_text("1000000\n")
    (zone / "energy_uj").write_text(f"{energy_uj}\n")
    return zone / "energy_uj"


def test_packages_are_added_up_and_their_parts_are_not(tmp_path: Path) -> None:
    first = add_zone(tmp_path, "intel-rapl:0", "package-0", 5000)
    add_zone(tmp_path, "intel-rapl:0:0", "core", 3000)
    add_zone(tmp_path, "intel-rapl:1", "package-1", 7000)
    add_zone(tmp_path, "intel-rapl:2", "psys", 90000)
    add_zone(tmp_path, "intel-rapl-mmio:0", "package-0", 5000)
    meter = RaplMeter(tmp_path)
    assert meter.read_mj() == 12
    first.write_text("6000\n")
    assert meter.read_mj() == 13


def test_a_counter_that_wraps_around_goes_on(tmp_path: Path) -> None:
    counter = add_zone(tmp_path, "intel-rapl:0", "package-0", 999_000)
    meter = RaplMeter(tmp_path)
    assert meter.read_mj() == 999
    counter.write_text("2000\n")
    assert meter.read_mj() == 1002


@pytest.fixture
def counter_at_two_watts(tmp_path: Path) -> Iterator[Path]:
    """A package that draws two watts: a thread moves its counter file every five milliseconds."""
    counter = add_zone(tmp_path, "intel-rapl:0", "package-0", 0)
    running = threading.Event()
    running.set()

    def tick() -> None:
        start = time.perf_counter()
        while running.is_set():
            new = counter.with_name("new")
            new.write_text(f"{int(2e6 * (time.perf_counter() - start)) % 1_000_000}\n")
            new.replace(counter)
            time.sleep(0.005)

    thread = threading.Thread(target=tick)
    thread.start()
    yield tmp_path
    running.clear()
    thread.join()


def test_energy_is_power_times_time_per_image(counter_at_two_watts: Path) -> None:
    """Batches of 4 images that take 10 ms at 2 W: 5 mJ an image. The counter wraps around on the way."""
    calls: list[float] = []

    def run() -> int:
        calls.append(time.perf_counter())
        time.sleep(0.01)
        return 4

    found = energy_per_image_mj(RaplMeter(counter_at_two_watts), run, min_seconds=0.7)
    milliseconds_per_image = 1000 * (calls[-1] - calls[0]) / (4 * (len(calls) - 1))
    assert found == pytest.approx(2 * milliseconds_per_image, rel=0.15)


def test_a_model_is_measured_on_its_own_meter(counter_at_two_watts: Path) -> None:
    meter = RaplMeter(counter_at_two_watts)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Dropout(0.5))
    assert measure_energy_mj(model, size=(8, 8), in_channels=1, batch_size=4, seconds=0.1, meter=meter) > 0
    assert model.training


def test_a_counter_that_stands_still_is_no_counter(tmp_path: Path) -> None:
    add_zone(tmp_path, "intel-rapl:0", "package-0", 5000)
    with pytest.raises(EnergyUnavailableError, match="stands still"):
        energy_per_image_mj(RaplMeter(tmp_path), lambda: 1)


def test_without_a_counter_it_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(EnergyUnavailableError, match="no readable RAPL package counter in "):
        open_meter("cpu", powercap=tmp_path)
    zone = add_zone(tmp_path, "intel-rapl:0", "package-0", 5000)
    zone.write_text("not a number")
    with pytest.raises(EnergyUnavailableError, match="no readable RAPL"):
        open_meter("cpu", powercap=tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("pynvml") is not None, reason="the driver's package is installed")
def test_a_gpu_needs_the_drivers_package() -> None:
    with pytest.raises(EnergyUnavailableError, match=r"needs the package nvidia-ml-py \(pynvml\)"):
        open_meter("cuda:0")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    pytest.importorskip("pynvml")
    small, large = (nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, width)) for width in (64, 8192))
    found = [
        measure_energy_mj(model, size=(8, 8), in_channels=1, batch_size=4096, device="cuda") for model in (small, large)
    ]
    assert 0 < found[0] < found[1]
