"""Tasks for `workers.run` that end badly, as a foreign reader may; importable in a child process."""

import ctypes
import errno
import os
import resource
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
    if task == "hoard":
        bytearray(3 << 30)
    if task == "hang":
        time.sleep(600)
    if task == "raise":
        raise ValueError("Patient Hans Mustermann, born 1970")
    if task == "refuse":
        raise UserError("the file is empty")
    if task == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return task.upper()


LIMIT = 6 << 30  # bytes of address space: a header that asks for more gets an error and not the machine's memory


def open_and_read(path: str, beat: Callable[[], None]) -> dict[str, int]:
    """Open a recording and read its first and last second, as preparing it would; what it promises."""
    from dreamjax.signals.recordings.opening import open_recording

    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    recording = open_recording(path)
    second = min(round(recording.sfreq), recording.n_samples, 20000)
    for start in (0, recording.n_samples - second):
        if recording.read(start, start + second, range(min(4, len(recording.ch_names)))).shape[1] != second:
            raise ValueError("a span of another length")
    if not all(0 <= a < b <= recording.n_samples for a, b in recording.segments):
        raise ValueError("segments outside the recording")
    return {"values": recording.n_samples * len(recording.ch_names)}
