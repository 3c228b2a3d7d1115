"""A small data set in the layout of THINGS-MEG, whose ground truth is known.

    sub-BIGMEG1/ses-01/meg/sub-BIGMEG1_ses-01_task-main_run-01_meg.fif    axial gradiometers and UPPT001; events.tsv
    sourcedata/sample_attributes_P1.csv                                   a row for each image that was shown
    derivatives/preprocessed/preprocessed_P1-epo.fif                      the same trials at 200 Hz, in SD
    derivatives/preprocessed/image_paths.csv, image_concept_index.csv     THINGS's lists
    images/00001_arrow/arrow_01b.jpg                                      the images

The recordings are FIF in place of CTF folders, which MNE does not write; all else is as published: 64 on UPPT001 at an
image and 32 at a run's end, catch trials, test images that are shown twelve times, onsets in events.tsv 150 ms late.
A response is forward-modelled: every feature of the image (its colours, blurred) drives a dipole with a time course.
"""

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from dreamjax.errors import UserError, require
from dreamjax.signals.recordings.corpora import things_meg
from dreamjax.signals.recordings.corpora.things_meg_epochs import CATCH, LISTS, REPEATS
from dreamjax.signals.simulation import feature_sources
from dreamjax.signals.simulation.stimuli import CONCEPTS, Stimulus, concept_images, draw, new_set
from dreamjax.storage.image_files import pillow
from dreamjax.typing import JsonDict

FEATURES, GRID = 8, 4  # features of an image; side of its blurred form
BASELINE_M = 0.05  # of a CTF gradiometer
NOISE_T = 1e-13  # T, SD of a sensor's noise: 100 fT
STEP_S, JITTER_S, FIRST_S, LATE_S = 1.5, 0.2, 1.5, 0.15  # from image to image, and ±; before the first; of events.tsv
EPOCHS_HZ, EPOCH_S = 200.0, (-0.1, 1.3)
CTF_GRADIOMETER, CTF_REFERENCE = 5001, 5002  # FIFF's coil types
CATCH_EVERY = 20
TRUTH = "truth.json"


@dataclass(frozen=True)
class Layout:
    """The size of the dataset and the strength of its responses."""

    subjects: int = 2
    sessions: int = 2
    runs: int = 2  # of a session
    classes: int = 8  # concepts
    images_per_class: int = 6  # of which one of a test concept is a test image
    test_images: int = 4  # of so many concepts
    channels: int = 24
    sfreq: float = 1200.0  # Hz
    strength: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"subjects": 1, "sessions": 1, "runs": 1, "images_per_class": 2, "channels": 4, "test_images": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise UserError(f"simulate: {name} is {getattr(self, name)}, but must be {low} or more")
        if self.subjects > 4 or not self.test_images < self.classes <= CONCEPTS:
            raise UserError(
                f"simulate: {self.subjects} people, {self.test_images} test images, {self.classes} classes; THINGS-MEG "
                f"has up to 4 people, and fewer test images than classes, which may be up to {CONCEPTS} here"
            )
        if not 0 <= self.strength < math.inf:
            raise UserError(f"simulate: strength is {self.strength:g}, but must be 0 or more")


@dataclass(frozen=True, eq=False)
class _Image:
    """An image: its file, number, concept (from 1), and what a brain makes of it."""

    drawn: Stimulus
    number: int  # of all images of THINGS, from 1
    concept: int
    name: str  # arrow_01b.jpg
    test: bool
    features: Float[np.ndarray, "features"]

    @property
    def label(self) -> str:
        return f"{self.concept:05d}_{self.drawn.file}"


def write(out: epath.PathLike, layout: Layout) -> JsonDict:
    """Write the files into the new folder `out`; return a summary.

    Raise UserError for a folder that exists and is not empty.
    """
    require("mne", "writing MEG recordings")
    started, out = time.monotonic(), epath.Path(out)
    images = _images(layout)
    with new_set(out, last=TRUTH) as made:
        root = Path(made)
        _write_images(root / "images", images)
        lists = root / "derivatives" / "preprocessed"
        lists.mkdir(parents=True)
        (lists / LISTS[0]).write_text("".join(f"images/{i.drawn.file}/{i.name}\n" for i in images))
        (lists / LISTS[1]).write_text("".join(f"{i.concept}\n" for i in images))
        (root / things_meg.TABLES).mkdir()
        (root / "dataset_description.json").write_text(json.dumps({"Name": "THINGS-MEG layout", "License": "CC0"}))
        trials = sum(_write_person(root, layout, images, person) for person in range(1, layout.subjects + 1))
        truth = {
            "layout": dataclasses.asdict(layout),
            "images": {f"{i.label}/{i.name}": {"test": i.test, **dataclasses.asdict(i.drawn)} for i in images},
        }
        (root / TRUTH).write_text(json.dumps(truth))
    return {
        "out": str(out),
        "layout": "things-meg",
        "files": [f"sub-BIGMEG{person}" for person in range(1, layout.subjects + 1)],
        "epochs": str(out / "derivatives" / "preprocessed"),
        "images_folder": str(out / "images"),
        "subjects": layout.subjects,
        "classes": list(dict.fromkeys(i.drawn.file for i in images)),
        "images": len(images),
        "trials": trials,
        "channels": layout.channels,
        "strength": layout.strength,
        "truth": str(out / TRUTH),
        "seconds": round(time.monotonic() - started, 2),
    }


