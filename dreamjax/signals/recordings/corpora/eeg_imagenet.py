"""EEG-ImageNet (Spampinato et al. 2017, Palazzo et al. 2020): 6 people, 40 classes of 50 images, as torch files.

    {"dataset": [{"eeg": float32[128, T], "image": int, "label": int, "subject": int} …],
     "labels": [WordNet id …], "images": ["n02951358_31190" …]}                   eeg_5_95_std.pth and its siblings
    … and "means", "stddevs"                                                      eeg_signals_raw_with_mean_std.pth
    {"splits": [{"train": [index …], "val": […], "test": […]} …]}                 block_splits_by_image_*.pth

An image lies at `<imagenet>/<wnid>/<name>.JPEG`. Files are read by `storage.checkpoint_files.torch_files`: nothing in
them is executed, and of the 3 GB only the trial that is asked for is in memory.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float32, Int

from dreamjax.errors import UserError
from dreamjax.signals.recordings.corpora.recording_corpora import EEG_IMAGENET, UNIT
from dreamjax.signals.recordings.corpora.trial_set import TrialSet
from dreamjax.signals.recordings.identity import SPLITS
from dreamjax.storage.checkpoint_files import torch_files
from dreamjax.storage.checkpoint_files.pickle_reader import Inert
from dreamjax.storage.checkpoint_files.torch_pickle import PickledArray, TorchTensor

SFREQ = 1000.0  # Hz; the files do not say it


@dataclass(frozen=True, kw_only=True)
class PublishedTrials(TrialSet):
    """An open file of trials."""

    eeg: tuple[TorchTensor, ...]
    means: Float32[np.ndarray, "channels _"] | None = None
    stddevs: Float32[np.ndarray, "channels _"] | None = None

    @property
    def values(self) -> str:
        """Return how the stored numbers were converted, for dataset.json."""
        return "as in the file" if self.means is None else "raw file, (eeg - means) / stddevs"

    @property
    def band(self) -> tuple[float, float] | None:
        """Return the pass band in Hz, which only the file's name states: eeg_5_95_std."""
        match = re.match(r"eeg_(\d+)_(\d+)_std", PurePosixPath(self.source).name)
        return (float(match[1]), float(match[2])) if match else None

    def signal(self, trial: int) -> Float32[np.ndarray, "channels time"]:
        """Return a copy of one trial in standard deviations; of the raw file, (eeg - means) / stddevs."""
        tensor = self.eeg[trial]
        out = np.array(tensor.numpy(), np.float32)
        tensor.release()
        if self.means is not None and self.stddevs is not None:
            out = (out - self.means) / self.stddevs
        return out

    def class_of(self, image: int) -> str:
        """Return the class of an image, whether a trial shows it or not."""
        return self.images[image].partition("_")[0]

    def stimulus(self, trial: int) -> str:
        """Return the image's file, relative to the ImageNet folder."""
        return image_file(self.images[self.image[trial]])


def image_file(image: str) -> str:
    """Return the file of an image: `n02951358_31190` → `n02951358/n02951358_31190.JPEG`."""
    return f"{image.partition('_')[0]}/{image}.JPEG"


def open_trials(path: epath.PathLike) -> PublishedTrials:
    """Open the trials of a published file; everything but their samples is checked.

    Raise UserError for a file of another kind, for missing keys, and for a trial that does not fit the others.
    """
    source = str(path)
    root = torch_files.read(path)
    if isinstance(root, Mapping) and "splits" in root:
        raise UserError(f"{source}: these are splits and no trials; give eeg_*_std.pth, and this one as --split-file")
    _require(root, ("dataset", "labels", "images"), source, "a file of EEG-ImageNet's trials")
    for key in ("labels", "images"):
        if not isinstance(root[key], (list, tuple)) or not all(isinstance(text, str) for text in root[key]):
            raise UserError(f"{source}: its {key} are {_kind(root[key])}, not a list of names; fetch the file again")
    entries, labels, images = root["dataset"], tuple(root["labels"]), tuple(root["images"])
    if not isinstance(entries, (list, tuple)) or not entries:
        raise UserError(f"{source}: its dataset is {_kind(entries)}, not a list of trials; fetch the file again")
    for name in images:  # they become paths
        if not re.fullmatch(r"[A-Za-z0-9]+_[A-Za-z0-9_-]+", name):
            raise UserError(f"{source}: {name[:60]!r} is not the name of an ImageNet image, such as n02951358_31190")
    eeg, numbers = zip(*(_trial(entry, i, source, labels, images) for i, entry in enumerate(entries)), strict=True)
    image, label, subject = np.array(numbers, np.int64).T
    channels = eeg[0].shape[0]
    for i, tensor in enumerate(eeg):
        if tensor.shape[0] != channels:
            raise UserError(
                f"{source}: trial {i} has {tensor.shape[0]} channels and trial 0 {channels}; take the wrong ones out"
            )
    statistics = _statistics(root, channels, source)
    return PublishedTrials(
        facts=EEG_IMAGENET,
        source=source,
        files=(source,),
        format="eeg-imagenet",
        eeg=eeg,
        length=np.array([tensor.shape[1] for tensor in eeg]),
        image=image,
        label=label,
        subject=subject,
        labels=labels,
        images=images,
        ch_names=tuple(f"unnamed{i + 1:03d}" for i in range(channels)),  # not 10-05 names: no places are known
        sfreq=SFREQ,
        seconds=0.5,
        unit=UNIT,
        record_unit="SD",
        usual_sfreq=256.0,
        centred=True,
        lengths=(450, 600),  # as in all published code for these files
        flags=("no unit",),
        span=(20, 460),
        stretched=512,
        means=statistics.get("means"),
        stddevs=statistics.get("stddevs"),
    )


