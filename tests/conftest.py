"""What every test shares: quiet threads, no network, fixed hash of nothing global."""

from __future__ import annotations

from pathlib import Path

import pytest

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """Folder of the reference tables."""
    return FIXTURES


@pytest.fixture(autouse=True, scope="session")
def _one_thread_per_process() -> None:
    import torch

    torch.set_num_threads(1)
