"""A folder appears whole, or not at all: on a disk, and in an object store, where nothing can be renamed."""

import os
import resource

import pytest
from etils.epath import backend
from fsspec.registry import _registry as opened

from dreamjax.errors import UserError
from dreamjax.storage import atomic, paths


def write_two(path, *names):
    with atomic.new_folder(path) as folder:
        for name in names:
            (folder / name).write_text(name)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with atomic.new_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "a").read_text() == "1"
    with pytest.raises(IsADirectoryError):
        write_two(tmp_path / "other", "a", "")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("new", [atomic.new_file, atomic.new_folder])
def test_what_fails_leaves_no_folder_above_it(tmp_path, new):
    (tmp_path / "there").mkdir()
    for path in (tmp_path / "a" / "b" / "out", tmp_path / "there" / "out"):
        with pytest.raises(KeyError), new(path):
            raise KeyError
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]
    with new(tmp_path / "a" / "b" / "out"):
        pass
    assert (tmp_path / "a" / "b" / "out").exists()


def test_in_an_object_store_the_file_that_makes_it_count_comes_last(object_store, monkeypatch):
    order, write = [], atomic.write_bytes
    monkeypatch.setattr(atomic, "write_bytes", lambda path, data: (order.append(path.name), write(path, data)))
    with atomic.new_folder(object_store / "out", last="config.json") as folder:
        for name in ("a", "config.json", "z"):
            (folder / name).write_text(name)
        (folder / "inner").mkdir()
        (folder / "inner" / "b").write_text("b")
        assert not (object_store / "out").exists()
    assert order == ["a", "b", "z", "config.json"]
    assert (object_store / "out" / "inner" / "b").read_text() == "b"


def test_a_copy_that_fails_leaves_nothing_in_the_object_store(object_store, monkeypatch):
    write = atomic.write_bytes

    def fail_at_z(path, data):
        if path.name == "z":
            raise OSError("connection lost")
        write(path, data)

    monkeypatch.setattr(atomic, "write_bytes", fail_at_z)
    with pytest.raises(OSError, match="connection lost"):
        write_two(object_store / "out", "a", "z")
    assert not (object_store / "out" / "a").exists()


def test_files_of_one_result_are_all_written_or_none(tmp_path):
    """Of an evaluation: no page of new numbers next to old ones. The sentence names the file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "scores.json").write_text("old")
    for folder, left in ((tmp_path, ["scores.json"]), (tmp_path / "new" / "one", ["scores.json"])):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
        try:
            with pytest.raises(OSError, match="File too large") as full:
                atomic.write_together(folder, {"scores.json": b"new", "plot.png": bytes(2 << 20)})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert full.value.filename == str(folder / "plot.png")
        assert [path.name for path in tmp_path.iterdir()] == left
    assert (tmp_path / "scores.json").read_text() == "old"
    atomic.write_together(tmp_path, {"scores.json": b"new", "plot.png": b""})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plot.png", "scores.json"]


def test_files_of_one_result_get_their_names_in_the_given_order(tmp_path, monkeypatch):
    """A process that is killed in between leaves no new summary that names files which are not there."""
    renamed, rename = [], os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (renamed.append(os.path.basename(new)), rename(old, new)))
    atomic.write_together(tmp_path, {"plot.png": b"", "table.csv": b"", "scores.json": b"{}"})
    assert renamed == ["plot.png", "table.csv", "scores.json"]


@pytest.mark.parametrize(
    ("path", "told"),
    [("gs://bucket/run", "pip install gcsfs"), ("ftp://host/run", "use gs:// or s3://, or a folder")],
)
def test_reports_a_store_without_an_installed_package(path, told, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    for name in ("gs", "gcs"):  # TFDS, used by another test, may have opened the store already
        monkeypatch.delitem(opened, name, raising=False)
    backend.fsspec_backend._get_filesystem.cache_clear()
    with pytest.raises(UserError, match=told):
        paths.reachable(path)
