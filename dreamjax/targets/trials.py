"""Trials as training examples: a window of brain signal, with latents and an embedding of the image that was seen.

A window belongs to the image whose file name its `stimulus` is. Which trials are held out follows from a hash of that
name: no image is in both training and test, whichever person saw it. `splits="prepared"` follows the splits that a
corpus publishes, and refuses them where they share an image.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.signals.datasets import records
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.signals.datasets.examples import Examples, Rows
from dreamjax.signals.datasets.pipeline import RecordMetadata, WindowExamples
from dreamjax.signals.recordings import identity
from dreamjax.storage import presence
from dreamjax.targets import features, image_folder
from dreamjax.targets.features import EmbeddingConfig
from dreamjax.targets.image_folder import Captioned
from dreamjax.targets.latents import LatentConfig
from dreamjax.weights.loaded import ComponentSource

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class TargetConfig(LatentConfig):
    """The images that were seen, their latents and embeddings, and which trials are held out."""

    test_share: float = 0.1  # of the images; val_share comes on top
    people: Literal["mixed", "apart"] = "mixed"  # apart: people of the prepared splits, so disjoint too
    splits: Literal["images", "prepared"] = "images"  # prepared: those of the dataset folders, without shares
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
                f"target.test_share is {self.test_share}, but it must be a share above 0 and, with val_share = "
                f"{self.val_share}, below 1"
            )


@dataclass(frozen=True)
class ImageTrials:
    """The trials of a split: `record` is the number of each one's window, `image` of what was seen in `images`."""

    windows: WindowExamples
    images: tuple[Captioned, ...]
    record: Int[np.ndarray, "n"]
    image: Int[np.ndarray, "n"]  # -1 where it is not known what was seen
    label: tuple[str, ...]  # of each trial, "" without one
    person: tuple[str, ...]  # salted hashes; of an unknown person the recording
    recording: tuple[str, ...]  # salted hashes
    start: Float[np.ndarray, "n"]  # of each window, s since its recording's first sample

    def __len__(self) -> int:
        return len(self.record)

    @property
    def known(self) -> bool:
        """Whether it is known of any trial what was seen."""
        return bool((self.image >= 0).any())

    def read(self, trials: Int[np.ndarray, "batch"], index: Int[np.ndarray, "batch"] | None = None) -> Rows:
        """Return the windows of trials, by their numbers; `index` (by default the same) keys all random choices."""
        return self.windows.read(self.record[trials], (trials if index is None else index).astype(np.uint64))


def trials(data: DataConfig, target: TargetConfig, split: str, *, seed: int, training: bool) -> ImageTrials:
    """Return the trials of "train", "val" or "test". Raises UserError where there are none."""
    if split not in SPLITS:
        raise UserError(f"trials have the splits {', '.join(SPLITS)}, not {split}")
    if not target.folder:
        raise UserError("target.folder is empty; name the folder of the images that were seen")
    windows = WindowExamples(data, split if target.people == "apart" else records.ALL, seed=seed, training=training)
    metadata = windows.metadata()
    every = metadata  # of all splits, so that an image has one number in every split
    if target.people == "apart":
        every = WindowExamples(data, records.ALL, seed=seed, training=False).metadata()
    images = image_folder.listing(target.folder, captions=False, among={one["stimulus"] for one in every} - {""})
    stimuli = [one["stimulus"] for one in metadata]
    seen = image_numbers(stimuli, [entry.name for entry in images], target.folder)
    if not (seen >= 0).any():
        raise UserError(
            f"{', '.join(data.path)}: no window was recorded at an image of {target.folder}; prepare the recordings "
            "with --events, whose stim_file names the images"
        )
    if absent := [name for name, image in zip(stimuli, seen, strict=True) if image < 0 and name]:
        log.warning(
            "%s: %d trials are left out, whose image is not there, such as %s", target.folder, len(absent), absent[0]
        )
    if target.splits == "prepared":
        counts = [records.load_dataset(path)["splits"] for path in data.path]
        split_of = np.concatenate([np.repeat(list(splits), list(splits.values())) for splits in counts])
        _refuse_shared(seen, split_of, data.path)
    else:
        shares = (target.val_share, target.test_share, target.split_by)
        split_of = np.array([image_folder.split_of(entry, *shares) for entry in images])[seen]
    record = np.flatnonzero((seen >= 0) & (split_of == split))
    if not len(record):
        count = len(np.unique(seen[seen >= 0]))
        advice = f"change target.val_share = {target.val_share:g} and test_share = {target.test_share:g}"
        advice = "prepare the trials again" if target.splits == "prepared" else advice
        raise UserError(
            f"{target.folder}: none of the {count} images that were seen falls into split {split}; {advice}"
        )
    windows.check_electrodes()
    return _image_trials(windows, metadata, images, record, seen)


def windows(data: DataConfig, target: TargetConfig, *, seed: int) -> ImageTrials:
    """Return every window of `data` as a trial, whether or not it is known what was seen (`image` is -1)."""
    windows = WindowExamples(data, records.ALL, seed=seed, training=False)
    metadata = windows.metadata()
    stimuli = [one["stimulus"] for one in metadata]
    images: tuple[Captioned, ...] = ()
    if presence.is_folder(target.folder):
        images = image_folder.listing(target.folder, captions=False, among={*stimuli} - {""})
    seen = image_numbers(stimuli, [entry.name for entry in images], target.folder)
    return _image_trials(windows, metadata, images, np.arange(len(metadata)), seen)


