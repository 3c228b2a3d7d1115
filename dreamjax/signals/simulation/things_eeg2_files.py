"""Small data sets in the layouts of THINGS-EEG2, whose ground truth is known.

    eeg/sub-01/…                                   the trials, in one of the layouts of `corpora.things_layouts`
    image_set/image_metadata.npy                   the numbers of the images
    image_set/training_images/00001_circle/…       drawn images; test_images/ of other concepts
    images/00001_circle/…                          the images of both folders in one, as training reads them
    truth.json                                     the settings

A trial is forward-modelled: every feature of the image drives a dipole with a course over time after the onset; the
sum at the electrodes is multiplied by `strength` and added to noise. At strength 0 trials carry nothing about images.
"""

import dataclasses
import io
import json
import math
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from dreamjax.errors import UserError
from dreamjax.signals.recordings.corpora.things_layouts import CAP_ORDER, CHANNELS_17, CHANNELS_63
from dreamjax.signals.simulation import feature_sources
from dreamjax.signals.simulation.stimuli import CONCEPTS, SHAPES, Stimulus, concept_images, draw, new_set
from dreamjax.storage.image_files import pillow
from dreamjax.typing import JsonDict

LAYOUTS = ("original", "nice", "ubp", "neurobridge", "adabrain", "raw", "alljoined")
TRUTH = "truth.json"
CONCEPT_PIXELS = 48
RAW_HZ, SOA_S, TARGET = 1000.0, 0.2, 99999
RAW_UV = 8.0  # SD of the noise of a recording
COURSES_S = (0.09, 0.13, 0.17, 0.22, 0.28, 0.36)  # after the onset, where a feature's response is largest


@dataclass(frozen=True)
class ThingsLayout:
    """The size of the data set and the strength of its responses."""

    layout: str = "nice"
    subjects: int = 2
    concepts: int = 6  # of the training images
    images_per_concept: int = 10
    test_concepts: int = 4
    repetitions: int = 4  # of a training image, over all sessions
    test_repetitions: int = 8
    sessions: int = 4  # of a raw data set; a training image is shown in two of them
    strength: float = 1.0  # SD of the responses, that of the noise being 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise UserError(f"simulate: layout is {self.layout!r}, but must be one of {', '.join(LAYOUTS)}")
        counts = ("subjects", "concepts", "images_per_concept", "test_concepts", "repetitions", "test_repetitions")
        if few := [name for name in (*counts, "sessions") if getattr(self, name) < 1]:
            raise UserError(f"simulate: {few[0]} is {getattr(self, few[0])}, but must be 1 or more")
        if not 0 <= self.strength < math.inf:
            raise UserError(f"simulate: strength is {self.strength:g}, but must be 0 or more")
        if self.concepts + self.test_concepts > CONCEPTS:
            raise UserError(f"simulate: concepts are at most {CONCEPTS}, with those of the test images")

    @property
    def ch_names(self) -> tuple[str, ...]:
        of_layout = {"original": CHANNELS_17, "adabrain": CAP_ORDER, "raw": CAP_ORDER, "alljoined": CHANNELS_63[::2]}
        return of_layout.get(self.layout, CHANNELS_63)

    @property
    def sfreq(self) -> float:
        return {"original": 100.0, "raw": RAW_HZ}.get(self.layout, 250.0)

    @property
    def times(self) -> Float[np.ndarray, "samples"]:
        start, stop = {"original": (-0.2, 0.8), "raw": (0.0, 0.6)}.get(self.layout, (0.0, 1.0))
        return np.round(start + np.arange(round((stop - start) * self.sfreq)) / self.sfreq, 6)


def drawn_concepts(layout: ThingsLayout) -> tuple[list[Stimulus], list[Stimulus]]:
    """Return the training and the test images."""
    rng = np.random.default_rng([layout.seed, 30])
    counts = [layout.images_per_concept] * layout.concepts + [1] * layout.test_concepts
    drawn = concept_images(rng, counts)
    parts = drawn[: layout.concepts], drawn[layout.concepts :]
    train, test = ([image for number, one in enumerate(part) for image in _named(one, number + 1)] for part in parts)
    return train, test


