"""Published trials as the input of `prepare`: one record a trial, read one at a time, in chunks of one split.

prepare(["eeg_5_95_std.pth"], "runs/trials", TrialSettings(), PrepareOptions(splits=SplitRequest(by="image")))
"""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.signals.datasets import records
from dreamjax.signals.preparation import inputs, stimulus_files
from dreamjax.signals.preparation.convert_trials import TrialReader, TrialSettings, TrialTask, identity_of
from dreamjax.signals.preparation.inputs import JSON, Done, Failed, ReportLayout
from dreamjax.signals.preparation.prepare_options import PrepareOptions
from dreamjax.signals.preparation.recording_plan import THIN, robust_scale
from dreamjax.signals.recordings.corpora.eeg_imagenet import PublishedTrials
from dreamjax.signals.recordings.corpora.trial_corpora import UNUSED, AssignedSplits, TrialCorpus
from dreamjax.signals.recordings.identity import SPLITS
from dreamjax.storage import manifest

SCALED_BY = 120  # trials of a person from which its robust scale comes, evenly spaced
CHUNK = 1000  # trials of a part


def open_trials(
    paths: Sequence[epath.PathLike], corpus: TrialCorpus, settings: TrialSettings, options: PrepareOptions
) -> "TrialInputs":
    """Open a published file and assign its trials to splits.

    Raises UserError for files that are not what they should be, and for splits that cannot be.
    """
    path = os.fspath(next(p for p in paths if corpus.handles(os.fspath(p))))
    if len(paths) > 1:
        raise UserError(f"{path} is a whole data set of its own; prepare it alone, into a folder of its own")
    trials = corpus.open(path)
    assigned = corpus.assign(trials, options.splits)
    source_files = {"trials": manifest.file_hash(path)}
    if options.splits.file:
        source_files["splits"] = manifest.file_hash(options.splits.file)
    reader = TrialReader(corpus, trials, settings)
    return TrialInputs(path, corpus, reader, assigned, settings, options, source_files, {})


