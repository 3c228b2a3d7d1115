"""Tasks for `workers.run` that end badly, as a foreign reader may; importable in a child process."""

import ctypes
import errno
import os
import time
from collections.abc import Callable
from typing import Any

from dreamjax.errors import UserError


def act(task: str, beat: Callable[[], None]) -> Any:
    beat()
    if task == "segfault":
        ctypes.string_at(0)
    if task == "exit":
        os._exit(7)
    if task == "hang":
        time.sleep(600)
    if task == "raise":
        raise ValueError("Patient Hans Mustermann, born 1970")
    if task == "refuse":
        raise UserError("the file is empty")
    if task == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return task.upper()
