"""THINGS-EEG2 (Gifford et al. 2022): ten people, 16,540 training images four times, 200 test images 80 times.

Its preprocessed trials are published in five layouts (see `things_layouts`), a folder `sub-XX` a person:

    FOLDER/sub-01/preprocessed_eeg_training.npy, preprocessed_eeg_test.npy      original, NICE, ATM
    FOLDER/sub-01/train.pt, test.pt                                             UBP
    FOLDER/sub-01/train.npy, test.npy, FOLDER/info.json                         NeuroBridge, SAMGA
    FOLDER/sub-01/preprocessed_eeg_training_flat.npy, …, experiment_metadata.csv  Alljoined-1.6M, another corpus
    FOLDER/train/sub-01/S1_1_1.pkl …, FOLDER/test/sub-01/…                      AdaBrain: S<person>_<image>_<repetition>

Nothing is unpickled, and the samples stay in the files. Every repetition is a trial.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float32, Int

from dreamjax.errors import UserError
from dreamjax.signals.recordings.corpora import things_images, things_layouts
from dreamjax.signals.recordings.corpora.recording_corpora import Corpus
from dreamjax.signals.recordings.corpora.things_images import ImageList
from dreamjax.signals.recordings.corpora.things_layouts import CAP_ORDER, FILES, NOTES, Block
from dreamjax.signals.recordings.corpora.trial_set import TrialSet
from dreamjax.storage import sniffing
from dreamjax.storage.checkpoint_files.torch_pickle import release_file

THINGS_EEG2 = Corpus(
    name="things-eeg2",
    path=r"$^",
    licence="unknown",  # none is stated within the files
    source="https://osf.io/3jk45 (Gifford et al. 2022, NeuroImage 264:119754)",
    population="things-eeg2",
    reference="Fz",  # the cap's reference, which is absent from the 63 channels
    line_freq=50.0,
    design={
        "sequence": "rapid serial presentation: 0.1 s an image, 0.2 s from image to image, so that responses overlap",
        "splits": "test images are of 200 concepts that no training image shows",
    },
)
ALLJOINED = Corpus(
    name="alljoined-1.6m",
    path=r"$^",
    licence="unknown",
    source="https://github.com/Alljoined/Alljoined-1.6M",
    reference="unknown",
    design={"sequence": "rapid serial presentation, as THINGS-EEG2", "device": "Emotiv, 32 channels"},
)
PERSON = re.compile(r"sub-(\d+)")
TRIAL = re.compile(r"S(\d+)_(\d+)_(\d+)\.pkl")
UNIT = "standard deviations of whitened noise; the files give no physical unit"
VOLTS = 1e-3  # values of a smaller standard deviation are not whitened but in V
ADABRAIN_HZ, ADABRAIN_S = 250.0, 1.0


@dataclass(frozen=True, kw_only=True)
class ThingsTrials(TrialSet):
    """Open trials of THINGS-EEG2."""

    split: np.ndarray  # of str, as published
    session: Int[np.ndarray, "trials"]  # from 1; 0 where the files do not state it
    folders: Mapping[str, str]  # split → its folder within the folder of the images
    scale: float = 1.0  # that the stored numbers are multiplied by

    def subject_name(self, subject: int) -> str:
        return f"{subject:02d}"

    def session_name(self, trial: int) -> str:
        return f"{self.session[trial]:02d}" if self.session[trial] else ""

    def place(self, trial: int) -> str:
        folder = self.folders[self.split[trial]]
        return f"{folder}/{self.stimulus(trial)}" if folder else self.stimulus(trial)


@dataclass(frozen=True, kw_only=True)
class BlockTrials(ThingsTrials):
    """Trials of files that hold those of a person and split."""

    blocks: tuple[Block, ...]
    block: Int[np.ndarray, "trials"]
    row: Int[np.ndarray, "trials"]
    repetition: Int[np.ndarray, "trials"]

    def signal(self, trial: int) -> Float32[np.ndarray, "channels time"]:
        array = self.blocks[self.block[trial]].array
        out = array[self.row[trial], self.repetition[trial]].astype(np.float32) * np.float32(self.scale)
        release_file(array)
        return out


@dataclass(frozen=True, kw_only=True)
class TrialFiles(ThingsTrials):
    """Trials that are a file each."""

    def signal(self, trial: int) -> Float32[np.ndarray, "channels time"]:
        signal = things_layouts.read_trial(Path(self.files[trial]))
        if signal.shape != (len(self.ch_names), self.length[trial]):
            expected = (len(self.ch_names), int(self.length[trial]))
            raise UserError(f"{self.files[trial]}: X has shape {signal.shape}, but that of other trials is {expected}")
        return signal.astype(np.float32) * np.float32(self.scale)


def people_in(folder: Path) -> dict[int, Path]:
    """Return number → folder of the people in a folder, or the one whose folder it is."""
    folders = [folder] if PERSON.fullmatch(folder.absolute().name) else [p for p in folder.glob("sub-*") if p.is_dir()]
    matches = ((PERSON.fullmatch(path.absolute().name), path) for path in folders)
    return dict(sorted((int(match[1]), path) for match, path in matches if match))


def is_preprocessed(path: str) -> bool:
    """Return whether a path is a folder of preprocessed trials in one of the layouts; it may be incomplete."""
    if "://" in path or not Path(path).is_dir():
        return False
    names = [*FILES["train"], *FILES["test"]]
    if any((person / name).is_file() for person in people_in(Path(path)).values() for name in names):
        return True
    return any(TRIAL.fullmatch(file.name) for file in Path(path).glob("t*/sub-*/S*_1_1.pkl"))


def open_preprocessed(path: str, images: str = "") -> ThingsTrials:
    """Open the preprocessed trials of a folder. Raise UserError, naming the file, for what is missing or is not one."""
    folder = Path(path)
    if not people_in(folder):
        return _open_files(folder, images)
    blocks = []
    for number, person in people_in(folder).items():
        files = {split: [person / name for name in FILES[split] if (person / name).is_file()] for split in FILES}
        if not any(files.values()):
            continue
        for split, present in files.items():
            if not present:
                there = next(p for p in files.values() if p)[0].name
                wanted = FILES[split][FILES["test" if split == "train" else "train"].index(there)]
                raise UserError(
                    f"{person}: {wanted} is missing, the trials of split {split}; fetch it, or take {there} out"
                )
            blocks.append((number, split, things_layouts.read_block(present[0], split)))
    _check_alike([block for _, _, block in blocks])
    listed = None if all(block.images for _, _, block in blocks) else things_images.find(folder, images)
    return _of_blocks(path, images, blocks, listed)


def _check_alike(blocks: list[Block]) -> None:
    """Raise UserError for a block that differs from the first in layout, channels or times."""
    first = blocks[0]
    for block in blocks[1:]:
        for what in ("layout", "ch_names", "times"):
            if np.any(np.array(getattr(block, what)) != np.array(getattr(first, what))):
                raise UserError(
                    f"{block.source}: its {what} differ from those of {first.source}; put files of one preprocessing "
                    "into one folder"
                )


def _of_blocks(path: str, images: str, blocks: list[tuple[int, str, Block]], listed: ImageList | None) -> BlockTrials:
    names: dict[str, int] = {}
    columns: dict[str, list[np.ndarray]] = {
        n: [] for n in ("image", "subject", "block", "row", "repetition", "session")
    }
    split = []
    for number, (person, part, block) in enumerate(blocks):
        rows, repetitions = block.array.shape[:2]
        shown = [things_images.relative(name, block.source) for name in block.images]
        shown = shown or list(listed.of(part, rows, block.source) if listed else ())
        count = rows * repetitions
        image = np.array([names.setdefault(name, len(names)) for name in shown])
        session = (
            np.zeros(count, int)
            if block.session is None
            else np.clip(np.nan_to_num(block.session), 0, 98).reshape(-1).astype(int) + 1
        )
        values = (np.repeat(image, repetitions), np.full(count, person), np.full(count, number),
                  np.repeat(np.arange(rows), repetitions), np.tile(np.arange(repetitions), rows), session)  # fmt: skip
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
        split.append(np.full(count, part, object))
    first = blocks[0][2]
    sample = np.asarray(first.array[0, 0], np.float64)
    rate = float(np.round(1 / np.median(np.diff(first.times)), 3)) if len(first.times) > 1 else 1.0
    arrays: dict[str, Any] = {name: np.concatenate(parts) for name, parts in columns.items()}
    return BlockTrials(
        **_common(path, images, names, arrays.pop("image"), np.concatenate(split), sample, first.layout),
        **arrays,
        files=tuple(block.source for _, _, block in blocks),
        length=np.full(sum(len(s) for s in split), first.array.shape[3]),
        ch_names=first.ch_names,
        sfreq=rate,
        seconds=first.array.shape[3] / rate,
        tmin=float(np.round(first.times[0], 6)) + 0.0,
        blocks=tuple(block for _, _, block in blocks),
    )


def _open_files(folder: Path, images: str) -> TrialFiles:
    """Open trials that are a file each: FOLDER/train/sub-01/S1_1_1.pkl."""
    listed, entries = things_images.find(folder, images), []
    for part in FILES:
        matches = [
            (int(match[1]), int(match[2]), int(match[3]), file)
            for file in (folder / part).glob("sub-*/S*.pkl")
            if (match := TRIAL.fullmatch(file.name))
        ]
        if not matches:
            raise UserError(f"{folder / part}: the trials of split {part} are missing, files such as sub-01/S1_1_1.pkl")
        shown = listed.train if part == "train" else listed.test
        for person, number, _, file in sorted(matches):
            if not 1 <= number <= len(shown):
                raise UserError(
                    f"{file}: it is of image {number}, but {listed.source} names {len(shown)} {part} images"
                )
            entries.append((part, person, shown[number - 1], str(file)))
    names: dict[str, int] = {}
    image = np.array([names.setdefault(name, len(names)) for _, _, name, _ in entries])
    sample = things_layouts.read_trial(Path(entries[0][3])).astype(np.float64)
    split = np.array([part for part, *_ in entries], object)
    description = folder / "train.json"
    stated = sniffing.read_json(epath.Path(description)).get("dataset_info") if description.is_file() else {}
    facts = stated if isinstance(stated, dict) else {}
    ch_names = things_images.strings(facts.get("ch_names", CAP_ORDER), str(description))
    if len(ch_names) != len(sample):
        raise UserError(
            f"{entries[0][3]}: {len(sample)} channels, but {len(ch_names)} names; put AdaBrain's train.json there"
        )
    common = _common(str(folder), images, names, image, split, sample, "adabrain")
    if not facts:
        common["notes"] += ("the files name no channels: they were taken to be in the order of the cap, as recorded",)
    return TrialFiles(
        **common,
        subject=np.array([person for _, person, _, _ in entries]),
        session=np.zeros(len(entries), int),
        files=tuple(file for *_, file in entries),
        length=np.full(len(entries), sample.shape[1]),
        ch_names=things_layouts.normal(ch_names),
        sfreq=float(facts.get("sampling_rate", sample.shape[1] / ADABRAIN_S)),
        seconds=ADABRAIN_S,
    )


def _common(
    path: str,
    images: str,
    names: Mapping[str, int],
    image: np.ndarray,
    split: np.ndarray,
    sample: np.ndarray,
    layout: str,
) -> dict:
    """Return what all layouts fill alike. Values that are in V were not whitened, and become µV."""
    in_volts = 0 < float(np.nanstd(sample)) < VOLTS
    listed = tuple(names)
    labels = sorted({name.rpartition("/")[0] for name in listed})
    place = {label: i for i, label in enumerate(labels)}
    return {
        "facts": ALLJOINED if layout == "alljoined" else THINGS_EEG2,
        "source": path,
        "format": layout if layout == "alljoined" else f"things-eeg2 {layout}",
        "image": image,
        "label": np.array([place[name.rpartition("/")[0]] for name in listed])[image],
        "labels": tuple(labels),
        "images": listed,
        "split": split,
        "unit": "µV" if in_volts else UNIT,
        "record_unit": "µV" if in_volts else "SD",
        "flags": () if in_volts else ("no unit",),
        "notes": ("not whitened",) if in_volts else (NOTES[layout],),
        "scale": 1e6 if in_volts else 1.0,
        "needed": ("train", "test"),
        "image_folder": images,
        "folders": {part: things_images.place_in(images, part) for part in FILES},
    }
