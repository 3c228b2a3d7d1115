"""One recording → one part: its windows in a shard file and a summary. What a child process of `prepare` runs.

A part is finished when `summary.json` lies beside its shard; it is named after the content of the input and the
settings, so an interrupted run finds its finished parts again and nothing else can be taken for them.
"""

import json
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dreamjax.errors import UserError
from dreamjax.signals.datasets import records, shards
from dreamjax.signals.preparation.windows import Identity, Settings, Windows
from dreamjax.signals.recordings.identity import pseudonym
from dreamjax.signals.recordings.readers.recording import Recording, Source
from dreamjax.storage import atomic, manifest

COMPANIONS = {
    ".vhdr": (".eeg", ".dat", ".vmrk"),
    ".ahdr": (".eeg", ".dat", ".amrk"),
    ".set": (".fdt",),
    ".eeg": (".21e", ".21E", ".pnt", ".PNT", ".log", ".LOG"),
    ".npy": (".json",),
}
UNKNOWN = "unknown"  # corpus of recordings that belong to no known one
SHARD = "windows.array_record"
SUMMARY = "summary.json"
FREQUENCIES = 161  # 0 … 80 Hz in steps of 0.5 Hz, of the report's spectra
HASH_SAMPLES = 1 << 16  # of every channel, hashed at once
EVERY = 8  # every eighth window enters the report's spectra
CODES_TOLD = 12  # of events, where none is wanted
CLASSES = 12  # averages of at most so many classes are kept for the report


@dataclass(frozen=True)
class Task:
    """What a child gets. Everything in it can be pickled."""

    source: Source
    settings: Settings
    parts: str  # folder of parts
    salt: str | None
    corpus: str = "unknown"  # what the windows say
    unit_scale: float | None = None
    strict: bool = False
    stimuli: str = ""  # folder in which the stimulus files of an event table must lie


def input_files(source: Source) -> list[Path]:
    """Every file that belongs to a recording: the whole folder of a folder format, the companions of a header."""
    path = Path(source.path)
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file())
    near = [path.with_suffix(s) for s in COMPANIONS.get(path.suffix.lower(), ())]
    return [path, *(p for p in near if p.is_file())]


def input_hash(source: Source) -> str:
    """SHA-256 over the hashes of a recording's files."""
    import hashlib

    digest = hashlib.sha256(source.member.encode())
    for path in input_files(source):
        digest.update(manifest.file_hash(path).encode())
    return digest.hexdigest()


def identity_of(source: Source, salt: str | None) -> Identity:
    """The pseudonyms of a source. The recording's comes from the file's own name, not from where it lies."""
    dataset, subject = source.dataset, source.subject
    name = f"{Path(source.path).name}!{source.member}"
    return Identity(
        subject=pseudonym(salt, dataset, "subject", subject),
        session=pseudonym(salt, dataset, "session", subject, source.session),
        recording=pseudonym(salt, dataset, "recording", subject, source.session, name),
    )


@dataclass
class Sketch:
    """What the report shows of a recording: a spectrum, and per class the mean window."""

    seen: int = 0
    samples: int = 0  # that are not padding
    power: Any = 0.0
    counted: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    sums: dict[str, np.ndarray] = field(default_factory=dict)
    averages: bool = False

    def add(self, window: records.Window) -> None:
        self.labels[window.label] = self.labels.get(window.label, 0) + 1
        if self.averages and (window.label in self.sums or len(self.sums) < CLASSES):
            self.sums[window.label] = self.sums.get(window.label, 0) + np.asarray(window.signal, np.float64)
        x_CxT = window.signal[:, window.valid]
        self.samples += x_CxT.shape[1]
        if self.seen % EVERY == 0 and x_CxT.shape[1] >= window.sfreq / 2:
            x_CxT = x_CxT[window.channel_ok] if window.channel_ok.any() else x_CxT
            hann = np.hanning(x_CxT.shape[1])
            p_CxF = np.square(np.abs(np.fft.rfft((x_CxT - x_CxT.mean(axis=1, keepdims=True)) * hann, axis=1)))
            p_CxF *= 2 / (window.sfreq * np.square(hann).sum())  # µV²/Hz
            f = np.fft.rfftfreq(len(hann), 1 / window.sfreq)
            self.power = self.power + np.interp(np.arange(FREQUENCIES) / 2, f, np.median(p_CxF, axis=0))
            self.counted += 1
        self.seen += 1

    def spectrum(self) -> list[float]:
        """µV²/Hz at 0, 0.5, … 80 Hz; median over channels, mean over windows."""
        return [float(f"{p:.4g}") for p in self.power / self.counted] if self.counted else []


def grouped(rejects: list[Any]) -> list[dict[str, Any]]:
    """Rejected stretches with neighbours of the same reason joined."""
    out: list[dict[str, Any]] = []
    for r in rejects:
        last = out[-1] if out else None
        if last and last["reason"] == r.reason and r.start <= last["stop"] + 1e-6:
            last["stop"], last["windows"] = round(r.stop, 4), last["windows"] + 1
        else:
            out.append({"start": round(r.start, 4), "stop": round(r.stop, 4), "windows": 1, "reason": r.reason})
    return out


def _beating(windows: Windows, beat: Callable[[], None]) -> Iterator[records.Window]:
    for window in windows:
        beat()
        yield window


