"""What a process was at that ended without a word: a machine out of memory kills, and says nothing.

A point that is begun has a note of how far it was; whoever ends it, well or not, takes the note away. A note that is
still there is of a process that was killed. Killed again and again with nothing saved in between, the point has failed.
"""

import contextlib
from collections.abc import Iterator, Sequence

from etils import epath

from dreamjax.sweeps.runs import Place, read_json, write_json
from dreamjax.training import checkpoints

LIMIT = 2  # deaths without progress that are one failure
SENTENCE = (
    f"its process was killed {LIMIT} times with nothing saved in between, as on a machine out of memory; a smaller "
    "batch or model, or fewer points together"
)


@contextlib.contextmanager
def watched(places: Sequence[Place], runs: Sequence[epath.Path]) -> Iterator[int]:
    """While points are worked at, whose steps are saved in `runs`; gives how often processes have died at them."""
    notes, reached = [place.folder / "begun.json" for place in places], _reached(places, runs)
    found = 0
    for note in notes:
        before = read_json(note) or {}
        deaths = before.get("deaths", 0) + 1 if before.get("reached") == reached else 0
        found = max(found, deaths)
        write_json(note, {"deaths": deaths, "reached": reached})
    try:
        yield found
    finally:
        for note in notes:
            note.unlink(missing_ok=True)


def at(places: Sequence[Place]) -> bool:
    """Whether a process has died at one of these points, and none has begun it since."""
    return any((place.folder / "begun.json").exists() for place in places)


def _reached(places: Sequence[Place], runs: Sequence[epath.Path]) -> list[int]:
    """How many lengths are measured, and the newest saved step of each run."""
    legs = sum(len(list(place.folder.glob("leg-*.json"))) for place in places)
    return [legs, *(max(checkpoints.committed_steps(run / "checkpoints"), default=0) for run in runs)]
