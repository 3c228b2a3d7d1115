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
from types import MappingProxyType
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float32, Int

from dreamjax.errors import UserError
from dreamjax.signals.recordings.corpora.corpus import Corpus
from dreamjax.signals.recordings.corpora.trial_corpus import PublishedTrials
from dreamjax.signals.recordings.identity import SPLITS
from dreamjax.storage.checkpoint_files import torch_files
from dreamjax.storage.checkpoint_files.pickle_reader import Inert
from dreamjax.storage.checkpoint_files.torch_pickle import PickledArray, TorchTensor

SFREQ = 1000.0  # Hz; the files do not say it
LENGTHS = (450, 600)  # samples: shorter and longer trials are left out, as everybody does who uses these files
ENDINGS = (".pth", ".pt")
UNIT = "standard deviations of a channel; the files give no physical unit"
A_BLOCK_IS_A_CLASS = (
    "a block is a class: all images of a class were shown to a person in one stretch, so whatever drifts tells the "
    "class, and without the block of a class there is no trial of it by the same person"
)
EEG_IMAGENET = Corpus(
    name="eeg-imagenet",
    path=r"(^|/)(eeg_\d+_\d+_std|eeg_signals_raw_with_mean_std)\.pth$",
    licence="unknown",  # none is stated with the files
    source="https://github.com/perceivelab/eeg_visual_classification",
    reference="unknown",
    design=MappingProxyType(
        {
            "blocks": "all 50 images of a class in one stretch, 0.5 s each; 10 s of black between classes",
            "pre_stimulus": "none: a trial begins with its image, and the trial before ends there",
            "images": "every person saw the same images, once",
            "channels": "128, without names or positions",
            "unit": UNIT,
        }
    ),
    impossible=MappingProxyType(
        {
            "block": A_BLOCK_IS_A_CLASS,
            "pre_stimulus": "the published trials begin with their image: nothing was kept from before it",
            "time": "the files do not say when in a recording a trial was",
        }
    ),
)


@dataclass(frozen=True, kw_only=True)
class EegImagenetTrials(PublishedTrials):
    """A file of EEG-ImageNet's trials; `labels` are WordNet ids, `images` names without suffix."""

    eeg: tuple[TorchTensor, ...]
    means: Float32[np.ndarray, "channels _"] | None = None
    stddevs: Float32[np.ndarray, "channels _"] | None = None

    @property
    def values(self) -> str:
        return "as in the file" if self.means is None else "raw file, (eeg - means) / stddevs"

    @property
    def band(self) -> tuple[float, float] | None:
        """The pass band in Hz, which only the file's name tells: eeg_5_95_std."""
        match = re.match(r"eeg_(\d+)_(\d+)_std", PurePosixPath(self.source).name)
        return (float(match[1]), float(match[2])) if match else None

    def signal(self, trial: int) -> Float32[np.ndarray, "channels time"]:
        """One trial, in standard deviations: of the raw file (eeg - means) / stddevs. A copy; the file is let go."""
        tensor = self.eeg[trial]
        out = np.array(tensor.numpy(), np.float32)
        tensor.release()
        if self.means is not None and self.stddevs is not None:
            out = (out - self.means) / self.stddevs
        return out

    def class_of(self, image: int) -> str:
        return self.images[image].partition("_")[0]

    def stimulus(self, trial: int) -> str:
        """The image's file, relative to the ImageNet folder."""
        return image_file(self.images[self.image[trial]])


def image_file(image: str) -> str:
    """`n02951358_31190` → `n02951358/n02951358_31190.JPEG`."""
    return f"{image.partition('_')[0]}/{image}.JPEG"


def is_torch_file(path: str) -> bool:
    return str(path).lower().endswith(ENDINGS)


def open_trials(path: epath.PathLike) -> EegImagenetTrials:
    """The trials of a published file, checked one by one but for their samples.

    Raises UserError for a file of another kind, for missing keys, and for a trial that does not fit the others.
    """
    source = str(path)
    root = torch_files.read(path)
    if isinstance(root, Mapping) and "splits" in root:
        raise UserError(f"{source}: these are splits and no trials; give eeg_*_std.pth, and this one as --split-file")
    _require(root, ("dataset", "labels", "images"), source, "a file of EEG-ImageNet's trials")
    entries, labels, images = root["dataset"], _texts(root, "labels", source), _texts(root, "images", source)
    if not isinstance(entries, (list, tuple)) or not entries:
        raise UserError(f"{source}: its dataset is {_kind(entries)}, not a list of trials; fetch the file again")
    numbers = np.array([_numbers(e, i, source) for i, e in enumerate(entries)], np.int64).reshape(-1, 3)
    eeg = tuple(_signal(entry["eeg"], i, source) for i, entry in enumerate(entries))
    trials = EegImagenetTrials(
        corpus=EEG_IMAGENET.name,
        source=source,
        ch_names=tuple(f"unnamed{i + 1:03d}" for i in range(eeg[0].shape[0])),  # not 10-05 names: no places are known
        eeg=eeg,
        length=np.array([tensor.shape[1] for tensor in eeg]),
        image=numbers[:, 0],
        label=numbers[:, 1],
        subject=numbers[:, 2],
        labels=labels,
        images=images,
        **_statistics(root, eeg[0].shape[0], source),
    )
    _check(trials)
    return trials


