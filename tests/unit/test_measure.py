"""The timing protocol: what is reported and put back, and that it sees size, contention and drift."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crossvit_core.device_info import describe_device, device_id, device_name
from crossvit_core.device_lock import DeviceLock
from crossvit_core.measure import (
    FLAGS,
    Throughput,
    _summarise,
    _Windows,
    measure_throughput,
)
from crossvit_core.reference_net import build_reference


class Observer(nn.Module):
    """A network of some depth that notes the circumstances of every call."""

    def __init__(self, depth: int = 1, width: int = 192) -> None:
        super().__init__()
        self.embed = nn.Linear(64, width)
        self.body = nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))
        self.dropout = nn.Dropout(0.5)
        self.seen: set[tuple[bool, bool, int]] = set()
        self.shapes: set[tuple[int, ...]] = set()

    def forward(self, images: Tensor) -> Tensor:
        self.seen.add((self.training, torch.is_inference_mode_enabled(), torch.get_num_threads()))
        self.shapes.add(tuple(images.shape))
        out: Tensor = self.dropout(self.body(self.embed(images.flatten(1))))
        return out


def measure(model: nn.Module, **options: object) -> Throughput:
    defaults: dict = {"size": (8, 8), "in_channels": 1, "batch_size": 64, "pairs": 10, "window_ms": 2.0}
    return measure_throughput(model, **{**defaults, **options})


def test_reports_figures_that_belong_together() -> None:
    found = measure(Observer())
    assert found.ips == pytest.approx(found.ratio * found.reference_ips)
    assert (found.batch_size, found.windows, found.device, found.threads) == (64, 10, "cpu", 1)
    assert found.precision == measure(Observer(), amp=True).precision == "fp32"  # autocast is for GPUs
    assert found.iqr >= 0
    assert found.ratio_iqr >= 0
    assert found.contention > 0.9
    assert set(found.flags) <= set(FLAGS)
    assert found.metrics() == {
        "throughput_ips": found.ips,
        "throughput_iqr": found.iqr,
        "throughput_ratio": found.ratio,
        "throughput_ratio_iqr": found.ratio_iqr,
        "throughput_contention": found.contention,
        "throughput_flags": len(found.flags),
    }


def test_runs_in_evaluation_on_one_thread_and_puts_everything_back() -> None:
    model = Observer()
    model.body.eval()
    torch.set_num_threads(2)
    try:
        measure(model)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert model.seen == {(False, True, 1)}
    assert model.shapes == {(64, 1, 8, 8)}
    assert (model.training, model.dropout.training, model.body.training) == (True, True, False)


def test_puts_everything_back_after_an_error() -> None:
    model = Observer()
    with pytest.raises(RuntimeError):
        measure(model, size=(9, 9))
    assert model.training
    assert not torch.is_inference_mode_enabled()


def test_leaves_the_global_generator_alone() -> None:
    model = Observer()
    before = torch.random.get_rng_state()
    measure(model)
    assert torch.equal(before, torch.random.get_rng_state())


def test_larger_model_has_a_smaller_ratio() -> None:
    small, large = measure(Observer(depth=4), pairs=20), measure(Observer(depth=16), pairs=20)
    assert small.ratio > 1.5 * large.ratio


def test_reference_against_itself_is_one() -> None:
    found = measure(build_reference((8, 8), 1), pairs=30)
    assert 1 / 1.3 < found.ratio < 1.3


def test_slow_model_gets_fewer_windows() -> None:
    found = measure(Observer(), pairs=200, window_ms=5.0, max_seconds=0.2)
    assert 10 <= found.windows <= 60
    assert "few_windows" in found.flags


@pytest.mark.parametrize(("name", "value"), [("batch_size", 0), ("pairs", 1), ("window_ms", 0.0)])
def test_refuses_senseless_settings(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} {value} is too small"):
        measure(Observer(), **{name: value})


def test_waits_for_the_device_lock(tmp_path: Path) -> None:
    model = Observer()
    with DeviceLock("cpu", tmp_path).exclusive():
        thread = threading.Thread(target=measure, args=(model,), kwargs={"lock": DeviceLock("cpu", tmp_path)})
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
        assert not model.seen
    thread.join(60)
    assert model.seen


_PINNED = """
import os, sys
one_core = {min(os.sched_getaffinity(0))}
if sys.argv[1] == "burn":
    os.sched_setaffinity(0, one_core)
    print("burning", flush=True)
    while True:
        pass
