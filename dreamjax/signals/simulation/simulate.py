"""Forward-modelled EEG whose ground truth is known, written as files that only the real readers can open.

Dipoles in a four-shell head (`simulation.sphere`) carry a 1/f background, an occipital alpha rhythm, blinks and the
responses to images (`simulation.evoked`); mains, drift and amplifier noise come on top. The responses code the class
of the image and, within the class, place, size and colour, so that a decoder can be asked for both. Strength 0 is the
null.
"""

import dataclasses
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from etils import epath
from jaxtyping import Float

from dreamjax.signals.simulation import evoked, recording_files
from dreamjax.signals.simulation.simulation_settings import SimulationSettings, refuse_existing
from dreamjax.signals.simulation.stimuli import Stimulus, feature_table, image_set, write_images
from dreamjax.signals.simulation.subject import Simulated, simulate_subject
from dreamjax.storage import atomic
from dreamjax.typing import JsonDict

TRUTH = "truth.json"

__all__ = [
    "Simulated",
    "SimulationSettings",
    "Stimulus",
    "expected_response",
    "image_set",
    "simulate",
    "simulate_subject",
]


def simulate(out: epath.PathLike, settings: SimulationSettings) -> JsonDict:
    """Write a whole set under `out` (a BIDS root with stimuli/ and truth.json); returns a summary.

    The set appears whole or not at all. Raises UserError when `out` exists and is not empty.
    """
    started = time.monotonic()
    out = epath.Path(out)
    refuse_existing(out)
    images = image_set(settings.classes, settings.images_per_class, settings.seed)

    with atomic.new_folder(out) as root:
        write_images(images, root / "stimuli")

        def one(subject: int) -> tuple[str, JsonDict]:
            simulated = simulate_subject(settings, subject, images)
            return recording_files.write_subject(root, settings, simulated, images), simulated.truth

        with ThreadPoolExecutor(min(settings.subjects, os.cpu_count() or 1)) as pool:  # NumPy's FFTs release the lock
            written = list(pool.map(one, range(settings.subjects)))
        subjects = [{"file": file, **truth} for file, truth in written]
        recording_files.write_dataset_files(root, settings, [s["subject"] for s in subjects])
        classes = tuple(dict.fromkeys(p.shape for p in images))
        truth = {
            "settings": dataclasses.asdict(settings),
            "components": [dataclasses.asdict(c) for c in evoked.components(classes, settings.seed)],
            "images": [dataclasses.asdict(p) for p in images],
            "subjects": subjects,
        }
        (root / TRUTH).write_text(json.dumps(truth))

    trials = sum(len(s["trials"]) for s in subjects)
    return {
        "out": str(out),
        "files": [s["file"] for s in subjects],
        "subjects": settings.subjects,
        "minutes": settings.minutes,
        "channels": settings.channels - settings.missing_channels,
        "sfreq": settings.sfreq,
        "classes": list(classes),
        "images": len(images),
        "trials": trials,
        "strength": settings.strength,
        "order": settings.order,
        "truth": str(out / TRUTH),
        "seconds": round(time.monotonic() - started, 2),
    }


def expected_response(
    truth: JsonDict, subject: int, image: int, seconds: Float[np.ndarray, "time"]
) -> Float[np.ndarray, "channels time"]:
    """What one image evokes in one subject, noise-free, in µV against the recording's reference.

    `truth` is the parsed truth.json; `seconds` count from the image's onset.
    """
    parts = tuple(evoked.Component(**c) for c in truth["components"])
    person = truth["subjects"][subject]
    weights = feature_table((Stimulus(**truth["images"][image]),), [c.feature for c in parts])[0]
    courses = evoked.time_courses(parts, person["latency_shift_s"], np.asarray(seconds))
    return (np.array(person["patterns_uv"]) * weights) @ courses