def _named(images: list[Stimulus], number: int) -> list[Stimulus]:
    """Return images of a concept with the names of their files, as THINGS has them."""
    return [
        dataclasses.replace(image, file=f"{number:05d}_{image.file}/{image.file}_{exemplar + 1:02d}s.jpg")
        for exemplar, image in enumerate(images)
    ]


def image_features(images: list[Stimulus]) -> Float[np.ndarray, "images features"]:
    """Return the features of drawn images that trials code, each of about unit variance: place, size, colour, shape."""
    rng = np.random.default_rng(31)
    codes = dict(zip(SHAPES, rng.standard_normal((len(SHAPES), 6)), strict=True))
    names = ("x", "y", "size", "hue_cos", "hue_sin")
    return np.array([[1.6 * image.features()[n] for n in names] + codes[image.shape].tolist() for image in images])


@dataclass(frozen=True, eq=False)
class _Person:
    """What the trials of a person are made with."""

    kernel: Float[np.ndarray, "features channels samples"]
    rng: np.random.Generator
    strength: float

    def response(self, feature: Float[np.ndarray, "features"]) -> Float[np.ndarray, "channels samples"]:
        return self.strength * np.tensordot(feature, self.kernel, 1)

    def trials(
        self, features: np.ndarray, repetitions: int
    ) -> Float[np.ndarray, "images repetitions channels samples"]:
        """Return responses in noise of SD 1."""
        shape = (len(features), repetitions, *self.kernel.shape[1:])
        signal = self.strength * np.tensordot(features, self.kernel, 1)
        return signal[:, None] + self.rng.standard_normal(shape)


def _person(layout: ThingsLayout, number: int, features: int) -> _Person:
    """Draw a person, whose sources lie near those of the average brain; every feature has a course in time."""
    average = feature_sources.average_dipoles(np.random.default_rng([layout.seed, 32]), features)
    rng = np.random.default_rng([layout.seed, 33, number])
    topography = feature_sources.of_electrodes(layout.ch_names, feature_sources.of_person(rng, average)).T
    peak = np.resize(COURSES_S, features)[:, None]
    course = np.exp(-(((layout.times - peak) / 0.06) ** 2) / 2) * (layout.times > 0.04)
    kernel = topography[:, :, None] * course[:, None, :]
    return _Person(kernel / np.sqrt(features), rng, layout.strength)


def write_things_eeg2(
    out: epath.PathLike,
    layout: ThingsLayout | str = "nice",
    features: Float[np.ndarray, "images features"] | None = None,
    **size: Any,
) -> JsonDict:
    """Write a data set into the new folder `out`; return a summary.

    Args:
      out: a folder that does not exist, or is empty.
      layout: its layout and size, or the layout's name and the size as `subjects=2, concepts=6, strength=0.5`.
      features: what the trials code of each image, the training images first; None: place, size, colour and shape.

    Raises:
      UserError: for a number that cannot be, and for a folder that is not empty.
    """
    layout = ThingsLayout(layout, **size) if isinstance(layout, str) else layout
    train, test = drawn_concepts(layout)
    coded = image_features([*train, *test]) if features is None else np.asarray(features, np.float64)
    if coded.ndim != 2 or len(coded) != len(train) + len(test):
        raise UserError(f"simulate: features have shape {coded.shape}, but there are {len(train) + len(test)} images")
    of_split = {"train": coded[: len(train)], "test": coded[len(train) :]}
    with new_set(epath.Path(out), last=TRUTH) as root:
        _write_images(root, {"train": train, "test": test})
        eeg = root / "eeg"
        for number in range(1, layout.subjects + 1):
            person = _person(layout, number, coded.shape[1])
            WRITERS[layout.layout](eeg, number, layout, person, of_split)
        if layout.layout == "neurobridge":
            info = {"ch_names": list(layout.ch_names), "times": layout.times.tolist(), "sfreq": layout.sfreq}
            (eeg / "info.json").write_text(json.dumps(info))
        (root / TRUTH).write_text(json.dumps(dataclasses.asdict(layout)))
    return {
        "out": str(out),
        "layout": f"things-eeg2-{layout.layout}",
        "eeg": str(epath.Path(out) / "eeg"),
        "image_set": str(epath.Path(out) / "image_set"),
        "images": str(epath.Path(out) / "images"),
        "subjects": layout.subjects,
        "train_images": len(train),
        "test_images": len(test),
        "channels": len(layout.ch_names),
        "strength": layout.strength,
    }


