"""A bank is made once: a second maker waits for the first, and one that fails leaves nothing."""

import signal

import jax.numpy as jnp
import numpy as np
import pytest

from dreamjax.errors import TryAgain
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.storage import locks
from dreamjax.targets import features
from dreamjax.training import preemption
from tests.support import held_elsewhere

ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)


def made(root, load=lambda: (lambda _, rows: rows["x"] * 2, {}, lambda index: {"x": jnp.asarray(ROWS[index])})):
    return features.open_array(root, "test", {"of": "rows"}, len(ROWS), load, 3, meshes.make(MeshConfig()))


def test_a_bank_that_cannot_be_made_leaves_nothing(tmp_path):
    def fails():
        raise KeyError

    with pytest.raises(KeyError):
        made(tmp_path / "runs" / "bank", fails)
    assert list(tmp_path.iterdir()) == []


def test_of_two_makers_of_a_bank_one_waits(tmp_path, monkeypatch):
    """Another process makes it: this one waits, and reads what that one wrote."""
    made(tmp_path)
    (bank,) = tmp_path.iterdir()
    hidden = bank.rename(tmp_path / "not yet")

    def ends(_):
        hidden.rename(bank)
        holder.kill()
        holder.wait()

    with held_elsewhere(tmp_path / f".{bank.name}.lock") as holder:
        monkeypatch.setattr(locks.time, "sleep", ends)
        np.testing.assert_array_equal(made(tmp_path, load=None), ROWS * 2)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_for_a_bank_at_once(tmp_path, monkeypatch, python_handles_control_c, signum):
    """Also within training, which notes signals until a step has ended."""
    made(tmp_path)
    (bank,) = tmp_path.iterdir()
    hidden = bank.rename(tmp_path / "not yet")
    with held_elsewhere(tmp_path / f".{bank.name}.lock"), preemption.Watch() as watch:
        monkeypatch.setattr(locks.time, "sleep", lambda _: signal.raise_signal(signum))
        with pytest.raises(TryAgain, match=r"stopped while waiting for .*test-.*, which another process uses; start"):
            made(tmp_path, load=None)
        assert not watch.requested()
        signal.raise_signal(signum)
        assert watch.requested()  # its handler is in place again
    assert sorted(tmp_path.iterdir()) == [tmp_path / f".{bank.name}.lock", hidden]  # that of the other process


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_making_of_a_bank_and_leaves_nothing(tmp_path, python_handles_control_c, signum):
    """A second signal does not disturb the clean-up."""

    def rows(index):
        try:
            signal.raise_signal(signum)
        finally:
            signal.raise_signal(signum)
        return {"x": jnp.asarray(ROWS[index])}

    with pytest.raises(TryAgain, match="stopped while 3 rows of test were being computed"), preemption.Watch():
        made(tmp_path / "runs" / "bank", lambda: (lambda _, rows: rows["x"], {}, rows))
    assert list(tmp_path.iterdir()) == []
