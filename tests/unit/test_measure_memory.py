"""Peak memory: to the byte where it can be worked out by hand, and everything put back."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from crossvit_core.measure_memory import measure_peak_memory_mb, measure_train_memory_mb
from crossvit_core.model import build_model
from crossvit_core.presets import PRESETS

MB = 2**20
FLOAT = 4


def linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, outputs, bias=bias))


def peak(model: nn.Module, batch_size: int = 32, **options: object) -> float:
    defaults: dict = {"size": (8, 8), "in_channels": 1, "batch_size": batch_size}
    return measure_peak_memory_mb(model, **{**defaults, **options}) * MB


def train_peak(model: nn.Module, batch_size: int = 32, **options: object) -> float:
    defaults: dict = {"size": (8, 8), "in_channels": 1, "num_classes": 50, "batch_size": batch_size}
    return measure_train_memory_mb(model, **{**defaults, **options}) * MB


def test_a_linear_layer_holds_its_weights_its_batch_and_its_output() -> None:
    weights, batch, output = 64 * 50 + 50, 32 * 64, 32 * 50
    assert peak(linear(64, 50)) == FLOAT * (weights + batch + output)


def test_what_is_freed_on_the_way_does_not_add_up() -> None:
    """Four layers of one width, without gradients: two activations are alive at a time."""
    layers = nn.Sequential(nn.Flatten(), *(nn.Linear(64, 64, bias=False) for _ in range(4)))
    assert peak(layers) == FLOAT * (4 * 64 * 64 + 32 * 64 + 2 * 32 * 64)


class Temporary(nn.Module):
    """Allocates 1 MB for a moment, inside one call."""

    def forward(self, images: Tensor) -> Tensor:
        return images + torch.ones(MB // FLOAT).sum()


def test_temporaries_count() -> None:
    batch = 32 * 64 * FLOAT
    assert MB + batch <= peak(Temporary()) <= MB + 3 * batch


def test_a_training_step_holds_gradients_and_two_moments() -> None:
    """With one image the activations are nothing beside a million weights: four copies of them remain."""
    copies = train_peak(linear(64, 4096, bias=False), batch_size=1, num_classes=10) / (64 * 4096 * FLOAT)
    assert 4.0 < copies < 4.2
    with_average = train_peak(linear(64, 4096, bias=False), batch_size=1, num_classes=10, ema=True)
    assert with_average / (64 * 4096 * FLOAT) == pytest.approx(copies + 1)


def test_a_training_step_keeps_the_activations_of_every_layer() -> None:
    def model(depth: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), *(m for _ in range(depth) for m in (nn.Linear(64, 64), nn.Tanh())))

    def kept(batch_size: int) -> float:
        return train_peak(model(8), batch_size) - train_peak(model(4), batch_size)

    # Tanh keeps its output; the next layer's input is the same tensor.
    assert kept(1024) - kept(512) == 4 * 512 * 64 * FLOAT


def test_the_same_figure_every_time_and_in_the_order_of_size() -> None:
    small, large = (build_model(PRESETS[name]) for name in ("crossvit_nano_16", "crossvit_micro_16"))
    options: dict = {"size": (16, 16), "in_channels": PRESETS["crossvit_nano_16"].in_channels}
    found = [peak(model, **options) for model in (small, small, large)]
    assert found[0] == found[1] < found[2]
    trained = [train_peak(model, num_classes=10, **options) for model in (small, small, large)]
    assert trained[0] == trained[1] < trained[2]
    assert trained[0] > 2 * found[0]


def test_model_and_random_state_are_left_alone() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 50), nn.Dropout(0.5))
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()
    peak(model)
    train_peak(model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model] == [True, False, True]
    assert all(parameter.grad is None for parameter in model.parameters())


_SCRIPT = """
from torch import nn
from crossvit_core.measure_memory import measure_peak_memory_mb, measure_train_memory_mb
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
print(measure_peak_memory_mb(model, size=(8, 8), in_channels=1))
print(measure_train_memory_mb(model, size=(8, 8), in_channels=1, num_classes=10, batch_size=8))
"""


def test_nothing_is_printed_but_the_figures() -> None:
    """The profiler's engine talks unless it is told not to."""
    run = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)
    assert run.stderr == ""
    assert len(run.stdout.splitlines()) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_other_tensors_do_not_count() -> None:
    model = linear(64, 4096, bias=False)
    alone = peak(model, device="cuda")
    other = torch.zeros(64 * MB, device="cuda")
    assert peak(model, device="cuda") == alone
    del other
    least = FLOAT * (64 * 4096 + 32 * 64 + 32 * 4096)
    assert least <= alone <= least + 4 * 512
    weights = 64 * 4096 * FLOAT
    assert 4.0 * weights < train_peak(linear(64, 4096, bias=False), 1, num_classes=10, device="cuda") < 4.5 * weights
