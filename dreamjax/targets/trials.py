"""Trials as training examples: a window of brain signal, and what frozen networks make of the image seen then.

A window belongs to the image whose file name its `stimulus` is. Which trials are held out follows from their
images, by a hash of the name, so for good: no image is both trained on and tested on, by whoever saw it. Where a
corpus publishes its splits, `splits="prepared"` follows those alone, and refuses them where they share an image.
"""

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, Literal

import jax
import numpy as np

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.signals.datasets import mixture, pipeline, records
from dreamjax.signals.datasets.pipeline import DataConfig
from dreamjax.signals.datasets.read_ahead import IndexedStream, index_and_weight
from dreamjax.targets import features, image_folder
from dreamjax.targets.features import EmbeddingConfig
from dreamjax.targets.image_folder import Captioned
from dreamjax.targets.latents import LatentConfig
from dreamjax.weights.loaded import Folders

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class TargetConfig(LatentConfig):
    """The images that were seen, what is made of them, and which trials are held out."""

    test_share: float = 0.1  # of the images, beside val_share
    people: Literal["mixed", "apart"] = "mixed"  # apart: those of the prepared splits, so that people are disjoint too
    splits: Literal["images", "prepared"] = "images"  # prepared: those of the dataset folders alone, no share here
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.flip:
            raise ValueError(f"target.flip is {self.flip}, but what was seen was not mirrored; leave it at 0")
        if self.splits == "prepared" and self.people == "apart":
            raise ValueError(
                'target.people is "apart", but target.splits = "prepared" takes people and images as they were '
                'prepared; leave people at "mixed"'
            )
        if not 0 < self.test_share < 1 - self.val_share:
            raise ValueError(
                f"target.test_share is {self.test_share}, but it is a share above 0 and, with val_share = "
                f"{self.val_share}, below 1"
            )


@dataclass(frozen=True)
class Trials:
    """The trials of a split: `record` is the place of each in `windows`, `image` of what was seen in `images`."""

    windows: pipeline.Examples
    images: tuple[Captioned, ...]
    record: np.ndarray
    image: np.ndarray
    label: tuple[str, ...]  # of each trial, "" without one
    person: tuple[str, ...]  # salted hashes
    recording: tuple[str, ...]  # salted hashes
    start: np.ndarray  # of each window, s since its recording's first sample

    def __len__(self) -> int:
        return len(self.record)

    @property
    def known(self) -> bool:
        """Whether of any of them it is known what was seen."""
        return bool((self.image >= 0).any())


def trials(data: DataConfig, target: TargetConfig, split: str, *, seed: int, training: bool) -> Trials:
    """The trials of "train", "val" or "test". Raises UserError where there are none."""
    if split not in SPLITS:
        raise UserError(f"trials have the splits {', '.join(SPLITS)}, not {split}")
    if not target.folder:
        raise UserError("target.folder is empty; name the folder of the images that were seen")
    windows = pipeline.Examples(data, split if target.people == "apart" else records.ALL, seed=seed, training=training)
    told = windows.told()
    images = image_folder.listing(target.folder, captions=False, among=_shown(data, target, told, seed))
    number = _numbers([entry.name for entry in images], target.folder)
    seen = np.array([number(one["stimulus"]) for one in told])
    if not (seen >= 0).any():
        raise UserError(
            f"{', '.join(data.path)}: no window was recorded at an image of {target.folder}; prepare the recordings "
            "with --events, whose stim_file names the images"
        )
    _warn_of_absent([told[i]["stimulus"] for i in np.flatnonzero(seen < 0)], target.folder)
    if target.splits == "prepared":
        of_record = _prepared_splits(windows)
        _refuse_shared(seen, of_record, data.path)
        record = np.flatnonzero((seen >= 0) & (of_record == split))
    else:
        splits = np.array(
            [image_folder.split_of(e, target.val_share, target.test_share, target.split_by) for e in images]
        )
        record = np.flatnonzero((seen >= 0) & (splits[seen] == split))
    if not len(record):
        count = len(np.unique(seen[seen >= 0]))
        shares = f"change target.val_share = {target.val_share:g} and test_share = {target.test_share:g}"
        advice = "prepare the trials anew" if target.splits == "prepared" else shares
        raise UserError(
            f"{target.folder}: none of the {count} images that were seen falls into split {split}; {advice}"
        )
    labels, people, recordings = (tuple(told[i][name] for i in record) for name in ("label", "subject", "recording"))
    start = np.array([told[i]["start"] for i in record])
    return Trials(windows, images, record, seen[record], labels, people, recordings, start)


