"""Settings that must stand before jax starts: eight forced host devices, x64 off."""

import os

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_ENABLE_X64"] = "0"

import numpy as np
import pytest

import ternax as tx


@pytest.fixture(params=["native", "reference"])
def backend(request):
    """Runs the test on both backends."""
    with tx.backend(request.param):
        yield request.param


@pytest.fixture
def random():
    return np.random.default_rng(0)
