"""THINGS-EEG2 as recorded: `sub-01/ses-01/raw_eeg_training.npy` and `raw_eeg_test.npy`, of ten people in four sessions.

    {raw_eeg_data: 63 channels and the stimulus channel, V, 1000 Hz; ch_names, ch_types, sfreq, …}, by np.save

The stimulus channel holds the number of the image (from 1) at its onset, and 99999 at a target, which is left out. The
dictionary is not unpickled, and the samples stay in the file.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.signals.recordings.corpora import things_images
from dreamjax.signals.recordings.corpora.things_eeg2 import THINGS_EEG2, ThingsTrials, people_in
from dreamjax.signals.recordings.corpora.things_layouts import FILES, normal
from dreamjax.storage.checkpoint_files.torch_pickle import release_file

PARTS = {"train": "raw_eeg_training.npy", "test": "raw_eeg_test.npy"}
TARGET = 99999
SESSIONS = 4
RAW_HZ = 250.0  # of records, unless --sfreq says otherwise


@dataclass(frozen=True, kw_only=True)
class RawTrials(ThingsTrials):
    """Onsets of images in open recordings, from which `preparation` cuts the trials."""

    recordings: tuple[Float[np.ndarray, "channels time"], ...]  # V, views of the files
    recording: Int[np.ndarray, "trials"]
    onset: Int[np.ndarray, "trials"]  # samples
    picks: tuple[int, ...]  # the rows that are EEG

    def start(self, trial: int) -> float:
        return float(self.onset[trial] / self.sfreq)

    def samples(self, trial: int, start: int, stop: int) -> Float[np.ndarray, "channels time"]:
        """Return samples of the recording, counted from the trial's onset, in µV; held at the recording's ends."""
        data = self.recordings[self.recording[trial]]
        at = np.clip(np.arange(start, stop) + self.onset[trial], 0, data.shape[1] - 1)
        out = data[:, at[0] : at[-1] + 1][list(self.picks)].astype(np.float64)[:, at - at[0]]
        release_file(data)
        return out * self.scale

    def reaches(self, trial: int, start: int, stop: int) -> bool:
        """Return whether the recording has these samples, counted from the trial's onset."""
        onset = self.onset[trial]
        return bool(onset + start >= 0 and onset + stop <= self.recordings[self.recording[trial]].shape[1])


def is_raw(path: str) -> bool:
    """Return whether a path is a folder of raw recordings; it may be incomplete."""
    if "://" in path or not Path(path).is_dir():
        return False
    return any(next(person.glob("ses-*/raw_eeg_t*.npy"), None) for person in people_in(Path(path)).values())


def open_raw(path: str, images: str = "") -> RawTrials:
    """Open the recordings of a folder. Raise UserError, naming the file, for what is missing or is not one."""
    folder = Path(path)
    listed = things_images.find(folder, images)
    shown = {"train": listed.train, "test": listed.test}
    names = [*listed.train, *listed.test]
    place = {name: i for i, name in enumerate(names)}
    files, arrays, first = list[Path](), list[np.ndarray](), None
    rows: dict[str, list[np.ndarray]] = {n: [] for n in ("subject", "session", "split", "image", "onset", "recording")}
    for person, session, split, file in _files(folder):
        data, ch_names, rate, events = _read(file)
        if first is None:
            first = (ch_names, rate)
        elif first != (ch_names, rate):
            raise UserError(f"{file}: its channels or its rate differ from those of {files[0]}; fetch it again")
        onset, code = events
        if outside := code[(code < 1) | (code > len(shown[split]))].tolist():
            raise UserError(
                f"{file}: it shows image {outside[0]}, but {listed.source} names {len(shown[split])} {split} images; "
                "the files do not belong together"
            )
        image = np.array([place[shown[split][number - 1]] for number in code], np.int64)
        values = (person, session, split, image, onset, len(files))
        for column, value in zip(rows.values(), values, strict=True):
            column.append(value if isinstance(value, np.ndarray) else np.full(len(code), value, object))
        files.append(file)
        arrays.append(data)
    assert first is not None
    columns = {name: np.concatenate(parts) for name, parts in rows.items()}
    labels = sorted({name.rpartition("/")[0] for name in names})
    of_image = np.array([labels.index(name.rpartition("/")[0]) for name in names])
    eeg = [i for i, name in enumerate(first[0]) if name != "stim"]
    return RawTrials(
        facts=THINGS_EEG2,
        source=path,
        files=tuple(map(str, files)),
        format="things-eeg2 raw",
        length=np.ones(len(columns["image"]), np.int64),
        image=columns["image"].astype(np.int64),
        label=of_image[columns["image"].astype(np.int64)],
        subject=columns["subject"].astype(np.int64),
        labels=tuple(labels),
        images=tuple(names),
        ch_names=normal(tuple(first[0][i] for i in eeg)),
        sfreq=first[1],
        seconds=1.0,
        unit="µV",
        record_unit="µV",
        usual_sfreq=RAW_HZ,
        needed=("train", "test"),
        image_folder=images,
        split=columns["split"],
        session=columns["session"].astype(np.int64),
        folders={part: things_images.place_in(images, part) for part in FILES},
        scale=1e6,
        recordings=tuple(arrays),
        recording=columns["recording"].astype(np.int64),
        onset=columns["onset"].astype(np.int64),
        picks=tuple(eeg),
    )