def windows(data: DataConfig, target: TargetConfig, *, seed: int) -> Trials:
    """Every window of `data`, whether it is known what was seen then (`image` is its number) or not (-1)."""
    found = pipeline.Examples(data, records.ALL, seed=seed, training=False)
    told = found.told()
    shown = {one["stimulus"] for one in told} - {""}
    there = os.path.isdir(target.folder)
    images = image_folder.listing(target.folder, captions=False, among=shown) if there else []
    number = _numbers([entry.name for entry in images], target.folder)
    seen = np.array([number(one["stimulus"]) for one in told])
    labels, people, recordings = (tuple(one[name] for one in told) for name in ("label", "subject", "recording"))
    start = np.array([one["start"] for one in told])
    return Trials(found, tuple(images), np.arange(len(told)), seen, labels, people, recordings, start)


def _shown(data: DataConfig, target: TargetConfig, told: Sequence[dict[str, Any]], seed: int) -> set[str]:
    """Every stimulus of the data, so that an image has one number in every split."""
    if target.people == "apart":
        told = pipeline.Examples(data, records.ALL, seed=seed, training=False).told()
    return {one["stimulus"] for one in told} - {""}


def _prepared_splits(windows: pipeline.Examples) -> np.ndarray:
    """The prepared split of every record of `windows`, which hold all of them."""
    counts = [records.load_dataset(path)["splits"] for path in windows.config.path]
    return np.concatenate([np.repeat(list(splits), list(splits.values())) for splits in counts])


def _refuse_shared(seen: np.ndarray, split: np.ndarray, paths: Sequence[str]) -> None:
    """Raises UserError where an image is in two prepared splits: who is tested on it was told the answer before."""
    pairs = np.unique(np.stack([seen[seen >= 0], np.unique(split, return_inverse=True)[1][seen >= 0]]), axis=1)
    images, in_splits = np.unique(pairs[0], return_counts=True)
    if shared := int((in_splits > 1).sum()):
        raise UserError(
            f"{', '.join(paths)}: {shared} of {len(images)} images are in two of the prepared splits; leave "
            'target.splits at "images" (with target.people = "apart", if people shall be apart), or prepare the '
            "trials with splits that keep images apart"
        )


def _warn_of_absent(stimuli: Sequence[str], folder: str) -> None:
    absent = [name for name in stimuli if name]
    if absent:
        log.warning("%s: %d trials are left out, whose image is not there, such as %s", folder, len(absent), absent[0])


def _numbers(names: Sequence[str], folder: str) -> Callable[[str], int]:
    """stimulus → the number of its image, or -1: by its path, or by its file's name where no other image has it."""
    whole = {name: i for i, name in enumerate(names)}
    files: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        files.setdefault(PurePosixPath(name).name, []).append(i)

    def number(stimulus: str) -> int:
        if stimulus in whole:
            return whole[stimulus]
        found = files.get(PurePosixPath(stimulus).name, [])
        if len(found) > 1:
            raise UserError(
                f"{folder} has {len(found)} images called {PurePosixPath(stimulus).name}, and the recordings do not "
                f"tell which was seen ({stimulus}); name them as stim_file does, relative to the folder"
            )
        return found[0] if found else -1

    return number