from torch import nn
from crossvit_core.measure import measure_throughput
os.sched_setaffinity(0, one_core)
found = measure_throughput(nn.Flatten(), size=(8, 8), in_channels=1, batch_size=64, pairs=20, window_ms=5.0)
print(found.contention, *found.flags)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin processes")
def test_another_process_on_the_same_core_is_noticed() -> None:
    burner = subprocess.Popen([sys.executable, "-c", _PINNED, "burn"], stdout=subprocess.PIPE, text=True)
    try:
        assert burner.stdout is not None
        assert burner.stdout.readline() == "burning\n"
        run = subprocess.run([sys.executable, "-c", _PINNED, "measure"], capture_output=True, text=True, timeout=120)
    finally:
        burner.kill()
        burner.communicate()
    contention, *flags = run.stdout.split()
    assert float(contention) > 1.3, run.stderr
    assert "contended" in flags


def summarise(model_seconds: np.ndarray, reference_seconds: np.ndarray, **changes: object) -> Throughput:
    fields: dict = {"contention": 1.0, "settled": True, "pairs_asked": len(model_seconds)}
    windows = _Windows(np.stack([model_seconds, reference_seconds], axis=1), **{**fields, **changes})
    return _summarise(windows, 8, "cpu", 1, "fp32")


def test_arithmetic_of_the_summary() -> None:
    # The machine slows down threefold for a third of the windows: paired ratios do not notice.
    speed = np.repeat([1.0, 3.0, 1.0], 10)
    found = summarise(0.002 * speed, 0.001 * speed)
    assert found.ratio == pytest.approx(0.5)
    assert found.ratio_iqr == pytest.approx(0.0)
    assert found.reference_ips == pytest.approx(1000)
    assert found.ips == pytest.approx(500)
    assert found.flags == ()


@pytest.mark.parametrize(
    ("model", "changes", "flag"),
    [
        (np.repeat([0.0020, 0.0021], 10), {}, "drift"),
        (np.tile([0.0020, 0.0025], 10), {}, "spread"),
        (np.full(20, 0.002), {"contention": 1.2}, "contended"),
        (np.full(20, 0.002), {"settled": False}, "unstable"),
        (np.full(20, 0.002), {"pairs_asked": 60}, "few_windows"),
    ],
)
def test_each_sign_of_trouble_has_its_flag(model: np.ndarray, changes: dict, flag: str) -> None:
    assert summarise(model, np.full(20, 0.001), **changes).flags == (flag,)


def test_reference_never_changes() -> None:
    # Stored ratios are to this network: a new yardstick needs a new name, not new numbers here.
    network = build_reference((16, 16), 3)
    assert sum(parameter.numel() for parameter in network.parameters()) == 70730
    with torch.inference_mode():
        logits = network(torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16))
    expected = [[0.066876, -0.433703, -0.522899], [-0.283594, 0.029682, -0.247221]]
    torch.testing.assert_close(logits[:, :3], torch.tensor(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (3, 7), (30, 20), (240, 240)])
def test_reference_takes_any_image(size: tuple[int, int]) -> None:
    assert build_reference(size, 1)(torch.zeros(2, 1, *size)).shape == (2, 10)


def test_device_is_described() -> None:
    about = describe_device("cpu")
    assert about["device"] == "cpu" == device_id("cpu")
    assert about["name"] == device_name("cpu") != ""
    assert about["torch"] == torch.__version__
    assert about["cpu_cores"] >= 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    small, large = (measure(Observer(depth, 4096), device="cuda", batch_size=4096, amp=True) for depth in (2, 20))
    assert small.device == "cuda:0"
    assert small.ratio > 2 * large.ratio
