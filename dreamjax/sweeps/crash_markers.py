"""Mark runs whose process ended without an exception, such as one killed when memory ran out.

A run in training has a marker with its progress, which is removed when training ends, with or without an error. A
marker that remains is of a process that was killed. A run whose process is killed repeatedly without saving has failed.
"""

import contextlib
from collections.abc import Iterator, Sequence

from etils import epath

from dreamjax.errors import UserError
from dreamjax.storage import presence
from dreamjax.sweeps.run_folder import RunFolder, read_json, write_json
from dreamjax.training import checkpoints

MARKER = "begun.json"
LIMIT = 2  # crashes without progress that are one failure
SENTENCE = (
    f"its process was killed {LIMIT} times with nothing saved in between, as on a machine out of memory; a smaller "
    "batch or model, or fewer runs together"
)


@contextlib.contextmanager
def marked(folders: Sequence[RunFolder], trainings: Sequence[epath.Path]) -> Iterator[None]:
    """Mark runs while they are trained, with steps saved in `trainings`. Raise UserError after `LIMIT` crashes."""
    reached = _reached(folders, trainings)
    crashes = 0
    for folder in folders:
        before = read_json(folder.path / MARKER) or {}
        count = before.get("deaths", 0) + 1 if before.get("reached") == reached else 0
        crashes = max(crashes, count)
        write_json(folder.path / MARKER, {"deaths": count, "reached": reached})
    try:
        if crashes >= LIMIT:
            raise UserError(SENTENCE)
        yield
    finally:
        for folder in folders:
            (folder.path / MARKER).unlink(missing_ok=True)


def exist(folders: Sequence[RunFolder]) -> bool:
    """Return whether a process was killed at one of these runs, and none has begun it since."""
    return any(presence.exists(folder.path / MARKER) for folder in folders)


def _reached(folders: Sequence[RunFolder], trainings: Sequence[epath.Path]) -> list[int]:
    """Return how many lengths are scored, and the newest saved step of each training."""
    legs = sum(entry.name.startswith("leg-") for folder in folders for entry in presence.entries(folder.path))
    return [legs, *(max(checkpoints.committed_steps(path / "checkpoints"), default=0) for path in trainings)]
