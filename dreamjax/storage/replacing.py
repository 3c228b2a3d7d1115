"""Replace a folder by a complete new one, which takes two renames, and recover from a kill between them."""

import os
import shutil
import time
from pathlib import Path

from etils import epath

from dreamjax.storage import locks, presence

RECOVER_S = 10.0  # several processes of one run may find the same replacement


def fresh_folder(path: epath.PathLike) -> Path:
    """Return where the new folder is until it replaces `path`; it has this name once it is complete."""
    return _hidden(path, "new")


def replace(path: epath.PathLike) -> None:
    """Give the complete folder at `fresh_folder(path)` the name `path`, and delete the old one."""
    fresh, old = _hidden(path, "new"), _hidden(path, "old")
    shutil.rmtree(old, ignore_errors=True)
    if presence.exists(path):
        os.rename(path, old)
    os.rename(fresh, path)
    shutil.rmtree(old, ignore_errors=True)


def recover(path: epath.PathLike) -> None:
    """Finish a replacement that was killed between its renames, when nothing has the name `path`.

    Raise locks.Busy where a process is replacing the folder right now.
    """
    if "://" in str(path) or not _is_hidden(path):
        return
    until = time.monotonic() + RECOVER_S
    with locks.output(path, stop=lambda: time.monotonic() > until):
        if _is_hidden(path):
            fresh = _hidden(path, "new")
            os.rename(fresh if presence.exists(fresh) else _hidden(path, "old"), path)


def remove_leftovers(path: epath.PathLike) -> None:
    """Delete what a killed process left of a replacement. The caller holds the lock of `path`, which exists."""
    for state in ("new", "old"):
        shutil.rmtree(_hidden(path, state), ignore_errors=True)


def _is_hidden(path: epath.PathLike) -> bool:
    places = (_hidden(path, "new"), _hidden(path, "old"))
    return not presence.exists(path) and any(map(presence.exists, places))


def _hidden(path: epath.PathLike, state: str) -> Path:
    whole = Path(os.path.abspath(path))
    return whole.parent / f".{whole.name}.{state}"
