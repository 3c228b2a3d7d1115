"""Published trials as the input of `prepare`: one record a trial, read one at a time, in chunks of one split.

prepare(["eeg_5_95_std.pth"], "runs/trials", TrialSettings(), PrepareOptions(splits=SplitRequest(by="image")))
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
from etils import epath

from dreamjax.console import log, progress
from dreamjax.errors import UserError
from dreamjax.parallel import environment
from dreamjax.signals.datasets import records
from dreamjax.signals.preparation import inputs, workers
from dreamjax.signals.preparation.convert_trials import (
    TrialReader,
    TrialSettings,
    TrialTask,
    WhitenerTask,
    convert,
    fit_whitener,
    identity_of,
)
from dreamjax.signals.preparation.inputs import Done, Failed, PrepareOptions, ReportLayout
from dreamjax.signals.preparation.recording_plan import THIN, robust_scale
from dreamjax.signals.preparation.workers import Outcome
from dreamjax.signals.recordings.corpora.trial_corpora import UNUSED, trial_corpus_of
from dreamjax.signals.recordings.corpora.trial_set import ANY_LENGTH
from dreamjax.signals.recordings.identity import Identity
from dreamjax.storage import image_files, manifest, paths
from dreamjax.typing import JsonDict

SCALED_BY = 120  # trials of a person from which its robust scale comes, evenly spaced
COMPARED = (  # what users choose, of the settings and the description of the splits
    *("reading", "sfreq", "high", "samples", "channel_set", "tmin", "tmax", "baseline", "mvnn"),
    *("by", "number", "fractions", "fractions_of_images", "seed", "test", "val"),
)
CHUNK = 1000  # trials of a part
THREADS = 8  # Pillow decodes without Python's lock; an object store answers many at once


def unusable_images(folder: epath.PathLike, names: Sequence[str]) -> dict[str, str]:
    """Return name → "is missing" or "is damaged" for those of `names` (relative to `folder`) that cannot be read.

    Raise UserError where the folder is not there, or holds none of them.
    """
    root = paths.reachable(folder)
    if not root.is_dir():
        raise UserError(f"{folder}: no such folder; name the one with the images, such as ImageNet's train")
    within = {str(PurePosixPath(name).parent) for name in names}  # one listing each, not one question an image
    there = {
        str(PurePosixPath(part) / entry.name)
        for part in within
        if (root / part).is_dir()
        for entry in (root / part).iterdir()
    }
    present = [name for name in names if name in there]
    if names and not present:
        raise UserError(f"{folder} holds none of the {len(names)} images, such as {names[0]}; name another folder")
    image_files.pillow()  # raises UserError where it is not installed

    def damaged(name: str) -> bool:
        try:
            image_files.open_image(root / name)
        except UserError:
            return True
        return False

    with ThreadPoolExecutor(THREADS) as pool:
        bad = [name for name, is_bad in zip(present, pool.map(damaged, present), strict=True) if is_bad]
    return {name: "is missing" for name in names if name not in there} | dict.fromkeys(bad, "is damaged")


class TrialInputs:
    """The input of `prepare`: the trials of a file, one part per chunk. The methods are those of recordings."""

    converter = staticmethod(convert)
    grows = False

    def __init__(self, files: Sequence[str], settings: TrialSettings, options: PrepareOptions):
        """Open a published file and assign its trials to splits.

        Raise UserError for files that are not what they should be, and for splits that cannot be.
        """
        self.path = next(file for file in files if trial_corpus_of([file]))
        if len(files) > 1:
            raise UserError(f"{self.path} is a whole dataset; prepare it alone, into a separate folder")
        self.options, self.reader = options, TrialReader(self.path, settings, options.stimuli)
        self.settings, trials = self.reader.settings, self.reader.trials
        self.licence = options.licence or trials.facts.licence
        self.assigned = self.reader.corpus.assign(trials, options.splits)
        self.source_files = {"trials": inputs.files_hash(trials.files)}  # SHA-256
        if options.splits.file:
            self.source_files["splits"] = manifest.file_hash(options.splits.file)
        self.needed = {*trials.needed, *self.assigned.split} - {UNUSED}
        self.rejects_by_trial: dict[int, str] = {}  # trial → why it is left out although a split has it

    @property
    def paths(self) -> Sequence[str]:
        read = (self.options.splits.file, self.options.stimuli, self.reader.trials.image_folder)
        return [self.path, *filter(None, read)]

    def settings_hash(self) -> str:
        shares = dict(self.options.splits.fractions or self.reader.trials.shares)
        settings, splits = repr(self.settings), repr(replace(self.options.splits, file="", fractions=shares))
        return inputs.digest([
            settings.replace("TrialSettings(", "Settings(", 1),  # these two names, so that older folders are recognised
            splits.replace("SplitRequest(", "Wanted(", 1),
            bool(self.options.stimuli),
            self.options.strict,
            self.source_files,
            records.FORMAT,
            inputs.salt_hash(self.options.salt),
            self.licence,
            *self.settings.later(),
        ])  # fmt: skip

    def differences(self, dataset: JsonDict) -> str:
        """Return in what the settings and files differ from those of a dataset, in words."""
        stated = dataset["settings"] | dataset["splitting"]
        given = self._settings() | self.assigned.description
        names = [name for name in COMPARED if name in stated or name in given]
        different = inputs.differences(*({name: one.get(name) for name in names} for one in (stated, given)))
        files = {"trials": "another file of trials", "splits": "another --split-file"}
        different += [
            text for what, text in files.items() if dataset["source_files"].get(what) != self.source_files.get(what)
        ]
        return ", ".join(different or ["another --salt, --licence, --stimuli, --strict, --subject or --hold-out"])

    def is_complete(self, dataset: JsonDict, out: object) -> bool:
        return True  # the digest of the settings holds the hashes of the files

    def tasks(self, parts: Path, name: str) -> Sequence[TrialTask]:
        self._reject(self._unusable())
        whiteners = self._whiteners()
        task = TrialTask(
            path=self.path,
            file_hash=self.source_files["trials"],
            settings=self.settings,
            scales=self._scales(),
            salt=self.options.salt,
            licence=self.licence,
            images=self.options.stimuli,
            parts=str(parts),
        )
        return [
            replace(task, trials=chunk, split=split, whiteners=self._needed(chunk, whiteners))
            for split in self.reader.trials.split_names
            for trials in [np.flatnonzero(self.assigned.split == split).tolist()]
            for first in range(0, len(trials), CHUNK)
            for chunk in [tuple(trials[first : first + CHUNK])]
        ]

    def _whiteners(self) -> dict[int, np.ndarray]:
        """Return session → its whitener, each fitted in a child process; {} where nothing is whitened."""
        cut, options = self.reader.cut, self.options
        if cut is None or self.settings.epochs.mvnn == "off":
            return {}
        sessions = cut.sessions(np.flatnonzero(self.assigned.split != UNUSED).tolist())
        file_hash = self.source_files["trials"]
        tasks = [WhitenerTask(self.path, file_hash, self.settings, options.stimuli, session) for session in sessions]
        children = options.workers if options.workers is not None else environment.cores()
        memory, whiteners = int(options.memory_gib * workers.GIB), dict[int, np.ndarray]()
        ended = workers.run(fit_whitener, tasks, workers=children, timeout_s=options.timeout_s, memory=memory)
        with progress("whiten", len(tasks)) as bar:
            for outcome in ended:
                if outcome.reason:
                    raise UserError(f"{self.path}: {outcome.reason}; run the same again")
                whiteners[outcome.task.session] = outcome.result
                bar.advance(1)
        cut.whiteners = whiteners
        return whiteners

    def _needed(self, trials: Sequence[int], whiteners: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        cut = self.reader.cut
        return {session: whiteners[session] for session in cut.sessions(trials)} if cut and whiteners else {}

    def _unusable(self) -> dict[int, str]:
        """Return trial → why it is left out: its length, or its image if a folder of images is given."""
        trials, options = self.reader.trials, self.options
        used = np.flatnonzero(self.assigned.split != UNUSED).tolist()
        low, high = trials.lengths
        reasons = {i: f"not {low} to {high} samples long" for i in used if not low <= trials.length[i] <= high}
        reasons |= {i: "its recording does not hold it whole" for i in reasons if not trials.length[i]}
        folder = trials.image_folder or options.stimuli
        if folder.lower().endswith(".zip") and Path(folder).is_file():
            to = PurePosixPath(folder).stem
            unpack = f"python -m zipfile -e {folder} {to}"
            log.info("training reads the images from a folder: %s, then --config.target.folder=%s", unpack, to)
            return reasons
        if not folder:
            log.warning(
                "the images are not checked; name their folder with --stimuli to leave out damaged ones' trials"
            )
            return reasons
        shown = {i: trials.place(i) for i in used}
        bad = unusable_images(folder, sorted(set(shown.values())))
        if bad:
            some = "; ".join(f"{name} {why}" for name, why in list(bad.items())[:3])
            more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
            if options.strict:
                raise UserError(f"{folder}: {some}{more}; mend them, or leave out --strict to go without them")
            log.warning("%s: %s%s; their trials are left out", folder, some, more)
        return reasons | {i: f"the image {name} {bad[name]}" for i, name in shown.items() if name in bad}

    def _reject(self, reasons: Mapping[int, str]) -> None:
        """Take trials out of their splits. Raise UserError where that leaves a split empty."""
        rejects, split = self.rejects_by_trial, self.assigned.split
        rejects.update(reasons)
        split[list(rejects)] = UNUSED
        if empty := [
            name for name in self.reader.trials.split_names if name in self.needed and not (split == name).any()
        ]:
            why = f"; {len(rejects)} were left out, such as one {next(iter(rejects.values()))}" if rejects else ""
            raise UserError(f"{self.path}: no trial is in split {empty[0]}{why}; choose other people or shares")

    def _scales(self) -> dict[int, float]:
        """Return person → median over channels of 1.4826 · MAD, in the unit of the file, for `Window.scale`."""
        trials, scales = self.reader.trials, dict[int, float]()
        for person in trials.subjects:
            used = np.flatnonzero((trials.subject == person) & (self.assigned.split != UNUSED))
            if len(used):
                chosen = used[np.unique(np.linspace(0, len(used) - 1, SCALED_BY).round().astype(int))]
                thin = [signal[:, valid][:, ::THIN] for signal, valid in map(self.reader, chosen.tolist())]
                scales[person] = robust_scale(np.concatenate(thin, axis=1), np.nanmedian)
        return scales

    def check(self, done: Done, failed: Failed) -> None:
        if failed:
            raise UserError(f"{self.path}: {failed[0].reason}; run the same again")
        self._reject({r["trial"]: r["reason"] for part in done for r in part.summary["rejects"]})

    def once(self, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        """Return the outcomes as they are: trials of one file are not given twice."""
        return outcomes

    def splits(self, done: Done, failed: Failed) -> Sequence[str]:
        return [part.task.split for part in done]

    def describe(self, done: Done, failed: Failed, splits: Sequence[str]) -> JsonDict:
        trials, split = self.reader.trials, self.assigned.split
        facts = trials.facts
        used = split != UNUSED
        entries = self._entries(done[0].task.scales)
        people = len(np.unique(trials.subject[used]))
        hours = round(sum(entry["hours"] for entry in entries), 4)
        reasons = ("an image is missing or damaged" if "image" in r else r for r in self.rejects_by_trial.values())
        return {
            "totals": {
                "recordings": people,
                "trials_in_file": len(trials),
                "hours": hours,
                "windows": int(used.sum()),
                "windows_rejected": len(self.rejects_by_trial),
                "subjects": people,
            },
            "subjects": {s: len(np.unique(trials.subject[split == s])) for s in self.reader.trials.split_names},
            "corpora": {trials.corpus: {
                "licences": [self.licence], "recordings": people, "hours": hours, "subjects": people,
                "channels": [len(trials.ch_names)],
            }},
            "unit": trials.unit,
            "values": trials.values,
            "design": {**facts.design, **({"notes": list(trials.notes)} if trials.notes else {}),
                       "impossible": dict(facts.impossible)},
            "settings": self._settings(),
            "splitting": self.assigned.description | {"dropped": dict(self.assigned.dropped)},
            "rejected": dict(Counter(reasons)),
            "labels": sorted({trials.labels[i] for i in np.unique(trials.label[used])} - {""}),
            "channels": list(trials.ch_names),
            "source_files": dict(self.source_files),
            "inputs": entries,
        }  # fmt: skip

    def _settings(self) -> JsonDict:
        return {
            "low": None,
            "high": self.settings.high if self.settings.reading == "ours" else None,
            "notch": "off",
            "sfreq": self.reader.rate,
            "reference": "recorded",
            "causal": False,
            "samples": self.reader.width,
            "tmin": self.reader.trials.tmin,
            **self._epochs(),
            **self._reading(),
        }

    def _epochs(self) -> JsonDict:
        epochs, chosen = self.settings.epochs, self.settings.channel_set
        of_epochs = {"tmax": epochs.tmax, "baseline": list(epochs.span), "mvnn": epochs.mvnn} if self.reader.cut else {}
        return ({"channel_set": chosen} if chosen else {}) | of_epochs

    def _reading(self) -> JsonDict:
        trials = self.reader.trials
        reading: JsonDict = {"reading": self.settings.reading}
        if trials.lengths != ANY_LENGTH:
            reading["lengths"] = list(trials.lengths)
        if self.reader.span and trials.span and trials.stretched:
            rate = trials.sfreq * (trials.stretched - 1) / (self.reader.width - 1)
            reading |= {"span": list(trials.span), "stretched_to": trials.stretched, "effective_sfreq": round(rate, 2)}
        return reading

    def _entries(self, scales: Mapping[int, float]) -> list[JsonDict]:
        """Return an entry per person and split. Its hash is of the file and the person, as persons share a file."""
        reader, trials = self.reader, self.reader.trials
        entries = []
        for person in trials.subjects:
            who = self._identity(person)
            content = hashlib.sha256(f"{self.source_files['trials']} {who.subject}".encode()).hexdigest()
            for split in self.reader.trials.split_names:
                chosen = (trials.subject == person) & (self.assigned.split == split)
                if not chosen.any():
                    continue
                seconds = np.minimum(trials.length[chosen] / trials.sfreq, reader.width / reader.rate).sum()
                entries.append({
                    "recording": who.recording,
                    "subject": who.subject,
                    "split": split,
                    "sha256": content,
                    "dataset": trials.corpus,
                    "format": trials.format,
                    "sfreq": trials.sfreq,
                    "windows": int(chosen.sum()),
                    "warning": "",
                    "notes": [],
                    "plan": reader.plan() | {"scale": scales[person]},
                    "hours": round(float(seconds) / 3600, 5),
                    "channels": len(trials.ch_names),
                })  # fmt: skip
        return entries

    def _identity(self, person: int) -> Identity:
        """Return the pseudonyms of a person, with the recording of the first trial."""
        trials = self.reader.trials
        return identity_of(trials, self.options.salt, int(np.flatnonzero(trials.subject == person)[0]))

    def rejects(self, done: Done, failed: Failed) -> Sequence[JsonDict]:
        return [{"trial": trial, "whole": True, "reason": why} for trial, why in sorted(self.rejects_by_trial.items())]

    def key(self) -> Sequence[JsonDict]:
        return [
            {
                "recording": who.recording,
                "subject_id": who.subject,
                "path": self.path,
                "subject": self.reader.trials.subject_name(person),
            }
            for person in self.reader.trials.subjects
            for who in [self._identity(person)]
        ]

    def report_layout(self, done: Done, splits: Sequence[str]) -> ReportLayout:
        rate, width = self.reader.rate, self.reader.width
        return ReportLayout(
            names=[f"trials {part.task.trials[0]}-{part.task.trials[-1]}" for part in done],
            splits=splits,
            split_note=f"Split by {self.assigned.description['by']}.",
            steps=[
                ("reading", ", ".join(f"{name} {value}" for name, value in self._reading().items())),
                ("sampling rate", f"{rate:g} Hz"),
                ("windows", f"{width} samples = {width / rate:g} s, one a trial"),
                ("unit", self.reader.trials.unit),
            ],
            unit="unit of the file",
            plausible=None,
            sfreq=rate,
            first=round(self.reader.trials.tmin * rate),
            length=width,
        )

    def result(self, dataset: JsonDict, done: Done, failed: Failed) -> JsonDict:
        return {
            "trials": dataset["totals"]["windows"],
            "people": dataset["subjects"],
            **{name: dataset[name] for name in ("splitting", "rejected", "unit")},
            "impossible": dataset["design"]["impossible"],
        }