def _write_images(root: epath.Path, images: dict[str, list[Stimulus]]) -> None:
    listed = {}
    for split, name in (("train", "training_images"), ("test", "test_images")):
        for image in images[split]:
            buffer = io.BytesIO()
            pillow().fromarray(draw(image, CONCEPT_PIXELS)).save(buffer, format="JPEG", quality=95)
            for folder in (root / "image_set" / name, root / "images"):
                (folder / image.file).parent.mkdir(parents=True, exist_ok=True)
                (folder / image.file).write_bytes(buffer.getvalue())
        parts = [image.file.split("/") for image in images[split]]
        listed[f"{split}_img_concepts"] = [concept for concept, _ in parts]
        listed[f"{split}_img_files"] = [file for _, file in parts]
    _save_dictionary(root / "image_set" / "image_metadata.npy", listed)


# ------------------------------------------------------------------------------------------------------------- layouts
Features = dict[str, np.ndarray]


def _save_dictionary(path: epath.Path, content: dict) -> None:
    """Write a dictionary as np.save does: an array of one object."""
    buffer = io.BytesIO()
    np.save(buffer, np.array(content, object), allow_pickle=True)
    path.write_bytes(buffer.getvalue())


def _folder(eeg: epath.Path, number: int) -> epath.Path:
    folder = eeg / f"sub-{number:02d}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _merged(eeg: epath.Path, number: int, layout: ThingsLayout, person: _Person, features: Features) -> None:
    """Write the original layout (np.save of a dictionary) or NICE's (the same, pickled alone)."""
    for split, name, count in (("train", "training", layout.repetitions), ("test", "test", layout.test_repetitions)):
        padded = layout.times if layout.layout == "original" else np.arange(-50, 250) / 250  # of the uncut epochs
        content = {
            "preprocessed_eeg_data": person.trials(features[split], count),
            "ch_names": list(layout.ch_names),
            "times": padded,
        }
        path = _folder(eeg, number) / f"preprocessed_eeg_{name}.npy"
        if layout.layout == "original":
            _save_dictionary(path, content)
        else:
            path.write_bytes(pickle.dumps(content, protocol=4))


