"""What all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).parents[2] / "shared"
"""Reference data that a checkout may have beside it; tests that need it are skipped where it is absent."""

torch.set_num_threads(1)  # the nets are tiny, and threads that wait for each other cost minutes on a busy machine


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data."""
    if not SHARED.is_dir():
        pytest.skip("the folder of reference data is not beside this checkout")
    return SHARED
