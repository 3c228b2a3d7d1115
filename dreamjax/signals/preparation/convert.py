"""Convert one recording to one part, in a child process of `prepare`."""

import functools
import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dreamjax.errors import UserError
from dreamjax.signals.datasets.records import Window
from dreamjax.signals.preparation import copies, parts
from dreamjax.signals.preparation.inputs import PrepareOptions
from dreamjax.signals.preparation.parts import PartSummary, RejectEntry
from dreamjax.signals.preparation.recording_plan import rounded
from dreamjax.signals.preparation.window_settings import WindowSettings
from dreamjax.signals.preparation.windows import RecordingWindows, RejectedStretch
from dreamjax.signals.recordings import events, identity
from dreamjax.signals.recordings.electrodes import position_file
from dreamjax.signals.recordings.identity import Identity
from dreamjax.signals.recordings.opening import open_recording, recording_from_raw
from dreamjax.signals.recordings.readers import companions
from dreamjax.signals.recordings.readers.bids import FACTS, bids_root, sidecars
from dreamjax.signals.recordings.readers.recording import Recording, Source
from dreamjax.storage import manifest

if TYPE_CHECKING:
    import mne

COMPANIONS = {
    ".vhdr": (".eeg", ".dat", ".vmrk"),
    ".ahdr": (".eeg", ".dat", ".amrk"),
    ".set": (".fdt",),
    ".eeg": (".21e", ".21E", ".pnt", ".PNT", ".log", ".LOG"),
    **dict.fromkeys((".npy", ".mat", ".csv", ".tsv", ".txt"), (".json",)),
}
BIDS_SIDECARS = ("_channels.tsv", "_electrodes.tsv", "_coordsystem.json", "_events.tsv", *FACTS)
UNKNOWN = "unknown"  # corpus of recordings that belong to no known one
EMPTY = hashlib.sha256().hexdigest()  # the hash of an empty file
HASH_SAMPLES = 1 << 16  # of every channel, hashed at once
LISTED_CODES = 12  # of events, where none is wanted


@dataclass(frozen=True)
class RecordingTask:
    """The task of a child process. Everything in it can be pickled."""

    source: Source
    settings: WindowSettings
    parts: str  # folder of parts
    options: PrepareOptions
    name: str = UNKNOWN  # of the dataset

    @property
    def corpus(self) -> str:
        """Return the corpus that the windows name."""
        corpus = published_corpus(self.source)
        return self.name if corpus == UNKNOWN else corpus

    @property
    def identity(self) -> Identity:
        return identity_of(self.source, self.options.salt)


def published_corpus(source: Source) -> str:
    return source.corpus or source.dataset


def input_files(source: Source, named: bool = True) -> list[Path]:
    """Return every file of a recording: all files of a folder format, the companions of a header.

    Without `named`: not those that only the content names.
    """
    path = Path(source.path)
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file())
    if not path.is_file():
        raise UserError(f"{path}: not a regular file; remove it from the input")
    plain = path.with_name(path.name.removesuffix(".gz"))
    near = [plain.with_suffix(s) for s in COMPANIONS.get(plain.suffix.lower(), ())]
    if strange := [p for p in near if p.exists() and not p.is_file()]:  # opening one may wait for ever
        raise UserError(f"{strange[0]}: not a regular file; restore or remove it")
    near = [path, *(p for p in near if p.is_file())]
    return [*near, *(p for p in (companions.named_in(source) if named else ()) if p not in near)]


def input_hash(source: Source, limit_s: float = math.inf, named: bool = True) -> str:
    """Return the SHA-256 over the hashes of a recording's `input_files`. Raise TimeoutError where that takes longer."""
    digest, until = hashlib.sha256(source.member.encode(errors="surrogateescape")), time.monotonic() + limit_s
    for path in input_files(source, named):
        empty = path.stat().st_size == 0  # as files of /proc are, whose reading may wait for ever
        digest.update((EMPTY if empty else manifest.file_hash(path, until)).encode())
    return digest.hexdigest()


def tables_hash(source: Source, table: str) -> str:
    """Return a hash of the tables that complete a recording: the user's, those of BIDS, positions; "" without any.

    It is separate from `input_hash`, which names the recording whatever is known about it.
    """
    path, of_bids = Path(source.path), list[Path]()
    if not source.member and bids_root(path):
        of_bids = [sidecar for suffix in BIDS_SIDECARS for sidecar in sidecars(path, suffix)]
    positions = None if source.member else position_file(path)
    files = [*of_bids, *([positions] if positions else []), *([Path(table)] if table else [])]
    return hashlib.sha256("".join(map(manifest.file_hash, files)).encode()).hexdigest() if files else ""


def identity_of(source: Source, salt: str | None) -> Identity:
    """Return the pseudonyms of a source.

    The recording's is made from the file's own name, and from its folders only where the subject has that name twice.
    """
    name = "/".join(filter(None, (source.place, f"{Path(source.path).name}!{source.member}")))
    return identity.identity(salt, source.population or source.dataset, source.subject, source.session, name)


def _unit_scale(task: RecordingTask) -> float | None:
    scales = task.options.unit_scales
    return scales.get(task.source.dataset, scales.get(""))


def convert(task: RecordingTask, beat: Callable[[], None]) -> PartSummary:
    """Make the part of one recording, unless it is there. Return its summary.

    Raise UserError where the recording gives nothing.
    """
    started = parts.clocks()
    content = input_hash(task.source, task.options.timeout_s)
    beat()

    def build(part: Path) -> PartSummary:
        options = task.options
        recording = open_recording(
            task.source,
            unit_scale=_unit_scale(task),
            strict=options.strict,
            electrodes=options.electrodes,
            modality=options.modality,
        )
        if table := event_table(task):
            recording = events.with_event_table(recording, table, stimuli=task.options.stimuli or None)
        return convert_recording(recording, task, part, beat)

    return parts.make(task.parts, content, fingerprint_of(task), started, build)


