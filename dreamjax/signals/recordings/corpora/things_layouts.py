"""The layouts in which THINGS-EEG2 is passed on preprocessed, told apart by what a file holds, never by its name.

layout        of a person and split                                     read from
original      {preprocessed_eeg_data, ch_names, times} by np.save       Gifford et al. 2022; whitened on train and test
nice          the same, pickled without NumPy's header                  NICE, ATM; whitened on train
ubp           {eeg, img, session, …} by torch.save, half precision      UBP; whitened on train
neurobridge   (concepts, images, repetitions, channels, samples) with   NeuroBridge, SAMGA; whitened or z-scored
              info.json, or the same pickled as `data`
adabrain      a pickle {X, Y} for every trial                           AdaBrain-Bench; whitened on train
alljoined     as nice, (trials, channels, samples), the images in       Alljoined-1.6M, a corpus of the same design
              experiment_metadata.csv
"""

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from etils import epath
from jaxtyping import Float

from dreamjax.errors import UserError
from dreamjax.signals.recordings.corpora.things_images import dictionary, numbers, strings
from dreamjax.storage import sniffing
from dreamjax.storage.checkpoint_files import torch_files
from dreamjax.storage.checkpoint_files.pickle_reader import Value

FILES = {
    "train": ("preprocessed_eeg_training.npy", "train.pt", "train.npy", "preprocessed_eeg_training_flat.npy"),
    "test": ("preprocessed_eeg_test.npy", "test.pt", "test.npy", "preprocessed_eeg_test_flat.npy"),
}
NOTES = {
    "original": "whitened with a covariance of training and test trials, as released",
    "nice": "whitened with a covariance of training trials, as released",
    "ubp": "whitened with a covariance of training trials, as released",
    "neurobridge": "whitened or z-scored with statistics of training trials, as released; the files do not say which",
    "alljoined": "whitened in every session with a covariance of training trials, as released",
    "adabrain": "whitened with a covariance of training trials, as released",
}
_SORTED = """Fp1 Fp2 AF7 AF3 AFz AF4 AF8 F7 F5 F3 F1 F2 F4 F6 F8 FT9 FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8 FT10
T7 C5 C3 C1 Cz C2 C4 C6 T8 TP9 TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8 TP10
P7 P5 P3 P1 Pz P2 P4 P6 P8 PO7 PO3 POz PO4 PO8 O1 Oz O2"""
_RECORDED = """Fp1 F3 F7 FT9 FC5 FC1 C3 T7 TP9 CP5 CP1 Pz P3 P7 O1 Oz O2 P4 P8 TP10 CP6 CP2 Cz C4 T8 FT10 FC6 FC2 F4 F8
Fp2 AF7 AF3 AFz F1 F5 FT7 FC3 FCz C1 C5 TP7 CP3 P1 P5 PO7 PO3 POz PO4 PO8 P6 P2 CPz CP4 TP8 C6 C2 FC4 FT8 F6 F2 AF4
AF8"""
CHANNELS_63 = tuple(_SORTED.split())  # as sorted by NICE and those after it
CHANNELS_17 = CHANNELS_63[46:]  # parietal and occipital, of the original preprocessing
CAP_ORDER = tuple(_RECORDED.split())  # as recorded
EXPECTED = (
    "trials of THINGS-EEG2 are a dictionary with preprocessed_eeg_data, eeg or data, or an array with info.json: fetch "
    "the file again"
)
SHORTEST_S = 1e-6  # from sample to sample
TABLE, COLUMNS = "experiment_metadata.csv", ("partition", "session", "image_path")
CHANNEL_SETS = {"63": CHANNELS_63, "17": CHANNELS_17}
_NORMAL = {name.lower(): name for name in CHANNELS_63}


@dataclass(frozen=True)
class Block:
    """The trials of a person and split."""

    source: str
    layout: str
    array: Float[np.ndarray, "images repetitions channels samples"]  # a view of the file
    ch_names: tuple[str, ...]
    times: Float[np.ndarray, "samples"]  # s
    images: tuple[str, ...] = ()  # of the file; empty: those of image_metadata.npy
    session: np.ndarray | None = None  # (images, repetitions)


