"""A small data set in the layout of EEG-ImageNet's published files, whose ground truth is known.

    eeg_5_95_std.pth                      5-95 Hz, in standard deviations of a channel
    eeg_signals_raw_with_mean_std.pth     the recording in µV, with means and stddevs
    block_splits_by_image_all.pth         six splits by image, indices of the whole list
    block_splits_by_image_single.pth      one split of half of person 4's trials, indices of that person's list
    imagenet/<wnid>/<name>.JPEG           the images

The design is the published one as well: every class in one stretch of half a second an image, ten seconds between, so
that drift reveals the class. The WordNet ids are made up, so that the drawings cannot be taken for ImageNet's.
"""

import dataclasses
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from etils import epath
from scipy import signal as filtering

from dreamjax.errors import UserError
from dreamjax.signals.recordings.corpora.eeg_imagenet import SFREQ, image_file
from dreamjax.signals.simulation.stimuli import Stimulus, classes_of, draw, image_set, new_set
from dreamjax.signals.simulation.subject import ImageOnset, SimulationSettings, simulate_subject
from dreamjax.storage.checkpoint_files import torch_writer
from dreamjax.storage.image_files import pillow
from dreamjax.typing import JsonDict

BAND = (5.0, 95.0)  # Hz
IMAGE_S, PAUSE_S, EDGE_S = 0.5, 10.0, 2.0
USUAL, SHORTEST, LONGEST = (498, 499, 500), 491, 1527  # samples of a trial, as in the published files
SINGLE = 4  # the person of the `_single` splits, where there is one of that number
SINGLE_SHARES = (0.669, 0.167)  # train and val of the published split
SPLITS = 6
STD, RAW, TRUTH = "eeg_5_95_std.pth", "eeg_signals_raw_with_mean_std.pth", "truth.json"


@dataclass(frozen=True)
class Layout:
    """The size of the dataset and the strength of its responses."""

    subjects: int = 6
    classes: int = 4
    images_per_class: int = 12
    channels: int = 128
    strength: float = 1.0
    seed: int = 0
    corrupt: bool = False  # one JPEG is cut short, as in the copy that DreamDiffusion's authors gave away

    def __post_init__(self) -> None:
        if self.images_per_class < 3:
            raise UserError(f"simulate: images_per_class is {self.images_per_class}, but must be 3 or more")

    @property
    def settings(self) -> SimulationSettings:
        """Return the settings of the recordings that the trials are cut from."""
        seconds = 2 * EDGE_S + self.classes * (self.images_per_class * IMAGE_S + PAUSE_S)
        same = ("subjects", "channels", "classes", "images_per_class", "strength", "seed")
        return SimulationSettings(
            minutes=np.ceil(seconds) / 60,
            order="block",
            sfreq=SFREQ,
            image_s=IMAGE_S,
            gap_s=(0.0, 0.0),
            rest_fraction=0.0,
            **{name: getattr(self, name) for name in same},
        )


def write(out: epath.PathLike, layout: Layout) -> JsonDict:
    """Write the files into the new folder `out`; return a summary.

    Raise UserError for a number that cannot be, and for a folder that exists and is not empty.
    """
    started, out, settings = time.monotonic(), epath.Path(out), layout.settings
    drawn = image_set(layout.classes, layout.images_per_class, layout.seed)
    shapes = list(classes_of(drawn))
    label = [shapes.index(image.shape) for image in drawn]
    wnids = [f"n9{i:07d}" for i in range(len(shapes))]
    names = [f"{wnids[k]}_{100 + i}" for i, k in enumerate(label)]
    rng = np.random.default_rng([layout.seed, 9])
    with new_set(out, last=TRUTH) as root:
        _write_images(root / "imagenet", drawn, names, layout.corrupt)
        with ThreadPoolExecutor(2) as pool:  # NumPy's FFTs release the lock
            people = list(pool.map(lambda person: _trials(settings, person, drawn), range(layout.subjects)))
        cut = [trial for trials in people for trial in trials]
        del cut[rng.integers(len(drawn))]  # the published list lacks some
        cut = [cut[i] for i in rng.permutation(len(cut))]
        every = np.concatenate([c.raw for c in cut], axis=1)
        statistics = {"means": every.mean(axis=1, keepdims=True), "stddevs": every.std(axis=1, keepdims=True)}
        files: dict[str, JsonDict] = {}
        for file, kind, more in ((STD, "filtered", {}), (RAW, "raw", statistics)):
            dataset = [
                {"eeg": getattr(c, kind), "image": c.image, "label": label[c.image], "subject": c.subject} for c in cut
            ]
            files[file] = {"dataset": dataset, "labels": wnids, "images": names, **more}
        splits = {f"block_splits_by_image_{name}.pth": value for name, value in _splits(cut, label, layout).items()}
        for file, value in (files | {name: {"splits": value} for name, value in splits.items()}).items():
            torch_writer.save(root / file, value)
        truth = {
            "layout": dataclasses.asdict(layout),
            "classes": dict(zip(wnids, shapes, strict=True)),
            "images": dict(zip(names, (dataclasses.asdict(p) for p in drawn), strict=True)),
            "trials": [{"subject": c.subject, "image": c.image, "sample": c.sample} for c in cut],
        }
        (root / TRUTH).write_text(json.dumps(truth))
    return {
        "out": str(out),
        "layout": "eeg-imagenet",
        "files": list(files),
        "split_files": list(splits),
        "imagenet": str(out / "imagenet"),
        "subjects": layout.subjects,
        "classes": shapes,
        "images": len(drawn),
        "trials": len(cut),
        "channels": layout.channels,
        "strength": layout.strength,
        "truth": str(out / TRUTH),
        "seconds": round(time.monotonic() - started, 2),
    }


