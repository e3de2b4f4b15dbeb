from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch


def pytest_configure() -> None:
    several = "PYTEST_XDIST_WORKER" in os.environ
    torch.set_num_threads(1 if several else min(2, torch.get_num_threads()))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and recorded reference outputs beside the checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder ../shared (real images and reference outputs), which is not here")
    return folder
