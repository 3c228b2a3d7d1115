"""The BIDS tree of THINGS-MEG as the input of `prepare`: one part a run, its trials in the splits of their images.

prepare(["ds004212"], "runs/things_meg", things_meg_inputs.settings(), PrepareOptions())
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dreamjax.console import counted, log
from dreamjax.errors import UserError
from dreamjax.signals.preparation import convert, inputs, parts
from dreamjax.signals.preparation.inputs import Done, Failed, PrepareOptions
from dreamjax.signals.preparation.parts import PartSummary
from dreamjax.signals.preparation.quality import EegLimits
from dreamjax.signals.preparation.recording_inputs import RecordingInputs
from dreamjax.signals.preparation.window_settings import EventWindows, WindowSettings
from dreamjax.signals.preparation.workers import Outcome
from dreamjax.signals.recordings.corpora import things_meg
from dreamjax.signals.recordings.corpora.recording_corpora import THINGS_MEG
from dreamjax.signals.recordings.corpora.things_meg import SPLITS, Onset, Shown
from dreamjax.signals.recordings.events import events_of_table
from dreamjax.signals.recordings.opening import open_recording
from dreamjax.signals.recordings.readers.recording import Event, Recording, Source
from dreamjax.storage import manifest
from dreamjax.typing import JsonDict

SHOWN_S = 0.5  # s that an image was on the screen
SFREQ, TMIN, TMAX = 120.0, -0.5, 1.0  # Hz; s around an image's onset: the windows of Benchetrit et al. 2024


def settings(onset: Onset = "trigger", **chosen: Any) -> WindowSettings:
    """Return the settings for these trials: unless `chosen` says otherwise, those of Benchetrit et al. (2024).

    120 Hz, -0.5 to 1 s with both ends (181 samples), without filters, minus the mean before the image. `chosen`:
    fields of `WindowSettings`, and `tmin`, `tmax`, `baseline`, `offset_ms` of its events. Raise ValueError for values
    that cannot be.
    """
    sfreq = float(chosen.get("sfreq", SFREQ))
    around = {"tmin": TMIN, "tmax": TMAX} | {k: chosen.pop(k) for k in ("tmin", "tmax", "offset_ms") if k in chosen}
    tmin, tmax = float(around["tmin"]), float(around["tmax"])
    baseline = chosen.pop("baseline", (tmin, 0.0) if tmin < 0 else ())
    around["tmax"] = tmin + (round((tmax - tmin) * sfreq) + 1) / sfreq  # the sample at tmax belongs to the window
    samples = round((float(around["tmax"]) - tmin) * sfreq)
    events = EventWindows("file", baseline=tuple(baseline), onset=onset, **around)
    flag = EegLimits(implausible="flag")  # the unit is known, and without a high-pass slow drifts are large
    usual = {"limits": flag, "low": None, "high": None, "notch": "off", "sfreq": sfreq, "samples": samples}
    return WindowSettings(events=events, **(usual | chosen))


def tree_in(paths: Sequence[object], settings: object) -> str:
    """Return the BIDS tree of THINGS-MEG to prepare as such; "" for other input, or other settings of recordings.

    Raise UserError where settings of THINGS-MEG come with other input.
    """
    tree = (
        str(paths[0]) if len(paths) == 1 and not isinstance(paths[0], Source) and things_meg.is_tree(paths[0]) else ""
    )
    asked = isinstance(settings, WindowSettings) and bool(settings.events.onset)
    if asked and not tree:
        raise UserError(
            f"{', '.join(map(str, paths))}: not the folder of THINGS-MEG with sub-BIGMEG1, …; check the path"
        )
    return tree if asked or settings is None else ""


@dataclass(frozen=True)
class RunTask(convert.RecordingTask):
    """The task of a child process: a run, and what was shown in it."""

    shown: tuple[Shown, ...] = ()


def convert_run(task: RunTask, beat: Callable[[], None]) -> PartSummary:
    """Make the part of one run, unless it is there. Return its summary."""
    started = parts.clocks()
    table = _events_file(task) if task.settings.events.onset == "events" else None
    content = convert.input_hash(task.source, task.options.timeout_s)
    beat()

    def build(part: Path) -> PartSummary:
        recording = open_recording(task.source, strict=task.options.strict, modality="meg", triggers=True)
        if table:
            events, _ = events_of_table(table, recording.sfreq, recording.n_samples)
            recording = replace(recording, events=tuple(events))
        recording, lost = with_images(recording, task.shown)
        split = {image.stimulus: image.split for image in task.shown}
        summary = convert.convert_recording(recording, task, part, beat, split_of=lambda window: split[window.stimulus])
        return {**summary, "mismatched": lost}

    fingerprint = [*convert.fingerprint_of(task), inputs.digest([repr(task.shown)])]
    fingerprint += [manifest.file_hash(table)] if table else []
    return parts.make(task.parts, content, fingerprint, started, build)


def _events_file(task: RunTask) -> Path:
    """Return the events.tsv of a run. Raise UserError where it is missing: a trigger would be another onset."""
    path = Path(task.source.path)
    table = path.with_name(path.name.removesuffix(path.suffix).removesuffix("_meg") + "_events.tsv")
    if not table.is_file():
        raise UserError(f"{table}: the table of events of the run is missing; fetch it, or use --onset trigger")
    return table


def with_images(recording: Recording, shown: Sequence[Shown]) -> tuple[Recording, int]:
    """Return the recording with an event for each image that was shown, and how many trials had no partner.

    Catch trials are left out. Raise UserError where the onsets do not fit the table.
    """
    marked = [event for event in recording.events if event.code in things_meg.TRIGGERS]
    onsets = marked or list(recording.events)
    if not onsets:
        raise UserError(f"{recording.path}: no image has an onset: neither a trigger 64 on UPPT001 nor a row of events")
    seconds = np.array([event.sample for event in onsets]) / recording.sfreq
    pairs, lost = things_meg.paired(seconds, shown, recording.path)
    events = tuple(
        Event(onsets[i].sample, SHOWN_S, shown[j].label, shown[j].stimulus) for i, j in pairs if shown[j].split
    )
    notes = [f"{counted(lost, 'trial')} of triggers or table without a partner left out"] if lost else []
    return replace(recording, events=events, free_text=(), notes=(*recording.notes, *notes)), lost


def find_runs(root: str, settings: WindowSettings, options: PrepareOptions) -> "ThingsMegRuns":
    """Return the runs of all people that are there, or of `options.splits.subjects`.

    Raise UserError that names what is missing of them.
    """
    folder = Path(root)
    people = things_meg.people_in(folder, options.splits.subjects)
    tables = {person: things_meg.table_file(folder, person) for person in people}
    runs = things_meg.read_runs(tables)
    sources, shown = [], []
    for person in people:
        of_person = [key[1:] for key in runs if key[0] == person]
        for (session, run), path in things_meg.run_files(folder, person, of_person).items():
            reader = "ctf" if path.suffix == ".ds" else "fif"
            sources.append(
                Source(str(path), reader, THINGS_MEG.name, str(person), f"{session:02d}",
                       options.licence or THINGS_MEG.licence, subject_from="corpus")
            )  # fmt: skip
            shown.append(runs[person, session, run])
    return ThingsMegRuns(sources, settings, options, (root,), shown, list(tables.values()), things_meg.repeats(runs))


@dataclass(frozen=True)
class ThingsMegRuns(RecordingInputs):
    """The input of `prepare`: the runs of THINGS-MEG, one part each, whose trials are in the splits of their images."""

    shown: Sequence[tuple[Shown, ...]] = ()  # of each source
    tables: Sequence[Path] = ()
    repeats: Mapping[int, int] = field(default_factory=dict)  # times that a test image was shown → images

    converter = staticmethod(convert_run)  # type: ignore[assignment]
    grows = False

    @property
    def paths(self) -> Sequence[str]:
        return [*super().paths, *map(str, self.tables)]

    def settings_hash(self) -> str:
        """Return a digest of the settings and the tables."""
        return inputs.digest([super().settings_hash(), *(manifest.file_hash(table) for table in self.tables)])

    def is_complete(self, dataset: JsonDict, out: object) -> bool:
        """Return True. Raise UserError where the dataset was made from other runs."""
        if not super().is_complete(dataset, out):
            raise UserError(f"{out} was prepared from fewer runs; choose another --out or pass --overwrite")
        return True

    def tasks(self, parts: Path, name: str) -> Sequence[RunTask]:
        tasks = zip(self.sources, self.shown, strict=True)
        return [RunTask(source, self.settings, str(parts), self.options, name, shown) for source, shown in tasks]

    def check(self, done: Done, failed: Failed) -> None:
        """Raise UserError where a run cannot be read: part of the data set would go unnoticed."""
        if failed:
            raise UserError(f"{len(failed)} of {len(self.sources)} runs cannot be read: {failed[0].reason}")
        lost = sum(part.summary["mismatched"] for part in done)
        log.info("onsets of images from %s; %d trials of triggers or table without a partner, of at most %d a run",
                 {"trigger": "the trigger channel", "events": "events.tsv"}[self.settings.events.onset], lost,
                 things_meg.MISMATCHES)  # fmt: skip

    def once(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        return list(outcomes)

    def splits(self, done: Done, failed: Failed) -> Sequence[str]:
        """Return what the report names: trials of a run are in several splits."""
        return ["several"] * len(done)

    def copies(self, done: Done, failed: Failed) -> list:
        return []

    def describe(self, done: Done, failed: Failed, splits: Sequence[str]) -> JsonDict:
        """Return dataset.json but for the shards, with an entry under `inputs` for each run and split."""
        described = super().describe(done, failed, splits)
        held = [(part, entry, split) for part, entry in zip(done, described["inputs"], strict=True)
                for split in SPLITS if part.summary["split_windows"].get(split)]  # fmt: skip
        seconds = self.settings.event_samples / self.settings.sfreq
        images: dict[str, set[str]] = {split: set() for split in SPLITS}
        for shown in self.shown:
            for image in shown:
                images.setdefault(image.split, set()).add(image.stimulus)
        people = {split: {part.task.source.person for part, _, of in held if of == split} for split in SPLITS}
        lost = Counter({part.task.identity.recording: part.summary["mismatched"] for part in done})
        everybody = {part.task.source.person for part in done}
        return described | {
            "totals": described["totals"] | {"subjects": len(everybody)},
            "subjects": {split: len(members) for split, members in people.items()},
            "recordings_of_unknown_subjects": {},
            "inputs": [
                entry | {"split": split, "windows": n, "hours": round(n * seconds / 3600, 5)}
                for part, entry, split in held
                for n in [part.summary["split_windows"][split]]
            ],
            "splitting": things_meg.description(images, self.settings.events.onset)
            | {"fractions": {}, "seed": 0, "test_image_showings": {str(k): n for k, n in self.repeats.items()}},
            "mismatched_trials": {"total": lost.total(), "most_in_a_run": max(lost.values(), default=0),
                                  "allowed_in_a_run": things_meg.MISMATCHES},
            "design": {"onset": self.settings.events.onset, "impossible": dict(THINGS_MEG.impossible)},
        }  # fmt: skip

    def result(self, dataset: JsonDict, done: Done, failed: Failed) -> JsonDict:
        mismatched = {"onset": self.settings.events.onset, "mismatched_trials": dataset["mismatched_trials"]}
        return super().result(dataset, done, failed) | mismatched

    def differences(self, dataset: JsonDict) -> str:
        """Return in what the settings differ from those of a dataset, in words."""
        before = dict(dataset["settings"])
        different = inputs.differences(before, json.loads(json.dumps(self.settings.as_json())))
        return ", ".join(different or ["another --salt, --subject, --strict, or tables with other rows"])

    def report_layout(self, done: Done, splits: Sequence[str]) -> inputs.ReportLayout:
        layout = super().report_layout(done, splits)
        return replace(layout, split_note="Split by the published test images and their concepts.")