@dataclass(frozen=True)
class TrialInputs:
    """Implements `inputs.Inputs`."""

    path: str
    corpus: TrialCorpus
    reader: TrialReader
    assigned: AssignedSplits
    settings: TrialSettings
    options: PrepareOptions
    source_files: Mapping[str, str]  # what → SHA-256
    rejects_by_trial: dict[int, str]  # trial → why it is left out although a split has it

    converter = "dreamjax.signals.preparation.convert_trials:convert"
    grows = False

    # ----------------------------------------------------------------------------------- before converting
    @property
    def trials(self) -> PublishedTrials:
        return self.reader.trials

    @property
    def licence(self) -> str:
        return self.options.licence or self.corpus.facts.licence

    @property
    def paths(self) -> Sequence[str]:
        return [self.path, *filter(None, (self.options.splits.file, self.options.stimuli))]

    def settings_hash(self) -> str:
        settings, splits = repr(self.settings), repr(replace(self.options.splits, file=""))
        return inputs.digest([
            settings.replace("TrialSettings(", "Settings(", 1),  # these two names, so that older folders are recognised
            splits.replace("SplitRequest(", "Wanted(", 1),
            bool(self.options.stimuli),
            self.options.strict,
            self.source_files,
            records.FORMAT,
            inputs.salt_hash(self.options.salt),
            self.licence,
        ])  # fmt: skip

    def is_complete(self, dataset: Mapping[str, Any], out: object) -> bool:
        return True  # the digest of the settings holds the hashes of the files

    def tasks(self, parts: Path, name: str) -> Sequence[TrialTask]:
        self.rejects_by_trial.update(self._unusable())
        self._drop(self.rejects_by_trial)
        scales = self._scales()
        chunks = [
            (split, trials[first : first + CHUNK])
            for split in SPLITS
            for trials in [np.flatnonzero(self.assigned.split == split).tolist()]
            for first in range(0, len(trials), CHUNK)
        ]
        return [
            TrialTask(
                self.path,
                self.source_files["trials"],
                self.settings,
                tuple(chunk),
                split,
                scales,
                self.options.salt,
                self.licence,
                str(parts),
            )
            for split, chunk in chunks
        ]

    def _unusable(self) -> dict[int, str]:
        """Trial → why it is left out: its length, or its image, where there is a folder of images."""
        trials, options = self.trials, self.options
        used = np.flatnonzero(self.assigned.split != UNUSED).tolist()
        low, high = self.corpus.lengths
        reasons = {i: f"not {low} to {high} samples long" for i in used if not low <= trials.length[i] <= high}
        if not options.stimuli:
            log.warning(
                "the images are not checked; name their folder with --stimuli to leave out damaged ones' trials"
            )
            return reasons
        shown = {i: trials.stimulus(i) for i in used}
        bad = stimulus_files.unusable(options.stimuli, sorted(set(shown.values())))
        if bad:
            some = "; ".join(f"{name} {why}" for name, why in list(bad.items())[:3])
            more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
            if options.strict:
                raise UserError(f"{options.stimuli}: {some}{more}; mend them, or leave out --strict to go without them")
            log.warning("%s: %s%s; their trials are left out", options.stimuli, some, more)
        return reasons | {i: f"the image {name} {bad[name]}" for i, name in shown.items() if name in bad}

    def _drop(self, rejects: Mapping[int, str]) -> None:
        """Take trials out of their splits. Raises UserError where that leaves a split empty."""
        self.assigned.split[list(rejects)] = UNUSED
        if empty := [name for name in SPLITS if not (self.assigned.split == name).any()]:
            why = f"; {len(rejects)} were left out, such as one {next(iter(rejects.values()))}" if rejects else ""
            raise UserError(f"{self.path}: no trial is in split {empty[0]}{why}; choose other people or shares")

    def _scales(self) -> dict[int, float]:
        """Person → median over channels of 1.4826 · MAD, in the unit of the file: what `Window.scale` is."""
        scales = {}
        for person in self.trials.subjects:
            used = np.flatnonzero((self.trials.subject == person) & (self.assigned.split != UNUSED))
            if len(used):
                chosen = used[np.unique(np.linspace(0, len(used) - 1, SCALED_BY).round().astype(int))]
                thin = [signal[:, valid][:, ::THIN] for signal, valid in map(self.reader, chosen.tolist())]
                scales[person] = robust_scale(np.concatenate(thin, axis=1), np.nanmedian)
        return scales

    # ------------------------------------------------------------------------------------ after converting
    def check(self, done: Done, failed: Failed) -> None:
        if failed:
            raise UserError(f"{self.path}: {failed[0].reason}; run the same again")
        self.rejects_by_trial.update({r["trial"]: r["reason"] for part in done for r in part.summary["rejects"]})
        self._drop(self.rejects_by_trial)

    def splits(self, done: Done) -> Sequence[str]:
        return [part.task.split for part in done]

    def describe(self, done: Done, failed: Failed, splits: Sequence[str]) -> JSON:
        trials, corpus, split = self.trials, self.corpus, self.assigned.split
        used = split != UNUSED
        entries = self._entries(done)
        hours = round(sum(entry["hours"] for entry in entries), 4)
        people = len(np.unique(trials.subject[used]))
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
            "subjects": {s: len(np.unique(trials.subject[split == s])) for s in SPLITS},
            "corpora": {
                corpus.facts.name: {
                    "licences": [self.licence],
                    "recordings": people,
                    "hours": hours,
                    "subjects": people,
                    "channels": [len(trials.ch_names)],
                }
            },
            "unit": corpus.unit,
            "values": trials.values,
            "design": {**corpus.facts.design, "impossible": dict(corpus.facts.impossible)},
            "settings": {
                "low": None,
                "high": self.settings.high if self.settings.reading == "ours" else None,
                "notch": "off",
                "sfreq": self.reader.rate,
                "reference": "recorded",
                "causal": False,
                "samples": self.reader.width,
                **self._reading(),
            },
            "splitting": self.assigned.description | {"dropped": dict(self.assigned.dropped)},
            "rejected": dict(Counter(reasons)),
            "labels": sorted({trials.labels[i] for i in trials.label[used]}),
            "channels": list(trials.ch_names),
            "source_files": dict(self.source_files),
            "inputs": entries,
        }

    def _reading(self) -> JSON:
        reading: JSON = {"reading": self.settings.reading, "lengths": list(self.corpus.lengths)}
        if self.settings.reading == "dreamdiffusion" and self.corpus.span and self.corpus.stretched:
            rate = self.corpus.sfreq * (self.corpus.stretched - 1) / (self.reader.width - 1)
            span, stretched = list(self.corpus.span), self.corpus.stretched
            reading |= {"span": span, "stretched_to": stretched, "effective_sfreq": round(rate, 2)}
        return reading

    def _entries(self, done: Done) -> list[JSON]:
        """One entry a person and split. Its hash is of the file and the person: persons of one file differ in it."""
        trials, corpus, scales = self.trials, self.corpus, done[0].task.scales
        entries = []
        for person in trials.subjects:
            who = identity_of(corpus, self.options.salt, person)
            content = hashlib.sha256(f"{self.source_files['trials']} {who.subject}".encode()).hexdigest()
            for split in SPLITS:
                chosen = (trials.subject == person) & (self.assigned.split == split)
                if not chosen.any():
                    continue
                seconds = np.minimum(trials.length[chosen] / corpus.sfreq, self.reader.width / self.reader.rate).sum()
                entries.append({
                    "recording": who.recording,
                    "subject": who.subject,
                    "split": split,
                    "sha256": content,
                    "dataset": corpus.facts.name,
                    "format": corpus.format,
                    "sfreq": corpus.sfreq,
                    "windows": int(chosen.sum()),
                    "warning": "",
                    "notes": [],
                    "plan": {
                        "band": list(trials.band or (None, None)),
                        "line": None,
                        "reference": corpus.facts.reference or "unknown",
                        "scale": scales[person],
                    },
                    "hours": round(float(seconds) / 3600, 5),
                    "channels": len(trials.ch_names),
                })  # fmt: skip
        return entries

    def rejects(self, done: Done, failed: Failed) -> Sequence[JSON]:
        return [{"trial": trial, "whole": True, "reason": why} for trial, why in sorted(self.rejects_by_trial.items())]

    def key(self) -> Sequence[JSON]:
        people = {person: identity_of(self.corpus, self.options.salt, person) for person in self.trials.subjects}
        return [
            {"recording": who.recording, "subject_id": who.subject, "path": self.path, "subject": str(person)}
            for person, who in people.items()
        ]

    def report_layout(self, done: Done, splits: Sequence[str]) -> ReportLayout:
        steps = [
            ("reading", ", ".join(f"{name} {value}" for name, value in self._reading().items())),
            ("sampling rate", f"{self.reader.rate:g} Hz"),
            ("windows", f"{self.reader.width} samples = {self.reader.width / self.reader.rate:g} s, one a trial"),
            ("unit", self.corpus.unit),
        ]
        return ReportLayout(
            names=[f"trials {part.task.trials[0]}-{part.task.trials[-1]}" for part in done],
            splits=splits,
            split_note=f"Split by {self.assigned.description['by']}.",
            steps=steps,
            unit="unit of the file",
            plausible=None,
            sfreq=self.reader.rate,
            first=0,
            length=self.reader.width,
        )

    def result(self, dataset: Mapping[str, Any], done: Done, failed: Failed) -> JSON:
        return {
            "trials": dataset["totals"]["windows"],
            "people": dataset["subjects"],
            "splitting": dataset["splitting"],
            "rejected": dataset["rejected"],
            "unit": dataset["unit"],
            "impossible": dataset["design"]["impossible"],
        }