def convert(task: Task, beat: Callable[[], None]) -> dict[str, Any]:
    """Make the part of one recording, unless it is there. Returns its summary.

    Raises UserError where the recording gives nothing.
    """
    from dreamjax.signals.recordings.opening import open_recording

    started, worked = time.monotonic(), time.process_time()
    content = input_hash(task.source)
    beat()
    key = pseudonym("part", content, json.dumps(_fingerprint(task), sort_keys=True))
    part = Path(task.parts) / key
    if (part / SUMMARY).exists():
        return {**json.loads((part / SUMMARY).read_text()), "part": key, "reused": True}
    recording = open_recording(task.source, unit_scale=task.unit_scale, strict=task.strict)
    if table := event_table(task):
        from dreamjax.signals.recordings.events import with_event_table

        recording = with_event_table(recording, table, stimuli=task.stimuli or None)
    summary = convert_recording(recording, task, part, beat)
    summary |= {"sha256": content, "wall_s": time.monotonic() - started, "cpu_s": time.process_time() - worked}
    with _writing(part):
        atomic.write_text(part / SUMMARY, json.dumps(summary))
    return {**summary, "part": key, "reused": False}


@contextmanager
def _writing(part: Path) -> Iterator[None]:
    """Problems of the output are not taken for those of the recording."""
    try:
        yield
    except OSError as problem:
        raise shards.CannotWrite.of(part, problem) from problem


def event_table(task: Task) -> str:
    """The table of events for this recording, or "". Raises UserError where it does not exist."""
    template = task.settings.events.source
    if template in ("", "file"):
        return ""
    path = Path(task.source.path)
    name = template.replace("{stem}", path.name.split(".")[0])
    for table in (Path(name), path.parent / name):
        if table.is_file():
            return str(table)
    raise UserError(f"{task.source.name}: its table of events {name!r} does not exist; check --events")


def list_events(source: Source, beat: Callable[[], None]) -> dict[str, Any]:
    """`events.list_events` of a recording, as a task for a child process."""
    from dreamjax.signals.recordings import events

    return events.list_events(source)


def convert_raw(task: Task, raw: Any) -> dict[str, Any]:
    """`convert` for a Raw that is already in memory or open. Its hash is that of names, rate and signal."""
    import hashlib

    from dreamjax.signals.recordings.opening import recording_from_raw

    started, worked = time.monotonic(), time.process_time()
    source = task.source
    recording = recording_from_raw(
        raw,
        name=source.path,
        dataset=source.dataset,
        subject=source.subject,
        session=source.session,
        licence=source.licence,
        unit_scale=task.unit_scale,
    )
    digest = hashlib.sha256(repr((recording.ch_names, recording.sfreq, recording.n_samples)).encode())
    for start in range(0, recording.n_samples, HASH_SAMPLES):
        digest.update(recording.read(start, min(start + HASH_SAMPLES, recording.n_samples)).tobytes())
    content = digest.hexdigest()
    key = pseudonym("part", content, json.dumps(_fingerprint(task), sort_keys=True))
    summary = convert_recording(recording, task, Path(task.parts) / key, lambda: None)
    times = {"wall_s": time.monotonic() - started, "cpu_s": time.process_time() - worked}
    return {**summary, **times, "sha256": content, "part": key, "reused": False}


def _fingerprint(task: Task) -> list[str]:
    """Whatever besides the input changes a part."""
    from dreamjax import __version__

    who = identity_of(task.source, task.salt)
    origin = [task.corpus, task.source.licence, who.subject, who.session, who.recording]
    table = event_table(task)
    events = manifest.file_hash(table) if table else ""
    return [
        __version__,
        str(records.FORMAT),
        repr(task.settings),
        repr(task.unit_scale),
        repr(task.strict),
        events,
        *origin,
    ]


def convert_recording(recording: Recording, task: Task, part: Path, beat: Callable[[], None]) -> dict[str, Any]:
    """Write the shard of a recording that is already open; returns its summary."""
    settings = task.settings
    recording = replace(recording, dataset=task.corpus)
    windows = Windows(recording, settings, identity_of(task.source, task.salt))
    sketch = Sketch(averages=bool(settings.events.source))
    written = 0
    with shards.ShardWriter(part / SHARD) as writer:
        for window in _beating(windows, beat):
            writer.write(records.encode(window))
            sketch.add(window)
            written += 1
    if not written:
        reasons = grouped(windows.rejects)
        raise UserError(reasons[0]["reason"] if reasons else _nothing(recording, settings))
    if sketch.sums:
        with _writing(part):
            np.savez(part / "averages.npz", *sketch.sums.values())
    plan = windows.plan
    return {
        "dataset": recording.dataset,
        "licence": recording.licence,
        "format": recording.format,
        "sfreq": recording.sfreq,
        "seconds": sum(b - a for a, b in recording.segments) / recording.sfreq,
        "windows": written,
        "judged": windows.judged,
        "valid_samples": sketch.samples,
        "ch_names": list(windows.ch_names),
        "reference_recorded": recording.reference,
        "plan": plan.described(),
        "sd_uv": [float(f"{s:.4g}") for s in plan.sd_uv],
        "warning": plan.warning,
        "notes": list(recording.notes),
        "faults": windows.faults,
        "rejects": grouped(windows.rejects),
        "labels": sketch.labels,
        "averaged": list(sketch.sums),
        "spectrum": sketch.spectrum(),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _nothing(recording: Recording, settings: Settings) -> str:
    if settings.events.source:
        counts = Counter(event.code for event in recording.events)
        if not counts:
            return "it has no events; give a table of them with --events"
        there = ", ".join(f"{code!r} ({n})" for code, n in counts.most_common(CODES_TOLD))
        more = f" and {len(counts) - CODES_TOLD} other codes" if len(counts) > CODES_TOLD else ""
        return f"no event of the codes {', '.join(map(repr, settings.events.codes))}: it has {there}{more}"
    return f"its longest stretch is shorter than {settings.min_fraction:g} of a window"