def event_table(task: RecordingTask) -> str:
    """Return the table of events for this recording, or "". Raise UserError where it does not exist."""
    template = task.settings.events.source
    if template in ("", "file"):
        return ""
    path = Path(task.source.path)
    name = template.replace("{stem}", path.name.split(".")[0])
    for table in (Path(name), path.parent / name):
        if table.is_file():
            return str(table)
    raise UserError(f"{task.source.name}: its table of events {name!r} does not exist; check --events")


def convert_raw(raw: "mne.io.BaseRaw", task: RecordingTask, beat: Callable[[], None]) -> PartSummary:
    """Convert a Raw that is already in memory or open. Its hash is that of names, rate and signal."""
    started, source = parts.clocks(), task.source
    about = {name: getattr(source, name) for name in ("dataset", "subject", "session", "licence")}
    electrodes = task.options.electrodes
    recording = recording_from_raw(
        raw,
        name=source.path,
        **about,
        unit_scale=_unit_scale(task),
        modality=task.options.modality,
        change=electrodes.apply,
    )
    digest = hashlib.sha256(repr((recording.ch_names, recording.sfreq, recording.n_samples)).encode())
    for start in range(0, recording.n_samples, HASH_SAMPLES):
        digest.update(recording.read(start, min(start + HASH_SAMPLES, recording.n_samples)).tobytes())
    build = functools.partial(convert_recording, recording, task, beat=beat)
    return parts.make(task.parts, digest.hexdigest(), fingerprint_of(task), started, build)


def fingerprint_of(task: RecordingTask) -> list[str]:
    """Return everything other than the input that changes a part."""
    tables, who = tables_hash(task.source, event_table(task)), task.identity
    return [
        json.dumps(task.settings.as_json(), sort_keys=True),
        repr(_unit_scale(task)),
        repr(task.options.strict),
        tables,
        *task.options.electrodes.fingerprint(),
        *([] if task.options.modality == "auto" else [task.options.modality]),
        *(task.corpus, task.source.licence, who.subject, who.session, who.recording),
    ]


def convert_recording(
    recording: Recording,
    task: RecordingTask,
    part: Path,
    beat: Callable[[], None],
    split_of: Callable[[Window], str] | None = None,
) -> PartSummary:
    """Write the shard of a recording that is already open; return its summary. `split_of`: `parts.write_windows`."""
    settings = task.settings
    recording, declared = replace(recording, dataset=task.corpus), settings.events.codes
    if settings.events.source in ("", "file"):
        recording = events.with_labels(recording, declared, settings.events.keep_labels)
    texts = {event.code for event in recording.free_text} if settings.events.keep_labels else set()
    windows, sketch = RecordingWindows(recording, settings, task.identity), copies.Sketch()
    averages = bool(settings.events.source) and split_of is None
    counts = parts.write_windows(part, sketch.watched(windows), beat, averages=averages, split_of=split_of)
    if not counts["windows"]:
        rejects = grouped(windows.rejects)
        raise UserError(rejects[0]["reason"] if rejects else _why_empty(recording, settings))
    plan = windows.plan
    return {
        "dataset": recording.dataset,
        "licence": recording.licence,
        "format": recording.format,
        "sfreq": recording.sfreq,
        "seconds": sum(b - a for a, b in recording.segments) / recording.sfreq,
        "judged": windows.judged,
        "ch_names": list(windows.ch_names),
        "reference_recorded": recording.reference,
        "modality": recording.modality,
        "unit": recording.unit,
        "compensation": recording.compensation,
        "plan": plan.as_json(),
        "sd_uv": [rounded(s) for s in plan.sd],
        "tables": tables_hash(task.source, event_table(task)),
        "warning": plan.warning,
        "notes": [*recording.notes, *plan.notes],
        "faults": windows.faults,
        "rejects": grouped(windows.rejects),
        "free_labels": sorted(texts & set(counts["labels"]) - set(declared)),
        "sketch": sketch.as_json(),
        **counts,
    }


def grouped(rejects: Sequence[RejectedStretch]) -> list[RejectEntry]:
    """Return the rejected stretches with neighbours of the same reason joined."""
    entries: list[RejectEntry] = []
    for r in rejects:
        last = entries[-1] if entries else None
        if last and last["reason"] == r.reason and r.start <= last["stop"] + 1e-6:
            last["stop"], last["windows"] = round(r.stop, 4), last["windows"] + 1
        else:
            entries.append({"start": round(r.start, 4), "stop": round(r.stop, 4), "windows": 1, "reason": r.reason})
    return entries


def _why_empty(recording: Recording, settings: WindowSettings) -> str:
    if settings.events.source:
        counts = Counter(event.code for event in recording.events)
        if not counts:
            hint = (
                "; its annotations are free text: name the ones to use in --event-codes, or keep all with --keep-labels"
            )
            return "it has no events" + (hint if recording.free_text else "; give a table of them with --events")
        present = ", ".join(f"{code!r} ({n})" for code, n in counts.most_common(LISTED_CODES))
        more = f" and {len(counts) - LISTED_CODES} other codes" if len(counts) > LISTED_CODES else ""
        return f"no event of the codes {', '.join(map(repr, settings.events.codes))}: it has {present}{more}"
    return f"its longest stretch is shorter than {settings.min_fraction:g} of a window"
