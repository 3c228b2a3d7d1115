"""Forward-modelled EEG whose ground truth is known, written as files that only the real readers can open.

Dipoles in a four-shell head (`simulation.head`) carry a 1/f background, an occipital alpha rhythm, blinks and the
responses to images (`simulation.sources`); mains, drift and amplifier noise come on top. The responses code the class
of the image and, within the class, place, size and colour, so that a decoder can be asked for both. Strength 0 is the
null.
"""

import dataclasses
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from etils import epath
from jaxtyping import Float

from dreamjax.errors import require
from dreamjax.parallel import environment
from dreamjax.signals.simulation import sources
from dreamjax.signals.simulation.head import REFERENCE
from dreamjax.signals.simulation.stimuli import Stimulus, classes_of, feature_table, image_set, new_set, write_images
from dreamjax.signals.simulation.subject import Simulated, SimulationSettings, simulate_subject
from dreamjax.typing import JsonDict

TRUTH = "truth.json"
TASK = "images"
BRAINVISION_UV = 0.05  # µV per bit: int16 spans ± 1638 µV

__all__ = ["SimulationSettings", "expected_response", "image_set", "simulate", "simulate_subject"]


def simulate(out: epath.PathLike, settings: SimulationSettings) -> JsonDict:
    """Write a whole set under `out` (a BIDS root with stimuli/ and truth.json); return a summary.

    The set appears whole or not at all. Raise UserError when `out` exists and is not empty.
    """
    started, out = time.monotonic(), epath.Path(out)
    images = image_set(settings.classes, settings.images_per_class, settings.seed)
    with new_set(out) as root:
        write_images(images, root / "stimuli")

        def one(subject: int) -> tuple[str, JsonDict]:
            simulated = simulate_subject(settings, subject, images)
            return write_subject(root, settings, simulated, images), simulated.truth

        with ThreadPoolExecutor(min(settings.subjects, environment.cores())) as pool:  # NumPy's FFTs release the lock
            written = list(pool.map(one, range(settings.subjects)))
        subjects = [{"file": file, **truth} for file, truth in written]
        write_dataset_files(root, settings, [s["subject"] for s in subjects])
        truth = {
            "settings": dataclasses.asdict(settings),
            "components": [dataclasses.asdict(c) for c in sources.components(classes_of(images), settings.seed)],
            "images": [dataclasses.asdict(p) for p in images],
            "subjects": subjects,
        }
        (root / TRUTH).write_text(json.dumps(truth))

    return {
        "out": str(out),
        "files": [s["file"] for s in subjects],
        "subjects": settings.subjects,
        "minutes": settings.minutes,
        "channels": settings.channels - settings.missing_channels,
        "sfreq": settings.sfreq,
        "classes": list(classes_of(images)),
        "images": len(images),
        "trials": sum(len(s["trials"]) for s in subjects),
        "strength": settings.strength,
        "order": settings.order,
        "truth": str(out / TRUTH),
        "seconds": round(time.monotonic() - started, 2),
    }


def expected_response(
    truth: JsonDict, subject: int, image: int, seconds: Float[np.ndarray, "time"]
) -> Float[np.ndarray, "channels time"]:
    """Return the noise-free response of one subject to one image, in µV against the recording's reference.

    `truth` is the parsed truth.json; `seconds` count from the image's onset.
    """
    parts = tuple(sources.Component(**c) for c in truth["components"])
    person = truth["subjects"][subject]
    weights = feature_table((Stimulus(**truth["images"][image]),), [c.feature for c in parts])[0]
    courses = sources.time_courses(parts, person["latency_shift_s"], np.asarray(seconds))
    return (np.array(person["patterns_uv"]) * weights) @ courses


# ----------------------------------------------- files: EDF+ (by edfio) or BrainVision, with their BIDS sidecars
def edf_bytes(simulated: Simulated, images: tuple[Stimulus, ...], duration: float) -> bytes:
    """Return EDF+C in records of 1 s; one annotation per image, its class as text, its onset exact to the sample."""
    require("edfio", "writing EDF files")
    import edfio

    limit = float(np.ceil(np.abs(simulated.signal).max()))  # one range for all channels: bits of equal size
    kind: JsonDict = {"transducer_type": "simulated", "physical_dimension": "uV", "physical_range": (-limit, limit)}
    rows = zip(simulated.ch_names, simulated.signal, strict=True)
    signals = [edfio.EdfSignal(row, simulated.sfreq, label=name, **kind) for name, row in rows]
    notes = [
        edfio.EdfAnnotation(trial.sample / simulated.sfreq, duration, images[trial.image].shape)
        for trial in simulated.trials
    ]
    buffer = io.BytesIO()
    edfio.Edf(signals, annotations=notes, data_record_duration=1).write(buffer)
    return buffer.getvalue()


