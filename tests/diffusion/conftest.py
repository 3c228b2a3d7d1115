"""Fixtures of the diffusion tests."""

import jax
import pytest


@pytest.fixture(scope="module")
def quick_compiles():
    """The generator of random numbers takes XLA seconds to optimise, for every program that draws noise."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
