"""Settings for every test."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

# A shared machine has slow moments; tests assert no times.
settings.register_profile("zeromean", deadline=None)
settings.load_profile("zeromean")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