def brainvision_bytes(simulated: Simulated, images: tuple[Stimulus, ...], stem: str) -> dict[str, bytes]:
    """Return the three files of a BrainVision recording by ending; markers `S  n`, n the class's number from 1."""
    classes = classes_of(images)
    channels = "".join(
        f"Ch{i}={name},{REFERENCE},{BRAINVISION_UV},µV\n" for i, name in enumerate(simulated.ch_names, 1)
    )
    header = (
        "Brain Vision Data Exchange Header File Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={stem}.eeg\nMarkerFile={stem}.vmrk\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\n"
        f"NumberOfChannels={len(simulated.ch_names)}\nSamplingInterval={1e6 / simulated.sfreq:.10g}\n\n"
        f"[Binary Infos]\nBinaryFormat=INT_16\n\n[Channel Infos]\n{channels}"
    )
    lines = "".join(
        f"Mk{i}=Stimulus,S{classes.index(images[t.image].shape) + 1:3d},{t.sample + 1},1,0\n"
        for i, t in enumerate(simulated.trials, 2)
    )
    markers = (
        "Brain Vision Data Exchange Marker File, Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={stem}.eeg\n\n[Marker Infos]\nMk1=New Segment,,1,1,0\n{lines}"
    )
    whole = np.clip(np.round(simulated.signal.T / BRAINVISION_UV), -32767, 32767)
    return {"eeg.vhdr": header.encode(), "eeg.vmrk": markers.encode(), "eeg.eeg": whole.astype("<i2").tobytes()}


def write_subject(
    root: epath.Path, settings: SimulationSettings, simulated: Simulated, images: tuple[Stimulus, ...]
) -> str:
    """Write one subject's files; the recording's path relative to `root`.

    BIDS events: onset and duration in s, trial_type, stim_file relative to the set's `stimuli` folder, sample.
    """
    subject = f"sub-{simulated.truth['subject']}"
    stem = f"{subject}_task-{TASK}"
    if settings.format == "edf":
        files = {"eeg.edf": edf_bytes(simulated, images, settings.image_s)}
    else:
        files = brainvision_bytes(simulated, images, f"{stem}_eeg")
    sidecar = {
        "TaskName": TASK,
        "SamplingFrequency": settings.sfreq,
        "EEGReference": REFERENCE,
        "PowerLineFrequency": settings.line_hz,
        "SoftwareFilters": "n/a",
        "EEGChannelCount": len(simulated.ch_names),
        "RecordingType": "continuous",
    }
    events = ["onset\tduration\ttrial_type\tstim_file\tsample\n"]
    for trial in simulated.trials:
        image, onset = images[trial.image], trial.sample / simulated.sfreq
        events.append(f"{onset:.10g}\t{settings.image_s:g}\t{image.shape}\t{image.file}\t{trial.sample}\n")
    channels = ["name\ttype\tunits\n", *(f"{name}\tEEG\tuV\n" for name in simulated.ch_names)]
    recording = f"{subject}/eeg/{stem}_{next(iter(files))}"
    files["events.tsv"], files["channels.tsv"] = "".join(events).encode(), "".join(channels).encode()
    files["eeg.json"] = json.dumps(sidecar, indent=1).encode()
    folder = root / subject / "eeg"
    folder.mkdir(parents=True)
    for ending, data in files.items():
        (folder / f"{stem}_{ending}").write_bytes(data)
    return recording


def write_dataset_files(root: epath.Path, settings: SimulationSettings, subjects: list[str]) -> None:
    """Write the BIDS files of the whole set."""
    description = {"Name": "dreamjax simulation", "BIDSVersion": "1.10.0", "License": "CC0-1.0", "DatasetType": "raw"}
    (root / "dataset_description.json").write_text(json.dumps(description, indent=1))
    (root / "participants.tsv").write_text("participant_id\n" + "".join(f"sub-{s}\n" for s in subjects))
    (root / "README").write_text(
        f"{settings.subjects} simulated subjects looking at images (dreamjax simulate, seed {settings.seed}, "
        f"strength {settings.strength:g}, {settings.order} order). No person was recorded. "
        "truth.json holds the ground truth.\n"
    )
    (root / ".bidsignore").write_text("truth.json\n")
