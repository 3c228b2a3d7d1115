"""A lock goes with its process, is waited for, and a place without locks goes on without."""

import errno
import fcntl

import pytest
from etils import epath

from dreamjax.storage import locks
from tests.support import held_elsewhere


@pytest.fixture
def holder(tmp_path):
    with held_elsewhere(tmp_path / "lock") as process:
        yield process


def test_reports_a_lock_held_by_another_process(holder, tmp_path):
    with pytest.raises(locks.Busy, match="the run is in use by another process; wait for it"), held(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with held(tmp_path):
        pass


def test_waits_for_a_lock(holder, tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: (waited.append(seconds), holder.kill(), holder.wait()))
    with held(tmp_path, stop=lambda: False):
        assert waited == [locks.POLL]


def test_waiting_for_a_lock_can_be_stopped(holder, tmp_path):
    with pytest.raises(locks.Busy), held(tmp_path, stop=lambda: True):
        pass


def test_continues_on_a_file_system_without_locks_and_raises_other_errors(tmp_path, monkeypatch, caplog):
    code = errno.ENOLCK

    def fails(*_):
        raise OSError(code, "as told")

    monkeypatch.setattr(fcntl, "lockf", fails)
    with held(tmp_path):
        assert "without locks" in caplog.text
    code = errno.EIO
    with pytest.raises(OSError, match="as told"), held(tmp_path):
        pass
    with locks.held(epath.Path("gs://bucket/lock"), "the run"):
        pass


def held(folder, **how):
    return locks.held(epath.Path(folder) / "lock", "the run", **how)
