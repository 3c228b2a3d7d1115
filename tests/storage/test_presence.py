"""A path that cannot be read for now is not a path that does not exist."""

import errno
import os

import numpy as np
import pytest
from etils import epath

from dreamjax.storage import image_files, manifest, presence, sniffing
from tests.support import unreadable


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ELOOP])
def test_reports_a_path_that_cannot_be_read(tmp_path, code):
    (tmp_path / "a").mkdir()
    for ask in (presence.exists, presence.is_folder, presence.is_file, presence.entries):
        with (
            unreadable(tmp_path / "a", code),
            pytest.raises(presence.CannotRead, match=rf"a/b cannot be read \({os.strerror(code)}\)"),
        ):
            ask(tmp_path / "a" / "b")


def test_a_missing_path_does_not_exist(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("missing", "missing/deeper", "file/deeper", "x" * 300, "null\0byte"):
        assert not presence.exists(f"{tmp_path}/{name}")
        assert presence.entries(f"{tmp_path}/{name}") == []
    assert presence.is_file(tmp_path / "file")
    assert [entry.name for entry in presence.entries(tmp_path)] == ["file"]


def test_reports_a_store_that_does_not_answer(object_store, monkeypatch):
    (object_store / "a").write_text("1")
    assert presence.exists(object_store / "a")
    assert presence.is_folder(object_store)
    assert not presence.exists(object_store / "b")

    def refuses(*_, **__):
        raise PermissionError("Forbidden")

    monkeypatch.setattr(type(object_store._backend.fs(object_store)), "info", refuses)
    with pytest.raises(presence.CannotRead, match=r"bucket/a cannot be read \(Forbidden\)"):
        presence.exists(object_store / "a")


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path):
    (tmp_path / "folder").mkdir()
    image_files.write_png(tmp_path / "folder" / "image.png", np.zeros((8, 8, 3), "uint8"))
    (tmp_path / "folder" / "a.json").write_text("{}")
    manifest.write(tmp_path / "folder")
    folder = epath.Path(tmp_path / "folder")
    reads = {
        "a.json": lambda path: sniffing.read_json(path, "delete it"),
        "image.png": image_files.open_image,
        "manifest.json": lambda path: manifest.problems(path.parent),
    }
    for name, read in reads.items():
        with unreadable(tmp_path / "folder"), pytest.raises(presence.CannotRead) as caught:
            read(folder / name)
        assert "delete" not in str(caught.value)
        assert "damaged" not in str(caught.value)