def _files(folder: Path) -> list[tuple[int, int, str, Path]]:
    """Return (person, session, split, file). Raise UserError for a session or a part of one that is missing."""
    files = []
    for number, person in people_in(folder).items():
        sessions = sorted(int(path.name[4:]) for path in person.glob("ses-*") if path.name[4:].isdigit())
        if sessions != list(range(1, len(sessions) + 1)):
            missing = min(set(range(1, max(sessions, default=1) + 1)) - set(sessions))
            raise UserError(f"{person}: ses-{missing:02d} is missing; fetch it, or take the person out")
        if len(sessions) < SESSIONS:
            log.warning("%s: it has %d of the %d published sessions", person, len(sessions), SESSIONS)
        for session in sessions:
            for split, name in PARTS.items():
                file = person / f"ses-{session:02d}" / name
                if not file.is_file():
                    raise UserError(f"{file.parent}: {name} is missing, the recording of split {split}; fetch it")
                files.append((number, session, split, file))
    return files


def _read(file: Path) -> tuple[np.ndarray, tuple[str, ...], float, tuple[np.ndarray, np.ndarray]]:
    """Return the data, the names of its rows, the rate in Hz, and the (onsets, numbers) of images."""
    content = things_images.dictionary(file)
    if missing := [key for key in ("raw_eeg_data", "ch_names", "sfreq") if key not in content]:
        raise UserError(f"{file}: it lacks {missing[0]}; it is not a recording of THINGS-EEG2: fetch the file again")
    data = things_images.numbers(content["raw_eeg_data"], f"{file}, raw_eeg_data")
    names = things_images.strings(content["ch_names"], f"{file}, ch_names")
    rate = content["sfreq"]
    if data.ndim != 2 or len(data) != len(names) or len(set(names)) != len(names):
        raise UserError(f"{file}: raw_eeg_data has shape {data.shape} for {len(names)} channels; fetch the file again")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < 1e6:
        raise UserError(f"{file}: sfreq is {rate!r:.40}, not a number of Hz; fetch the file again")
    if "stim" not in names:
        raise UserError(f"{file}: it has no channel stim, which numbers the images; fetch the file again")
    return data, names, float(rate), onsets(data[names.index("stim")])


def onsets(stim: Float[np.ndarray, "time"]) -> tuple[Int[np.ndarray, "events"], Int[np.ndarray, "events"]]:
    """Return (sample, number) where the stimulus channel rises, without targets, as MNE's find_events."""
    code = np.nan_to_num(stim).astype(np.int64)
    at = np.flatnonzero((code[1:] > code[:-1]) & (code[1:] > 0)) + 1
    at = at[code[at] != TARGET]
    return at, code[at]
