"""The derivative of THINGS-MEG: `preprocessed_P1-epo.fif` with its parts `-epo-1.fif`, …; four people.

271 sensors at 200 Hz, 0.1-40 Hz, -0.1 to 1.3 s, in standard deviations of the time before the image. The number of an
event is that of an image of THINGS; 999999 is a catch trial. Which image that is, the trials' metadata say (trial_type,
image_path, category_nr, session_nr, run_nr), or THINGS's two lists next to the files:

    image_paths.csv          row n: the path of image n, such as images/aardvark/aardvark_01b.jpg
    image_concept_index.csv  row n: the number of its concept

Test images are then those that were shown twelve times to a person.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from dreamjax.errors import UserError
from dreamjax.signals.recordings.corpora import things_meg
from dreamjax.signals.recordings.corpora.recording_corpora import THINGS_MEG
from dreamjax.signals.recordings.corpora.trial_set import TrialSet
from dreamjax.signals.recordings.readers import meg_sensors
from dreamjax.signals.recordings.readers.mne_reader import positions_of, quiet, reading, require_mne

FILE = re.compile(r"preprocessed_P(\d+)-epo\.fif")
LISTS = ("image_paths.csv", "image_concept_index.csv")
CATCH, REPEATS = 999999, 12  # event of a catch trial; showings of a test image
METADATA = ("trial_type", "image_path")
NOTE = "onsets of images: those of the published epochs, corrected by an optical sensor"
UNIT = "standard deviations of the time before the image"


@dataclass(frozen=True, kw_only=True)
class EpochTrials(TrialSet):
    """The open epochs of one or several people, without catch trials."""

    epochs: Sequence[Any]  # mne.Epochs of each person, whose signal stays on disk
    picks: Sequence[Sequence[int]]  # MEG channels of each, in one order
    of_person: Int[np.ndarray, "trials 2"]  # person's place in `epochs`, place of the trial in them
    published: Sequence[str]  # split of each trial
    sessions: Sequence[str]  # of each trial; "" where it is not known
    catch: int  # catch trials

    def signal(self, trial: int) -> Float32[np.ndarray, "channels time"]:
        person, i = self.of_person[trial].tolist()
        with quiet():
            x_CxT = self.epochs[person].get_data(picks=self.picks[person], item=[i], copy=True)[0]
        return np.asarray(x_CxT, np.float32)

    def session_name(self, trial: int) -> str:
        return self.sessions[trial]


def is_epochs(path: str) -> bool:
    """Return whether a path is one of the files, or a folder of them."""
    place = Path(path)
    if FILE.fullmatch(place.name):
        return True
    return place.is_dir() and any(FILE.fullmatch(entry.name) for entry in place.iterdir())


def open_trials(path: str, images: str = "") -> EpochTrials:
    """Open the epochs of the person of a file, or of all people of a folder.

    Raise UserError for a file that is damaged or lacks a part, and where nothing says what an event shows.
    """
    place = Path(path)
    files = [place] if place.suffix == ".fif" else sorted(p for p in place.iterdir() if FILE.fullmatch(p.name))
    if lost := [file for file in files if not file.is_file()]:
        raise UserError(f"{lost[0]}: no such file; check the path")
    people, epochs, rows = [], [], []
    of_lists = _lists(files[0].parent)
    for file in files:
        one = _read(file)
        people.append(int(FILE.fullmatch(file.name)[1]))  # type: ignore[index]
        epochs.append(one)
        rows.append(_rows(file, one, of_lists))
    names, picks = _channels(files, epochs)
    shown = [(k, i, row) for k, mine in enumerate(rows) for i, row in enumerate(mine)]
    kept = [(k, i, row) for k, i, row in shown if row["trial_type"] != "catch"]
    published, labels, stimuli = _described(files[0], [row for _, _, row in kept])
    rate, length = float(epochs[0].info["sfreq"]), len(epochs[0].times)
    label_names, image_names = sorted(set(labels)), sorted(set(stimuli))
    info, types = epochs[0].info, epochs[0].get_channel_types()
    kinds = [meg_sensors.kind_of(ch, kind) for ch, kind in zip(info["chs"], types, strict=True)]
    used = {kinds[i] for i in picks[0]}
    xyz = positions_of(info, kinds)
    lists = [file.parent / name for file in files[:1] for name in LISTS if (file.parent / name).is_file()]
    parts = [part for file in files for part in sorted(file.parent.glob(f"{file.stem}*.fif"))]
    return EpochTrials(
        facts=THINGS_MEG,
        source=path,
        files=tuple(map(str, [*parts, *lists])),
        format="things-meg epochs",
        length=np.full(len(kept), length),
        image=np.searchsorted(image_names, stimuli),
        label=np.searchsorted(label_names, labels),
        subject=np.array([people[k] for k, _, _ in kept]),
        labels=tuple(label_names),
        images=tuple(image_names),
        ch_names=tuple(names),
        sfreq=rate,
        seconds=length / rate,
        unit=UNIT,
        record_unit="SD",
        modality="meg",
        sensor_kind=used.pop() if len(used) == 1 else "mag",
        tmin=float(epochs[0].tmin),
        split_names=things_meg.SPLITS,
        needed=(things_meg.TRAIN, things_meg.TEST),
        xyz=None if xyz is None else np.asarray(xyz[list(picks[0])], np.float32),
        epochs=epochs,
        picks=picks,
        of_person=np.array([(k, i) for k, i, _ in kept]).reshape(-1, 2),
        published=published,
        sessions=[row.get("session_nr", "") for _, _, row in kept],
        notes=(NOTE,),
        catch=len(shown) - len(kept),
    )


def _read(file: Path) -> Any:
    try:
        with reading(str(file), "it as Epochs"):
            return require_mne().read_epochs(file, preload=False, proj=False)
    except UserError as problem:
        lost = getattr(problem.__cause__, "filename", None)
        if lost is None:
            raise
        raise UserError(
            f"{file}: its part {Path(lost).name} is missing; fetch all parts, {file.stem}-1.fif, … as well"
        ) from problem


def _channels(files: Sequence[Path], epochs: Sequence[Any]) -> tuple[list[str], list[list[int]]]:
    """Return the MEG channels' names, and their places in the epochs of each person."""
    names = []
    for one in epochs:
        types = one.get_channel_types()
        names.append({meg_sensors.name_of(n): i for i, n in enumerate(one.ch_names) if types[i] in ("mag", "grad")})
    for file, mine, one in zip(files, names, epochs, strict=True):
        if not mine:
            raise UserError(f"{file}: it has no MEG channel; fetch it again")
        if set(mine) != set(names[0]):
            raise UserError(f"{file}: its MEG channels are not those of {files[0].name}; prepare one person at a time")
        if len(one.times) != len(epochs[0].times) or one.info["sfreq"] != epochs[0].info["sfreq"]:
            raise UserError(f"{file}: its trials are not as long as those of {files[0].name}; fetch it again")
    return list(names[0]), [[mine[name] for name in names[0]] for mine in names]