def _check(trials: EegImagenetTrials) -> None:
    """Places, channels, and that the image's name and the label say the same class."""
    for name, value, known in (("image", trials.image, trials.images), ("label", trials.label, trials.labels)):
        outside = np.flatnonzero((value < 0) | (value >= len(known)))
        if len(outside):
            i = int(outside[0])
            raise UserError(f"{trials.source}: trial {i} has {name} {value[i]}, but there are {len(known)} {name}s")
    channels = len(trials.ch_names)
    odd = [i for i, tensor in enumerate(trials.eeg) if tensor.shape[0] != channels]
    if odd:
        raise UserError(
            f"{trials.source}: trial {odd[0]} has {trials.eeg[odd[0]].shape[0]} channels and trial 0 "
            f"{channels}; take the wrong ones out"
        )
    for name in trials.images:  # they become paths
        if not re.fullmatch(r"[A-Za-z0-9]+_[A-Za-z0-9_-]+", name):
            raise UserError(
                f"{trials.source}: {name[:60]!r} is not the name of an ImageNet image, such as n02951358_31190"
            )
    for i in range(len(trials)):
        image, label = trials.images[trials.image[i]], trials.labels[trials.label[i]]
        if trials.class_of(trials.image[i]) != label:
            raise UserError(
                f"{trials.source}: trial {i} is of image {image} but of class {label}; fetch the file again"
            )


@dataclass(frozen=True)
class SplitFile:
    """The splits of a `block_splits_by_image_*.pth`: one mapping from train, val and test to indices each."""

    source: str
    splits: tuple[Mapping[str, Int[np.ndarray, "_"]], ...]


def open_splits(path: epath.PathLike) -> SplitFile:
    """Return the published splits.

    Raises UserError for a file of another kind, for missing keys, and for values that are not indices.
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
    return SplitFile(source, tuple(splits))


# ------------------------------------------------------------------------------------------------------- small checks
def _kind(value: Any) -> str:
    return f"made by {value.name}, which is not executed" if isinstance(value, Inert) else f"a {type(value).__name__}"


def _require(value: Any, keys: Sequence[str], source: str, what: str) -> None:
    if not isinstance(value, Mapping):
        raise UserError(f"{source}: this is {_kind(value)}, not {what}, which has {', '.join(keys)}")
    missing = [key for key in keys if key not in value]
    if missing:
        has = ", ".join(map(str, list(value)[:5])) or "nothing"
        raise UserError(f"{source}: this is not {what}: it lacks {' and '.join(missing)} and has {has}")


def _texts(root: Mapping, key: str, source: str) -> tuple[str, ...]:
    value = root[key]
    if not isinstance(value, (list, tuple)) or not all(isinstance(text, str) for text in value):
        raise UserError(f"{source}: its {key} are {_kind(value)}, not a list of names; fetch the file again")
    return tuple(value)


def _numbers(entry: Any, i: int, source: str) -> tuple[int, ...]:
    _require(entry, ("eeg", "image", "label", "subject"), f"{source}, trial {i}", "a trial")
    return tuple(_whole(entry[key], f"{source}, trial {i}, {key}") for key in ("image", "label", "subject"))


def _whole(value: Any, where: str) -> int:
    if isinstance(value, (TorchTensor, PickledArray)) and np.asarray(value).size == 1:
        value = np.asarray(value).reshape(-1)[0].item()
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise UserError(f"{where}: this is {_kind(value)}, not a whole number; fetch the file again")
    return value


def _signal(value: Any, i: int, source: str) -> TorchTensor:
    if not isinstance(value, TorchTensor) or value.dtype.kind != "f":
        raise UserError(f"{source}: the eeg of trial {i} is {_kind(value)}, not a tensor of real numbers")
    if len(value.shape) != 2 or 0 in value.shape:
        raise UserError(f"{source}: the eeg of trial {i} has shape {value.shape}, not (channels, samples)")
    return value


def _statistics(root: Mapping, channels: int, source: str) -> dict[str, np.ndarray]:
    """`means` and `stddevs` as columns, where the file has them."""
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
