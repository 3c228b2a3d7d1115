"""Simulated recordings as real files: EDF+ (edfio) or BrainVision, with markers and the BIDS files beside them."""

import io
import json

import numpy as np
from etils import epath

from dreamjax.errors import missing_package
from dreamjax.signals.simulation.head import REFERENCE
from dreamjax.signals.simulation.simulation_settings import SimulationSettings
from dreamjax.signals.simulation.stimuli import Stimulus
from dreamjax.signals.simulation.subject import Simulated

TASK = "images"
BRAINVISION_UV = 0.05  # µV per bit: int16 spans ± 1638 µV


def edf_bytes(simulated: Simulated, images: tuple[Stimulus, ...], duration: float) -> bytes:
    """EDF+C in records of 1 s; one annotation per image, its class as text, its onset exact to the sample."""
    try:
        import edfio
    except ImportError as e:
        raise missing_package("edfio", "data", "writing EDF files") from e
    limit = float(np.ceil(np.abs(simulated.signal).max()))  # one range for all channels: bits of equal size
    signals = [
        edfio.EdfSignal(
            row,
            simulated.sfreq,
            label=name,
            transducer_type="simulated",
            physical_dimension="uV",
            physical_range=(-limit, limit),
        )
        for name, row in zip(simulated.ch_names, simulated.signal, strict=True)
    ]
    notes = [
        edfio.EdfAnnotation(trial.sample / simulated.sfreq, duration, images[trial.image].shape)
        for trial in simulated.trials
    ]
    buffer = io.BytesIO()
    edfio.Edf(signals, annotations=notes, data_record_duration=1).write(buffer)
    return buffer.getvalue()


def brainvision_bytes(simulated: Simulated, images: tuple[Stimulus, ...], stem: str) -> dict[str, bytes]:
    """The three files of a BrainVision recording, by ending; markers `S  n` with n the class's number from 1."""
    classes = list(dict.fromkeys(p.shape for p in images))
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
    return {"vhdr": header.encode(), "vmrk": markers.encode(), "eeg": whole.astype("<i2").tobytes()}


def events_tsv(simulated: Simulated, images: tuple[Stimulus, ...], duration: float) -> str:
    """BIDS events: onset and duration in s, trial_type, stim_file relative to the set's `stimuli` folder, sample."""
    rows = ["onset\tduration\ttrial_type\tstim_file\tsample"]
    for trial in simulated.trials:
        image = images[trial.image]
        onset = trial.sample / simulated.sfreq
        rows.append(f"{onset:.10g}\t{duration:g}\t{image.shape}\t{image.file}\t{trial.sample}")
    return "\n".join(rows) + "\n"


def write_subject(
    root: epath.Path, settings: SimulationSettings, simulated: Simulated, images: tuple[Stimulus, ...]
) -> str:
    """Write one subject's files; the recording's path relative to `root`."""
    subject = f"sub-{simulated.truth['subject']}"
    folder, stem = root / subject / "eeg", f"{subject}_task-{TASK}_eeg"
    folder.mkdir(parents=True)
    if settings.format == "edf":
        files = {"edf": edf_bytes(simulated, images, settings.image_s)}
    else:
        files = brainvision_bytes(simulated, images, stem)
    for ending, data in files.items():
        (folder / f"{stem}.{ending}").write_bytes(data)
    (folder / f"{subject}_task-{TASK}_events.tsv").write_text(events_tsv(simulated, images, settings.image_s))
    sidecar = {
        "TaskName": TASK,
        "SamplingFrequency": settings.sfreq,
        "EEGReference": REFERENCE,
        "PowerLineFrequency": settings.line_hz,
        "SoftwareFilters": "n/a",
        "EEGChannelCount": len(simulated.ch_names),
        "RecordingType": "continuous",
    }
    (folder / f"{stem}.json").write_text(json.dumps(sidecar, indent=1))
    rows = "".join(f"{name}\tEEG\tuV\n" for name in simulated.ch_names)
    (folder / f"{subject}_task-{TASK}_channels.tsv").write_text("name\ttype\tunits\n" + rows)
    return f"{subject}/eeg/{stem}.{'edf' if settings.format == 'edf' else 'vhdr'}"


def write_dataset_files(root: epath.Path, settings: SimulationSettings, subjects: list[str]) -> None:
    """The BIDS files of the whole set."""
    description = {"Name": "dreamjax simulation", "BIDSVersion": "1.10.0", "License": "CC0-1.0", "DatasetType": "raw"}
    (root / "dataset_description.json").write_text(json.dumps(description, indent=1))
    (root / "participants.tsv").write_text("participant_id\n" + "".join(f"sub-{s}\n" for s in subjects))
    (root / "README").write_text(
        f"{settings.subjects} simulated subjects looking at images (dreamjax simulate, seed {settings.seed}, "
        f"strength {settings.strength:g}, {settings.order} order). No person was recorded. "
        "truth.json says what is inside.\n"
    )
    (root / ".bidsignore").write_text("truth.json\n")