def normal(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return channel names as the cap writes them: FP1 → Fp1."""
    return tuple(_NORMAL.get(name.lower(), name) for name in names)


def read_block(path: Path, split: str) -> Block:
    """Open the trials of a person and split; the samples stay in the file. Raise UserError for another content."""
    content, layout = torch_files.read(path), "nice"
    if isinstance(content, np.ndarray) and content.dtype == object and content.size == 1:
        content, layout = content.reshape(-1)[0], "original"
    if isinstance(content, np.ndarray) and content.dtype.kind == "f":
        info = _info(path)
        return _block(path, "neurobridge", content, info.get("ch_names"), info.get("times"))
    if not isinstance(content, dict):
        raise UserError(f"{path}: it holds {type(content).__name__}; {EXPECTED}")
    for key, of in (("preprocessed_eeg_data", layout), ("eeg", "ubp"), ("data", "neurobridge")):
        if key in content:
            if missing := [name for name in ("ch_names", "times") if name not in content]:
                raise UserError(f"{path}: it lacks {missing[0]}; fetch the file again")
            data = numbers(content[key], str(path))
            flat = key == "preprocessed_eeg_data" and data.ndim == 3
            made = _block(path, "alljoined" if flat else of, data, content["ch_names"], content["times"])
            return _with_table(made, split) if flat else _with_images(made, content) if of == "ubp" else made
    has = ", ".join(str(key)[:40] for key in list(content)[:5]) or "nothing"
    raise UserError(f"{path}: it has {has}; {EXPECTED}")


def read_trial(path: Path) -> Float[np.ndarray, "channels samples"]:
    """Return the signal of a trial's own file, {X, Y}. Raise UserError for another content."""
    content = dictionary(path)
    if "X" not in content:
        raise UserError(
            f"{path}: it lacks X; a trial of AdaBrain-Bench is a dictionary of X and Y: fetch the file again"
        )
    signal = numbers(content["X"], f"{path}, X")
    if signal.ndim != 2:
        raise UserError(f"{path}: X has shape {signal.shape}, not (channels, samples); fetch the file again")
    return signal


def _block(path: Path, layout: str, data: Value, names: Value, times: Value) -> Block:
    array, ch_names = numbers(data, str(path)), normal(strings(names, f"{path}, ch_names"))
    if layout == "neurobridge" and array.ndim == 5:
        array = array.reshape(-1, *array.shape[2:])
    if layout == "alljoined":
        array = array[:, None]
    if array.ndim != 4 or 0 in array.shape or array.shape[2] != len(ch_names):
        raise UserError(
            f"{path}: its trials have shape {array.shape} for {len(ch_names)} channels, not (images, repetitions, "
            "channels, samples); fetch the file again"
        )
    seconds = numbers(times, f"{path}, times").astype(np.float64).reshape(-1)[-array.shape[3] :]
    if len(seconds) != array.shape[3] or not (np.isfinite(seconds).all() and (np.diff(seconds) > SHORTEST_S).all()):
        raise UserError(
            f"{path}: its {len(seconds)} times are not those of {array.shape[3]} samples; fetch the file again"
        )
    return Block(str(path), layout, array, ch_names, seconds)


def _with_images(block: Block, content: dict) -> Block:
    """Return the block with the images and sessions that the file names, one a row or one a trial."""
    rows, repetitions = block.array.shape[:2]
    if "img" not in content:
        return block
    names = strings(content["img"], f"{block.source}, img")
    if len(names) not in (rows, rows * repetitions):
        raise UserError(f"{block.source}: {len(names)} img for {rows} images; fetch the file again")
    session = numbers(content["session"], f"{block.source}, session") if "session" in content else None
    if session is not None and session.shape != (rows, repetitions):
        session = None
    return replace(block, images=names[:: len(names) // rows], session=session)


def _with_table(block: Block, split: str) -> Block:
    """Return a block of single trials with the images and sessions that `experiment_metadata.csv` states."""
    path = Path(block.source).with_name(TABLE)
    if not path.is_file():
        raise UserError(
            f"{path}: missing, the table of the images that were shown; published as experiment_metadata.parquet, "
            "which pandas.read_parquet(…).to_csv(…) converts"
        )
    with path.open(newline="", encoding="utf-8", errors="replace") as stream:
        rows = list(csv.DictReader(stream))
    if missing := [name for name in COLUMNS if not rows or name not in rows[0]]:
        raise UserError(f"{path}: it lacks the column {missing[0]}; it has {', '.join(COLUMNS)} as published")
    rows = [r for r in rows if r["partition"] == f"stim_{split}" and r.get("dropped", "") not in ("True", "true", "1")]
    if len(rows) != len(block.array):
        raise UserError(f"{block.source}: {len(block.array)} trials, but {path} names {len(rows)} of split {split}")
    if bad := [r["session"] for r in rows if not str(r["session"]).isdigit()]:
        raise UserError(f"{path}: the session {bad[0]!r:.40} is not a whole number")
    session = np.array([[int(r["session"]) - 1] for r in rows])
    return replace(block, images=tuple(r["image_path"] for r in rows), session=session)


def _info(path: Path) -> dict:
    """Return info.json of a folder of plain arrays: in the person's folder or in the one above."""
    places = [path.with_name("info.json"), path.parent.with_name("info.json")]
    for place in places:
        if place.is_file():
            return sniffing.read_json(epath.Path(place), 'write {"ch_names": […], "times": […], "sfreq": 250}')
    raise UserError(f"{path}: {places[1]} is missing, which names the channels and times of these arrays")