@dataclass(frozen=True, eq=False)
class _Cut:
    """A trial: the person (from 1), the image, where in the recording, and both signals."""

    subject: int
    image: int
    sample: int
    filtered: np.ndarray  # standard deviations
    raw: np.ndarray  # µV


def _trials(settings: SimulationSettings, person: int, images: tuple[Stimulus, ...]) -> list[_Cut]:
    """Return the trials of one person by time: class by class."""
    rng = np.random.default_rng([settings.seed, 10, person])
    now, shown = EDGE_S, []
    for label in rng.permutation(settings.classes):
        for exemplar in rng.permutation(settings.images_per_class):
            shown.append(ImageOnset(round(now * SFREQ), int(label * settings.images_per_class + exemplar)))
            now += IMAGE_S
        now += PAUSE_S
    recorded = simulate_subject(settings, person, images, tuple(shown)).signal
    band = filtering.butter(4, BAND, "bandpass", fs=SFREQ, output="sos")
    filtered = filtering.sosfiltfilt(band, recorded, axis=1)
    filtered = (filtered - filtered.mean(axis=1, keepdims=True)) / filtered.std(axis=1, keepdims=True)
    lengths = rng.choice(USUAL, len(shown))
    lengths[rng.integers(len(shown))] = SHORTEST
    lengths[-1] = LONGEST  # into the pause
    cut = []
    for trial, n in zip(shown, lengths.tolist(), strict=True):
        both = (x_CxT[:, trial.sample : trial.sample + n].astype(np.float32) for x_CxT in (filtered, recorded))
        cut.append(_Cut(person + 1, trial.image, trial.sample, *both))
    return cut


def _splits(cut: list[_Cut], label: list[int], layout: Layout) -> dict[str, list[dict[str, list[int]]]]:
    """Return the splits. `_all`: rotating tenths of each class's images. `_single`: half of one person's trials."""
    rng = np.random.default_rng([layout.seed, 11])
    of_class = [rng.permutation(np.flatnonzero(np.array(label) == c)) for c in range(layout.classes)]
    image, subject = np.array([c.image for c in cut]), np.array([c.subject for c in cut])
    held = max(1, layout.images_per_class // 10)
    every = []
    for number in range(SPLITS):
        turned = [np.roll(members, -2 * held * number) for members in of_class]
        parts = {
            "train": np.concatenate([m[2 * held :] for m in turned]),
            "val": np.concatenate([m[held : 2 * held] for m in turned]),
            "test": np.concatenate([m[:held] for m in turned]),
        }
        every.append({name: np.flatnonzero(np.isin(image, chosen)).tolist() for name, chosen in parts.items()})
    trials = int((subject == min(SINGLE, layout.subjects)).sum())
    half = rng.permutation(trials // 2).tolist()
    train, val = (round(share * len(half)) for share in SINGLE_SHARES)
    single = {"train": half[:train], "val": half[train : train + val], "test": half[train + val :]}
    return {"all": every, "single": [single]}


def _write_images(folder: epath.Path, drawn: tuple[Stimulus, ...], names: list[str], corrupt: bool) -> None:
    for image, name in zip(drawn, names, strict=True):
        path = folder / image_file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            pillow().fromarray(draw(image)).save(stream, format="JPEG", quality=95)
    if corrupt:
        path = folder / image_file(names[-1])
        path.write_bytes(path.read_bytes()[: path.stat().length // 2])