def _image_trials(
    windows: WindowExamples,
    metadata: Sequence[RecordMetadata],
    images: tuple[Captioned, ...],
    record: Int[np.ndarray, "n"],
    seen: Int[np.ndarray, "records"],
) -> ImageTrials:
    chosen = [metadata[i] for i in record]
    return ImageTrials(
        windows,
        images,
        record,
        seen[record],
        tuple(one["label"] for one in chosen),
        tuple(identity.unit(one["subject"], one["recording"]) for one in chosen),
        tuple(one["recording"] for one in chosen),
        np.array([one["start"] for one in chosen]),
    )


def _refuse_shared(seen: np.ndarray, split: np.ndarray, paths: Sequence[str]) -> None:
    """Raise UserError where an image is in two prepared splits: the test would ask about images of training."""
    pairs = np.unique(np.stack([seen[seen >= 0], np.unique(split, return_inverse=True)[1][seen >= 0]]), axis=1)
    images, in_splits = np.unique(pairs[0], return_counts=True)
    if shared := int((in_splits > 1).sum()):
        raise UserError(
            f"{', '.join(paths)}: {shared} of {len(images)} images are in two of the prepared splits; leave "
            'target.splits at "images" (with target.people = "apart" for disjoint people), or prepare the '
            "trials with splits that keep images apart"
        )


def image_numbers(stimuli: Sequence[str], names: Sequence[str], folder: str) -> Int[np.ndarray, "n"]:
    """Return the number of the image that each stimulus is, or -1.

    By its path, or by its file name where no other image has the same.
    """
    by_path = {name: i for i, name in enumerate(names)}
    by_file: dict[str, list[int]] = {}
    for name, i in by_path.items():
        by_file.setdefault(PurePosixPath(name).name, []).append(i)

    def number(stimulus: str) -> int:
        file = PurePosixPath(stimulus).name
        numbers = [by_path[stimulus]] if stimulus in by_path else by_file.get(file, [-1])
        if len(numbers) > 1:
            raise UserError(
                f"{folder} has {len(numbers)} images called {file}, and the recordings do not tell which was seen "
                f"({stimulus}); name them as stim_file does, relative to the folder"
            )
        return numbers[0]

    return np.array([number(stimulus) for stimulus in stimuli])


class TrialExamples(Examples):
    """Trials as a `training.task.Stream`: the windows, and of the image that was seen `mean`, `log_variance` (h, w, Z),
    `embedding` (P) and its number `image`.
    """

    def __init__(
        self,
        trials: ImageTrials,
        moments: Float[np.ndarray, "1 N h w 2Z"],
        embedding: Float[np.ndarray, "N P"],
        *,
        training: bool,
        prefetch: int,
    ):
        config = trials.windows.config
        super().__init__(
            [len(trials)],
            seed=trials.windows.seed,
            endless=training,
            shuffle=training and config.shuffle,
            shuffle_seed=config.shuffle_seed,
        )
        self.trials, self.moments, self.embedding = trials, moments, embedding
        self.images, self.workers, self.prefetch = trials.images, config.workers, prefetch

    def read(self, keys: np.ndarray, index: np.ndarray) -> Rows:
        """Return the trials `keys` as the examples `index`."""
        image = self.trials.image[keys]
        mean, log_variance = np.split(self.moments[0, image], 2, axis=-1)
        seen = {"mean": mean, "log_variance": log_variance, "embedding": self.embedding[image]}
        return self.trials.read(keys, index) | seen | {"image": image.astype(np.int32)}


def pretrained_on(trials: ImageTrials, paths: Sequence[str]) -> int:
    """Count the trials whose signal an encoder that was pretrained on `paths` saw, without their images.

    They lie in the prepared split "train" of one of the folders, or their recording has windows there. Recordings with
    other pseudonyms there (`prepare --salt`) count as other recordings.
    """
    windows, first = trials.windows, 0
    seen = np.zeros(int(windows.ends[-1]), bool)
    elsewhere = set(paths)
    for path, end in zip(windows.config.path, windows.ends, strict=True):
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
            log.warning("%s does not exist any more: trials that an encoder saw in it are not counted", path)
        elif len(records.open_split(path, "train")):
            config = replace(windows.config, path=(path,), weights=())
            metadata = WindowExamples(config, "train", seed=0, training=False).metadata()
            recordings |= {one["recording"] for one in metadata}
    return int((seen[trials.record] | np.isin(trials.recording, sorted(recordings))).sum())


def open_stream(
    data: DataConfig, target: TargetConfig, split: str, folders: ComponentSource, *, seed: int
) -> TrialExamples:
    """Open the trials of split "train" (endless, shuffled) or another (each once); missing banks are made.

    `folders`: of the part vae. Raises UserError as `trials`, for a damaged image, and for a missing vision model.
    """
    if data.fraction < 1:
        raise UserError(f"data.fraction is {data.fraction}, but stage B reads all trials of its split; leave it at 1")
    training = split == "train"
    chosen = trials(data, target, split, seed=seed, training=training)
    mesh = meshes.make(MeshConfig())
    moments = features.moments(target.bank_root, target, chosen.images, folders, mesh, target.encode_batch)
    embedding = np.zeros((len(chosen.images), 1), np.float32)  # without alignment
    if target.embedding.path:
        embedding = features.embeddings(target.bank_root, target.embedding, chosen.images, mesh, target.encode_batch)
    return TrialExamples(chosen, moments, embedding, training=training, prefetch=target.prefetch)
