"""A folder that is replaced has its old or its new content, also after a kill at any point."""

import contextlib
import os

import pytest

from dreamjax.storage import replacing


class Killed(BaseException):
    """Stands for SIGKILL: nothing is cleaned up."""


@pytest.mark.parametrize("renames", range(3))
@pytest.mark.parametrize("replaces", [True, False])
def test_a_folder_is_whole_after_a_kill_at_any_rename(tmp_path, monkeypatch, renames, replaces):
    out, rename, done = tmp_path / "out", os.rename, []

    def killed(*paths):
        if len(done) == renames:
            raise Killed
        done.append(paths)
        rename(*paths)

    if replaces:
        out.mkdir()
        (out / "content").write_text("old")
    replacing.fresh_folder(out).mkdir()
    (replacing.fresh_folder(out) / "content").write_text("new")
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", killed)
        with contextlib.suppress(Killed):
            replacing.replace(out)
    replacing.recover(out)
    assert (out / "content").read_text() == ("old" if replaces and renames == 0 else "new")
    replacing.remove_leftovers(out)
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_that_is_there_or_was_never_there_is_left_alone(tmp_path):
    replacing.recover(tmp_path / "out")
    assert os.listdir(tmp_path) == []
    for name in ("out", ".out.new"):
        (tmp_path / name).mkdir()
    replacing.recover(tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == [".out.new", "out"]
