"""What the records of trials say, without their signals: which image was shown to whom, when, and in which split."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from dreamjax.errors import UserError
from dreamjax.signals.datasets import records, tf_example
from dreamjax.signals.recordings import identity
from dreamjax.typing import JsonDict


@dataclass(frozen=True)
class Catalogue:
    """What the records of some datasets say, without their signals."""

    split: np.ndarray  # of str, of each record
    image: Int[np.ndarray, "records"]  # -1 where it is not known what was seen
    subject: Int[np.ndarray, "records"]
    session: Int[np.ndarray, "records"]
    start: Float[np.ndarray, "records"]
    images: tuple[str, ...]
    concept: tuple[str, ...]
    subjects: tuple[str, ...]
    settings: tuple[JsonDict, ...]  # of each dataset
    ends: Int[np.ndarray, "datasets"]


def catalogue(paths: Sequence[str]) -> Catalogue:
    """Return the catalogue of datasets. Raise UserError for a folder that is none, or in which no image is known."""
    if not paths:
        raise UserError(
            "data.path is empty; name a folder that `dreamjax prepare` wrote, or, to count and plan without data, set "
            "sizes.channels, sizes.samples, sizes.people and sizes.features"
        )
    stamps = tuple(str(records.load_dataset(path)["shards"]) for path in paths)
    return _catalogue(tuple(map(str, paths)), stamps)


@functools.lru_cache(maxsize=4)
def _catalogue(paths: tuple[str, ...], stamps: tuple[str, ...]) -> Catalogue:
    split: list[str] = []
    rows: list[tuple[str, str, str, str, float]] = []
    ends, settings = [], []
    for path in paths:
        dataset = records.load_dataset(path)
        settings.append(dataset.get("settings", {}))
        for name in dataset["splits"]:
            reader = records.open_split(path, name)
            for first in range(0, len(reader), 256):
                for record in reader.read(range(first, min(first + 256, len(reader)))):
                    rows.append(_facts(record))
                    split.append(name)
        ends.append(len(rows))
    stimuli = sorted({row[0] for row in rows} - {""})
    if not stimuli:
        raise UserError(
            f"{', '.join(paths)}: no record names the image that was seen; prepare a corpus of trials, or recordings "
            "with --events whose stim_file names the images"
        )
    of_concept = {row[0]: row[1] for row in rows}
    people, sessions = (sorted({key(row) for row in rows}) for key in (lambda r: r[2], lambda r: r[2:4]))
    numbers = {name: i for i, name in enumerate(stimuli)}
    by_person, by_session = ({one: i for i, one in enumerate(names)} for names in (people, sessions))
    return Catalogue(
        split=np.array(split),
        image=np.array([numbers.get(row[0], -1) for row in rows]),
        subject=np.array([by_person[row[2]] for row in rows]),
        session=np.array([by_session[row[2:4]] for row in rows]),
        start=np.array([row[4] for row in rows]),
        images=tuple(stimuli),
        concept=tuple(of_concept[name] or name for name in stimuli),
        subjects=tuple(people),
        settings=tuple(settings),
        ends=np.array(ends),
    )


def _facts(record: bytes) -> tuple[str, str, str, str, float]:
    """Return (stimulus, concept, person, session, start) of a record."""
    feature = tf_example.parse(record)

    def text(name: str) -> str:
        return records.texts(feature, name)[0].decode()

    start = float(np.frombuffer(feature["start"].bytes_list.value[0])[0])
    return text("stimulus"), text("label"), identity.unit(text("subject"), text("recording")), text("session"), start
