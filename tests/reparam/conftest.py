"""The backends that compute re-parametrized weights: Triton has no kernels for them."""

from __future__ import annotations

import pytest
import torch

from zeromean import kernels


@pytest.fixture(params=["reference", "native"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test once with each backend that has its own code for these weights."""
    name = str(request.param)
    if name == "native":
        request.getfixturevalue("native_library")
    monkeypatch.setenv("ZEROMEAN_KERNELS", name)
    assert kernels.backend(torch.get_default_device()) == name
    return name
