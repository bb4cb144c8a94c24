"""Latency: arithmetic of the summary, order by size, and the state that is put back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from crossvit_core.measure_latency import FLAGS, Latency, _summarise, measure_latency


def layers(depth: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 192), *(nn.Linear(192, 192) for _ in range(depth)), nn.Dropout(0.5)
    )


def measure(model: nn.Module, **options: object) -> Latency:
    defaults: dict = {"size": (8, 8), "in_channels": 1, "pairs": 10, "window_ms": 2.0}
    return measure_latency(model, **{**defaults, **options})


def test_a_deeper_model_takes_longer_and_the_tail_is_above_the_median() -> None:
    short, long = measure(layers(2)), measure(layers(24))
    assert long.ms > 2 * short.ms
    for found in (short, long):
        assert 0 < found.ms <= found.p95_ms
        assert found.passes >= 10
        assert (found.device, found.threads) == ("cpu", 1)
        assert set(found.flags) <= set(FLAGS)
        assert found.metrics() == {
            "latency_ms": found.ms,
            "latency_iqr_ms": found.iqr_ms,
            "latency_p95_ms": found.p95_ms,
            "latency_flags": len(found.flags),
        }


def test_everything_is_put_back() -> None:
    model = layers(1)
    state = torch.random.get_rng_state()
    torch.set_num_threads(2)
    try:
        measure(model)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_slow_phase_of_the_machine_moves_nothing() -> None:
    """Threefold slower for a third of the windows, model and reference alike; one pass in ten is a straggler."""
    slowness = np.repeat([1.0, 3.0, 1.0], 10)
    passes = 0.002 * np.tile([1.0] * 9 + [2.0], (30, 1)) * slowness[:, None]
    found = _summarise(passes, 0.001 * slowness, (), "cpu", 1, 1.0)
    assert (found.ms, found.iqr_ms, found.p95_ms) == (pytest.approx(2), pytest.approx(0), pytest.approx(4))
    assert found.passes == 300


def test_slow_models_get_fewer_windows() -> None:
    found = measure(layers(4), pairs=200, window_ms=5.0, max_seconds=0.1)
    assert "few_windows" in found.flags


@pytest.mark.parametrize(("name", "value"), [("pairs", 1), ("window_ms", 0.0)])
def test_senseless_settings_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} {value} is too small"):
        measure(layers(1), **{name: value})