def _ubp(eeg: epath.Path, number: int, layout: ThingsLayout, person: _Person, features: Features) -> None:
    """Write torch.save's archive of NumPy arrays, as UBP does."""
    for split, images, count in zip(
        features, drawn_concepts(layout), (layout.repetitions, layout.test_repetitions), strict=True
    ):
        shape = (len(images), count)
        folder = "train_images" if split == "train" else "test_images"
        names = np.array([f"{folder}/{image.file}" for image in images])
        content = {
            "eeg": person.trials(features[split], count).astype(np.float16),
            "label": np.tile(np.arange(len(images))[:, None], (1, count)),
            "img": np.tile(names[:, None], (1, count)),
            "session": np.broadcast_to(np.arange(count) // 2 % layout.sessions, shape).astype(float),
            "ch_names": list(layout.ch_names),
            "times": np.arange(-50, 250) / 250,
        }
        with zipfile.ZipFile(str(_folder(eeg, number) / f"{split}.pt"), "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(f"{split}/data.pkl", pickle.dumps(content, protocol=5))
            archive.writestr(f"{split}/byteorder", "little")
            archive.writestr(f"{split}/version", "3\n")


def _neurobridge(eeg: epath.Path, number: int, layout: ThingsLayout, person: _Person, features: Features) -> None:
    for split, each, count in (
        ("train", layout.images_per_concept, layout.repetitions),
        ("test", 1, layout.test_repetitions),
    ):
        trials = person.trials(features[split], count).astype(np.float32)
        np.save(str(_folder(eeg, number) / f"{split}.npy"), trials.reshape(-1, each, *trials.shape[1:]))


def _adabrain(eeg: epath.Path, number: int, layout: ThingsLayout, person: _Person, features: Features) -> None:
    for split, each, count in (
        ("train", layout.images_per_concept, layout.repetitions),
        ("test", 1, layout.test_repetitions),
    ):
        folder = _folder(eeg / split, number)
        for image, trials in enumerate(person.trials(features[split], count)):
            for repetition, trial in enumerate(trials):
                content = pickle.dumps({"X": trial, "Y": image // each + 1}, protocol=4)
                (folder / f"S{number}_{image + 1}_{repetition + 1}.pkl").write_bytes(content)


def _alljoined(eeg: epath.Path, number: int, layout: ThingsLayout, person: _Person, features: Features) -> None:
    """Write single trials in a random order, and the table of what was shown."""
    rows = ["partition,session,image_path,dropped"]
    for split, name, images, count in zip(
        features,
        ("training", "test"),
        drawn_concepts(layout),
        (layout.repetitions, layout.test_repetitions),
        strict=True,
    ):
        shown = person.rng.permutation(np.repeat(np.arange(len(images)), count))
        content = {
            "preprocessed_eeg_data": person.trials(features[split][shown], 1)[:, 0],
            "ch_names": list(layout.ch_names),
            "times": layout.times,
        }
        path = _folder(eeg, number) / f"preprocessed_eeg_{name}_flat.npy"
        path.write_bytes(pickle.dumps(content, protocol=5))
        sessions = np.sort(np.arange(len(shown)) % layout.sessions) + 1
        for image, session in zip(shown.tolist(), sessions.tolist(), strict=True):
            rows += [f"stim_{split},{session},images/{images[image].file},False"]
        rows += [f"stim_{split},1,images/{images[0].file},True"]  # a trial that was dropped
    (_folder(eeg, number) / "experiment_metadata.csv").write_text("\n".join(rows) + "\n")


def _raw(eeg: epath.Path, number: int, layout: ThingsLayout, person: _Person, features: Features) -> None:
    """Write the recordings of every session: responses in slow noise, V, with the numbers of the images."""
    for session in range(layout.sessions):
        folder = _folder(eeg, number) / f"ses-{session + 1:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        every = np.arange(len(features["train"]))
        shown = {
            "training": np.repeat(every[every % 2 == session % 2], max(1, layout.repetitions // 2)),
            "test": np.repeat(np.arange(len(features["test"])), max(1, layout.test_repetitions // layout.sessions)),
        }
        for part, images in shown.items():
            split = "train" if part == "training" else part
            _save_dictionary(folder / f"raw_eeg_{part}.npy", _recording(layout, person, features[split], images))


def _recording(layout: ThingsLayout, person: _Person, features: np.ndarray, images: np.ndarray) -> dict:
    """Return the dictionary of one recording: 63 channels in V and the codes, with a target after every tenth image."""
    rng = person.rng
    order = rng.permutation(images).tolist()
    codes = [code for i, image in enumerate(order) for code in ([image + 1] + [TARGET] * (i % 10 == 9))]
    step, edge = round(SOA_S * RAW_HZ), round(RAW_HZ)
    samples = 2 * edge + step * len(codes)
    noise = rng.standard_normal((len(layout.ch_names), samples))
    slow = np.cumsum(rng.standard_normal(noise.shape), axis=1) * 0.02
    data = noise + slow - slow.mean(axis=1, keepdims=True)
    data += 0.5 * rng.standard_normal(samples)  # what all channels have in common
    stim = np.zeros(samples)
    for i, code in enumerate(codes):
        onset = edge + i * step
        stim[onset : onset + 10] = code
        if code != TARGET:
            data[:, onset : onset + person.kernel.shape[2]] += person.response(features[code - 1])
    return {
        "raw_eeg_data": np.concatenate([data * RAW_UV * 1e-6, stim[None]]),
        "ch_names": [*layout.ch_names, "stim"],
        "ch_types": ["eeg"] * len(layout.ch_names) + ["stim"],
        "sfreq": RAW_HZ,
        "highpass": 0.01,
        "lowpass": 100.0,
    }


Writer = Callable[[epath.Path, int, ThingsLayout, _Person, Features], None]
WRITERS: dict[str, Writer] = {
    "original": _merged,
    "nice": _merged,
    "ubp": _ubp,
    "neurobridge": _neurobridge,
    "adabrain": _adabrain,
    "raw": _raw,
    "alljoined": _alljoined,
}