@dataclass(frozen=True)
class _Examples:
    """Global example indices → rows of a batch."""

    trials: Trials
    moments: np.ndarray  # [V, N, h, w, 2Z]
    embedding: np.ndarray  # [N, P]
    training: bool

    @functools.cached_property
    def order(self) -> Any:
        """Global example index → trial; see `mixture.order`."""
        config, seed = self.trials.windows.config, self.trials.windows.seed
        if not self.training:
            return mixture.order([len(self.trials)], (), seed=0, shuffle=False, repeat=False)
        seed = seed if config.shuffle_seed is None else config.shuffle_seed
        return mixture.order([len(self.trials)], (), seed=seed, shuffle=config.shuffle, repeat=True)

    def __len__(self) -> int:
        return len(self.order)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "order"}

    def rows(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """The examples `index` (uint64) as arrays with a leading axis; beyond the end, the last one with weight 0."""
        last = len(self.order) - 1
        trial = np.array([self.order[min(int(i), last)] for i in index])
        image = self.trials.image[trial]
        rows = self.trials.windows.of(self.trials.record[trial], index)
        rows["mean"], rows["log_variance"] = np.split(self.moments[0, image], 2, axis=-1)
        rows |= {"embedding": self.embedding[image], "image": image.astype(np.int32)}
        return rows | index_and_weight(index, len(self.order))


class TrialStream(IndexedStream):
    """A `training.task.Stream`: what a `WindowStream` has, and of the image seen `mean`, `log_variance` (h, w, Z),
    `embedding` (P) and its number `image`.
    """

    def __init__(self, examples: _Examples, workers: int, prefetch: int):
        self.examples, self.workers, self.prefetch = examples, workers, prefetch

    def __len__(self) -> int:
        """Trials in one pass over the split."""
        return len(self.examples.trials)

    @property
    def images(self) -> Sequence[Captioned]:
        return self.examples.trials.images

    def element(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and type of one example, by name; without the batch axis."""
        first = self.examples.rows(np.zeros(1, np.uint64))
        return {name: jax.ShapeDtypeStruct(rows.shape[1:], rows.dtype) for name, rows in first.items()}


def pretrained_on(found: Trials, paths: Sequence[str]) -> int:
    """How many of these trials an encoder saw, without their images, that was pretrained on `paths`: those that lie
    in the prepared split "train" of one of them, or whose recording has windows there. Recordings that were given
    other pseudonyms there (`prepare --salt`) pass for others.
    """
    first, seen = 0, np.zeros(int(found.windows.ends[-1]), bool)
    elsewhere = set(paths)
    for path, end in zip(found.windows.config.path, found.windows.ends, strict=True):
        if os.path.abspath(path) in paths:
            elsewhere.discard(os.path.abspath(path))
            at = first
            for split, count in records.load_dataset(path)["splits"].items():
                seen[at : at + count] = split == "train"
                at += count
        first = int(end)
    recordings: set[str] = set()
    for path in sorted(elsewhere):
        if not records.is_dataset(path):
            log.warning("%s is not there any more: what an encoder saw in it is not counted", path)
        elif len(records.open_split(path, "train")):
            config = replace(found.windows.config, path=(path,), weights=())
            windows = pipeline.Examples(config, "train", seed=0, training=False)
            recordings |= {one["recording"] for one in windows.told()}
    return int((seen[found.record] | np.isin(found.recording, sorted(recordings))).sum())


def open_stream(data: DataConfig, target: TargetConfig, split: str, folders: Folders, *, seed: int) -> TrialStream:
    """The trials of split "train" (endless, shuffled) or another (each once); banks are made where they are missing.

    `folders`: of the part vae. Raises UserError as `trials`, for a damaged image, and for a vision model that is not
    there.
    """
    if data.fraction < 1:
        raise UserError(f"data.fraction is {data.fraction}, but stage B reads all trials of its split: leave it at 1")
    training = split == "train"
    found = trials(data, target, split, seed=seed, training=training)
    mesh = meshes.make(MeshConfig())
    moments = features.moments(target.bank_root, target, found.images, folders, mesh, target.encode_batch)
    embedding = np.zeros((len(found.images), 1), np.float32)  # where nothing is aligned with
    if target.embedding.path:
        embedding = features.embeddings(target.bank_root, target.embedding, found.images, mesh, target.encode_batch)
    return TrialStream(_Examples(found, moments, embedding, training), data.workers, target.prefetch)