def _images(layout: Layout) -> list[_Image]:
    """Return all images, by concept; the last one of the first concepts is a test image."""
    drawn = concept_images(np.random.default_rng([layout.seed, 1]), [layout.images_per_class] * layout.classes)
    blurred = np.array([_blurred(draw(image)) for concept in drawn for image in concept])
    blurred = (blurred - blurred.mean(axis=0)) / (blurred.std(axis=0) + 1e-9)
    mixing = np.random.default_rng([layout.seed, 20]).normal(size=(blurred.shape[1], FEATURES))
    features = iter(blurred @ mixing / np.sqrt(blurred.shape[1]))
    images: list[_Image] = []
    for concept, exemplars in enumerate(drawn, 1):
        for number, image in enumerate(exemplars, 1):
            test = number == layout.images_per_class and concept <= layout.test_images
            name = f"{image.file}_{number:02d}{'s' if test else 'b'}.jpg"
            images.append(_Image(image, len(images) + 1, concept, name, test, next(features)))
    return images


def _blurred(pixels: np.ndarray) -> Float[np.ndarray, "values"]:
    small = pillow().fromarray(pixels).resize((GRID, GRID), pillow().Resampling.BOX)
    return np.asarray(small, float).ravel() / 255


def _write_images(folder: Path, images: Sequence[_Image]) -> None:
    for image in images:
        path = folder / image.label / image.name
        path.parent.mkdir(parents=True, exist_ok=True)
        pillow().fromarray(draw(image.drawn)).save(path, format="JPEG", quality=95)


def _axes(xyz: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """Return the axes of a coil, a row each, of which the last one points outwards."""
    outward = xyz / np.linalg.norm(xyz)
    first = np.cross(outward, np.eye(3)[np.argmin(np.abs(outward))])
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(outward, first), outward])


class _Person:
    """Sensors and responses of one person: a linear mixture of an image's features."""

    def __init__(self, layout: Layout, person: int):
        self.layout, rng = layout, np.random.default_rng([layout.seed, 21, person])
        self.rng = rng
        self.peak_K, self.width_K = rng.uniform(0.1, 0.5, FEATURES), rng.uniform(0.03, 0.08, FEATURES)
        angle = np.linspace(0, 2 * np.pi * 4, layout.channels)
        height = np.linspace(0.1, 0.95, layout.channels)
        around = np.sqrt(1 - height**2)
        self.loc_Cx3 = 0.12 * np.stack([around * np.cos(angle), around * np.sin(angle), height], axis=1)
        average = feature_sources.average_dipoles(np.random.default_rng([layout.seed, 22]), FEATURES)
        dipoles = feature_sources.of_person(rng, average)
        self.mixing_CxK = feature_sources.of_gradiometers(self.loc_Cx3, BASELINE_M, dipoles) / np.sqrt(FEATURES)

    def response(self, features: np.ndarray, times: np.ndarray) -> Float[np.ndarray, "channels time"]:
        """Return the response at these times after an onset (s), in SDs of the noise."""
        course_KxT = np.exp(-(((times - self.peak_K[:, None]) / self.width_K[:, None]) ** 2))
        return self.layout.strength * self.mixing_CxK @ (features[:, None] * np.where(times >= 0, course_KxT, 0))

    def info(self, sfreq: float, triggers: bool) -> Any:
        """Return MNE's info of the sensors, with a reference and UPPT001 of a recording."""
        import mne

        names = [
            f"M{'LR'[i % 2]}{'CFOPT'[i // 2 % 5]}{i // 10 + 1}{i // 2 % 5 + 1}-1609"
            for i in range(self.layout.channels)
        ]
        types = ["mag"] * len(names)
        if triggers:
            names, types = [*names, "BG1-1609", "UPPT001"], [*types, "ref_meg", "stim"]
        info = mne.create_info(names, sfreq, types)
        for i, xyz in enumerate(self.loc_Cx3):
            info["chs"][i]["coil_type"] = CTF_GRADIOMETER
            info["chs"][i]["loc"][:] = np.concatenate([xyz, _axes(xyz).ravel()])
        if triggers:
            info["chs"][-2]["coil_type"] = CTF_REFERENCE
        info["dev_head_t"] = mne.transforms.Transform("meg", "head", mne.transforms.translation(0, 0.01, 0.02))
        return info


