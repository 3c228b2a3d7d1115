"""A lock goes with its process, leaves nothing, and is a lease in an object store."""

import errno
import fcntl
import json
import signal
import threading
import time

import pytest
from etils import epath

from dreamjax.errors import TryAgain, UserError
from dreamjax.storage import leases, locks
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


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_for_a_lock(holder, tmp_path, monkeypatch, python_handles_control_c, signum):
    before = signal.getsignal(signum)
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: signal.raise_signal(signum))
    with pytest.raises(TryAgain, match="stopped while waiting for the run"), held(tmp_path, stop=lambda: False):
        pass
    assert signal.getsignal(signum) is before
    holder.kill()
    holder.wait()
    with held(tmp_path):
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


def test_a_lock_leaves_no_file_and_no_folder(tmp_path):
    with held(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / "lock").exists()
    with pytest.raises(KeyError), held(tmp_path / "a" / "b"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with held(tmp_path / "a" / "b"):
        (tmp_path / "a" / "kept").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "kept"]


def test_the_same_process_does_not_get_a_lock_twice(tmp_path):
    with held(tmp_path), pytest.raises(locks.Busy), held(tmp_path):
        pass
    with held(tmp_path):
        pass


def test_a_lock_on_a_deleted_file_does_not_count(tmp_path, monkeypatch):
    """Its holder deleted the file after this process opened it, and a third one locks a new file of that name."""
    lock, lockf = tmp_path / "lock", fcntl.lockf

    def delete_first(file, how):
        monkeypatch.setattr(fcntl, "lockf", lockf)
        lock.unlink()
        lockf(file, how)

    monkeypatch.setattr(fcntl, "lockf", delete_first)
    with held(tmp_path):
        assert lock.exists()


def test_an_output_has_one_writer_and_loses_what_killed_ones_left(tmp_path):
    for name in (".out.0123abcd.part", ".out.deadbeef.part", ".other.0123abcd.part"):
        (tmp_path / name).mkdir()
    with locks.new_output(tmp_path / "out"):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".other.0123abcd.part", ".out.lock"]
        (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="out exists already"), locks.new_output(tmp_path / "out"):
        pass
    with (
        held_elsewhere(tmp_path / ".new.lock"),
        pytest.raises(locks.Busy, match="new is in use by another process"),
        locks.new_output(tmp_path / "new"),
    ):
        pass


# ------------------------------------------------------------------------------------------------------------- leases
@pytest.fixture
def store(object_store, monkeypatch):
    """An object store in which leases are renewed often."""
    monkeypatch.setattr(leases, "RENEW_S", 0.01)
    return object_store


def write_lease(path, age=0.0, holder="another"):
    path.write_text(json.dumps({"holder": holder, "renewed": str(time.time() - age)}))


def test_an_object_store_is_locked_by_a_lease(store):
    with held(store):
        assert (store / "lock").exists()
    assert not (store / "lock").exists()
    write_lease(store / "lock", age=leases.LEASE_S - 5)
    with pytest.raises(locks.Busy, match=r"one that was killed is noticed within 60 s"), held(store):
        pass


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"holder": "a"}', '{"holder": "a", "renewed": "x"}'])
def test_the_lease_of_a_process_that_is_gone_is_taken(store, content):
    write_lease(store / "lock", age=leases.LEASE_S + 5)
    if content is not None:
        (store / "lock").write_text(content)
    with held(store):
        assert json.loads((store / "lock").read_text())["holder"] != "another"


def test_a_lease_is_renewed_while_it_is_held(store):
    with held(store):
        before = (store / "lock").read_text()
        deadline = time.monotonic() + 10
        while (store / "lock").read_text() == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_of_two_that_take_a_lease_at_once_one_gets_it(store, monkeypatch):
    monkeypatch.setattr(leases.time, "sleep", lambda _: write_lease(store / "lock"))  # while it settles
    with pytest.raises(locks.Busy), held(store):
        pass
    assert json.loads((store / "lock").read_text())["holder"] == "another"


def test_a_signal_while_a_lease_is_taken_leaves_none(store, monkeypatch):
    monkeypatch.setattr(leases.time, "sleep", lambda _: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(TryAgain, match="stopped while waiting for the run"), held(store):
        pass
    assert not (store / "lock").exists()


def test_a_process_whose_lease_was_taken_over_ends(store, monkeypatch, caplog):
    ended = threading.Event()
    monkeypatch.setattr(leases.os, "_exit", lambda code: ended.set())
    with held(store):
        write_lease(store / "lock")
        assert ended.wait(10)
    assert "the run was taken over by another process" in caplog.text


def held(folder, **how):
    return locks.held(epath.Path(folder) / "lock", "the run", **how)