def _trial(
    entry: Any, i: int, source: str, labels: Sequence[str], images: Sequence[str]
) -> tuple[TorchTensor, tuple[int, ...]]:
    """Return the signal and (image, label, subject). The image's name and the label must name the same class."""
    _require(entry, ("eeg", "image", "label", "subject"), f"{source}, trial {i}", "a trial")
    eeg = entry["eeg"]
    if not isinstance(eeg, TorchTensor) or eeg.dtype.kind != "f":
        raise UserError(f"{source}: the eeg of trial {i} is {_kind(eeg)}, not a tensor of real numbers")
    if len(eeg.shape) != 2 or 0 in eeg.shape:
        raise UserError(f"{source}: the eeg of trial {i} has shape {eeg.shape}, not (channels, samples)")
    numbers = tuple(_whole(entry[key], f"{source}, trial {i}, {key}") for key in ("image", "label", "subject"))
    for name, place, known in (("image", numbers[0], images), ("label", numbers[1], labels)):
        if not 0 <= place < len(known):
            raise UserError(f"{source}: trial {i} has {name} {place}, but there are {len(known)} {name}s")
    image, label = images[numbers[0]], labels[numbers[1]]
    if image.partition("_")[0] != label:
        raise UserError(f"{source}: trial {i} is of image {image} but of class {label}; fetch the file again")
    return eeg, numbers


def open_splits(path: epath.PathLike) -> list[dict[str, Int[np.ndarray, "_"]]]:
    """Return the splits of a `block_splits_by_image_*.pth`: indices for each of train, val and test.

    Raise UserError for a file of another kind, for missing keys, and for values that are not indices.
    """
    source = str(path)
    root = torch_files.read(path)
    if isinstance(root, Mapping) and "dataset" in root:
        raise UserError(f"{source}: these are trials and no splits; give block_splits_by_image_all.pth or …_single.pth")
    _require(root, ("splits",), source, "a file of splits")
    if not isinstance(root["splits"], (list, tuple)) or not root["splits"]:
        raise UserError(f"{source}: its splits are {_kind(root['splits'])}, not a list of splits; fetch the file again")
    splits = []
    for number, split in enumerate(root["splits"]):
        _require(split, SPLITS, f"{source}, split {number}", "a split")
        splits.append({name: _indices(split[name], f"{source}, split {number}, {name}") for name in SPLITS})
    return splits


# ------------------------------------------------------------------------------------------------------- small checks
def _kind(value: Any) -> str:
    return f"made by {value.name}, which is not executed" if isinstance(value, Inert) else f"a {type(value).__name__}"


def _require(value: Any, keys: Sequence[str], source: str, what: str) -> None:
    if not isinstance(value, Mapping):
        raise UserError(f"{source}: this is {_kind(value)}, not {what}, which has {', '.join(keys)}")
    if missing := [key for key in keys if key not in value]:
        has = ", ".join(map(str, list(value)[:5])) or "nothing"
        raise UserError(f"{source}: this is not {what}: it lacks {' and '.join(missing)} and has {has}")


def _whole(value: Any, where: str) -> int:
    if isinstance(value, (TorchTensor, PickledArray)) and np.asarray(value).size == 1:
        value = np.asarray(value).reshape(-1)[0].item()
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise UserError(f"{where}: this is {_kind(value)}, not a whole number; fetch the file again")
    return value


def _statistics(root: Mapping, channels: int, source: str) -> dict[str, np.ndarray]:
    """Return `means` and `stddevs` as columns, where the file has them."""
    there = [key for key in ("means", "stddevs") if key in root]
    if len(there) == 1:
        raise UserError(f"{source}: it has {there[0]} alone; means and stddevs come together: fetch the file again")
    statistics = {}
    for key in there:
        if not isinstance(root[key], (TorchTensor, PickledArray)):
            raise UserError(f"{source}: its {key} are {_kind(root[key])}, not a tensor")
        value = np.asarray(root[key], np.float32)
        if value.size not in (1, channels) or not np.isfinite(value).all() or (key == "stddevs" and (value <= 0).any()):
            raise UserError(
                f"{source}: its {key} have shape {value.shape}, but must be {channels} finite numbers"
                + (" above 0" if key == "stddevs" else "")
            )
        statistics[key] = value.reshape(-1, 1)
    return statistics


def _indices(value: Any, where: str) -> np.ndarray:
    if isinstance(value, (TorchTensor, PickledArray)):
        value = np.asarray(value).reshape(-1).tolist()
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{where}: this is {_kind(value)}, not a list of indices")
    indices = np.array([_whole(item, where) for item in value], np.int64)
    if (indices < 0).any():
        raise UserError(f"{where}: the index {int(indices.min())} is below 0; fetch the file again")
    if len(np.unique(indices)) < len(indices):
        raise UserError(f"{where}: some trials are named twice; fetch the file again")
    return indices
