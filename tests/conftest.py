"""What every test shares: quiet threads, no network, fixed hash of nothing global."""

from __future__ import annotations

import os
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


@pytest.fixture(autouse=True, scope="session")
def _own_device_locks(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is measured on this machine outside the tests must not keep them waiting, nor they it."""
    os.environ["CROSSVIT_LOCK_DIR"] = str(tmp_path_factory.getbasetemp().parent / "crossvit-locks")
