"""One exported run that the tests of this folder look at."""

import numpy as np
import pytest

from dreamjax.export import driver
from dreamjax.systems import masked_torch

from .support import load_model_file, make_run, tiny_config


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A run exported by the function that the command calls, its checks in a process without JAX included."""
    folder = tmp_path_factory.mktemp("exported")
    params = make_run(folder / "run", tiny_config())
    result = driver.export(folder / "run", folder / "out")
    return folder / "out", params, result


@pytest.fixture
def unchecked(monkeypatch, uncompared):
    """Exports whose numbers are not the matter: neither computed nor compared."""
    monkeypatch.setattr(masked_torch, "parity", lambda task, params: {"input": np.zeros(1, np.float32)})


@pytest.fixture(scope="session")
def model_class(exported):
    return load_model_file(exported[0]).MaskedAutoencoder