def _lists(folder: Path) -> Callable[[int], Mapping[str, str]] | None:
    """Return what THINGS's lists say about an image by its number; None without them. Raise UserError for one alone."""
    there = [name for name in LISTS if (folder / name).is_file()]
    if not there:
        return None
    if len(there) == 1:
        raise UserError(f"{folder}: {there[0]} is there without {(*{*LISTS} - {*there},)[0]}; add it from THINGS")
    paths, concepts = ((folder / name).read_text(encoding="utf-8-sig").split("\n") for name in LISTS)

    def row(number: int) -> Mapping[str, str]:
        if not 1 <= number <= min(len(paths), len(concepts)):
            raise UserError(f"{folder / LISTS[0]}: it has no row {number}, the number of an event; fetch it again")
        path = paths[number - 1].split(",")[-1].strip().strip('"')
        return {"image_path": path, "category_nr": concepts[number - 1].split(",")[-1].strip()}

    return row


def _rows(file: Path, epochs: Any, of_lists: Callable[[int], Mapping[str, str]] | None) -> list[dict[str, str]]:
    """Return what was shown in each trial: its trial_type, image_path and category_nr."""
    numbers, table = epochs.events[:, 2].tolist(), epochs.metadata
    if table is not None:
        records = table.to_dict("records") if hasattr(table, "to_dict") else list(table)
        if records and all(name in records[0] for name in METADATA):
            return [{name: str(value) for name, value in record.items()} for record in records]
    if of_lists is None:
        raise UserError(
            f"{file}: its trials have no metadata with {' and '.join(METADATA)}, and {' and '.join(LISTS)} of THINGS "
            "are not next to it, whose rows are the paths and the concept numbers of the images; put them there"
        )
    shown = Counter(numbers)
    rows: list[dict[str, str]] = []
    for number in numbers:
        if number == CATCH:
            rows.append({"trial_type": "catch", "image_path": "", "category_nr": ""})
        else:
            rows.append({"trial_type": "test" if shown[number] == REPEATS else "exp", **of_lists(number)})
    return rows


def _described(file: Path, rows: Sequence[Mapping[str, str]]) -> tuple[list[str], list[str], list[str]]:
    """Return split, label and stimulus of each trial."""
    shown = things_meg.shown_in(file, rows)
    return [s.split for s in shown], [s.label for s in shown], [s.stimulus for s in shown]