def _write_person(root: Path, layout: Layout, images: Sequence[_Image], number: int) -> int:
    """Write the runs, the table and the epochs of one person; return how many trials there are."""
    person = _Person(layout, number)
    shown: list[_Image | None] = [image for image in images for _ in range(REPEATS if image.test else 1)]
    shown += [None] * max(1, len(shown) // CATCH_EVERY)
    shown = [shown[i] for i in person.rng.permutation(len(shown))]
    rows: list[dict[str, object]] = []
    total = layout.sessions * layout.runs
    for index, part in enumerate(np.array_split(np.arange(len(shown)), total)):
        session, run = divmod(index, layout.runs)
        of_run = [shown[i] for i in part]
        rows += _write_run(root, person, number, session + 1, run + 1, of_run)
    things_meg.write_table(root / things_meg.TABLES / f"sample_attributes_P{number}.csv", rows)
    _write_epochs(root / "derivatives" / "preprocessed", person, number, shown)
    return len(shown)


def _write_run(
    root: Path, person: _Person, number: int, session: int, run: int, shown: Sequence[_Image | None]
) -> list[dict[str, object]]:
    """Write one run as FIF with its events.tsv; return its rows of the table."""
    import mne

    layout, sfreq = person.layout, person.layout.sfreq
    steps = STEP_S + person.rng.uniform(-JITTER_S, JITTER_S, len(shown))
    onsets = np.round((FIRST_S + np.cumsum(steps) - steps[0]) * sfreq).astype(int).tolist()
    n = onsets[-1] + round((FIRST_S + STEP_S) * sfreq)
    data = person.rng.normal(size=(layout.channels + 2, n)) * NOISE_T
    data[-1] = 0
    times = np.arange(round(STEP_S * sfreq)) / sfreq
    for onset, image in zip(onsets, shown, strict=True):
        data[-1, onset : onset + max(2, round(0.01 * sfreq))] = 64
        if image is not None:
            data[: layout.channels, onset : onset + len(times)] += NOISE_T * person.response(image.features, times)
    data[-1, n - round(0.5 * sfreq) : n - round(0.4 * sfreq)] = 32
    folder = root / f"sub-BIGMEG{number}" / f"ses-{session:02d}" / "meg"
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"sub-BIGMEG{number}_ses-{session:02d}_task-main_run-{run:02d}"
    with mne.utils.use_log_level("ERROR"):
        mne.io.RawArray(data, person.info(sfreq, triggers=True)).save(folder / f"{stem}_meg.fif", verbose="ERROR")
    late = "".join(f"{onset / sfreq + LATE_S:.4f}\t0.5\t64\n" for onset in onsets)
    (folder / f"{stem}_events.tsv").write_text("onset\tduration\tvalue\n" + late)
    return [
        {
            "trial_type": "catch" if image is None else "test" if image.test else "exp",
            "session_nr": session,
            "run_nr": run,
            "image_nr": "" if image is None or image.test else image.number,
            "things_image_nr": "" if image is None else image.number,
            "category_nr": "" if image is None or image.test else image.concept,
            "test_image_nr": image.concept if image is not None and image.test else "",
            "image_path": "images_catch_meg/catch.jpg"
            if image is None
            else f"images_meg/{image.drawn.file}/{image.name}",
            "image_on": f"{onset / sfreq:.4f}",
            "image_off": f"{onset / sfreq + 0.5:.4f}",
        }
        for onset, image in zip(onsets, shown, strict=True)
    ]


def _write_epochs(folder: Path, person: _Person, number: int, shown: Sequence[_Image | None]) -> None:
    """Write the trials as the published derivative has them: in SD, without metadata."""
    import mne

    first, last = (round(edge * EPOCHS_HZ) for edge in EPOCH_S)
    times = np.arange(first, last + 1) / EPOCHS_HZ
    data = person.rng.normal(size=(len(shown), person.layout.channels, len(times)))
    for i, image in enumerate(shown):
        if image is not None:
            data[i] += person.response(image.features, times)
    numbers = [CATCH if image is None else image.number for image in shown]
    events = np.array([[300 * i, 0, number] for i, number in enumerate(numbers)])
    with mne.utils.use_log_level("ERROR"):
        info = person.info(EPOCHS_HZ, triggers=False)
        epochs = mne.EpochsArray(data, info, events, tmin=EPOCH_S[0], baseline=None, verbose="ERROR")
        epochs.save(folder / f"preprocessed_P{number}-epo.fif", verbose="ERROR")
