"""Recordings as the input of `prepare`: one part each, split by subject."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dreamjax.console import counted, log
from dreamjax.errors import UserError
from dreamjax.signals.datasets import records
from dreamjax.signals.preparation import convert, copies, inputs, parts, quality, quality_report
from dreamjax.signals.preparation.inputs import ConvertedPart, Done, Failed, PrepareOptions, ReportLayout
from dreamjax.signals.preparation.window_settings import WindowSettings
from dreamjax.signals.preparation.workers import Outcome
from dreamjax.signals.recordings.corpora.recording_corpora import corpus_of
from dreamjax.signals.recordings.electrodes import positions_in
from dreamjax.signals.recordings.identity import SPLITS, UNKNOWN, assign_splits
from dreamjax.signals.recordings.opening import find_sources
from dreamjax.signals.recordings.readers.bids import bids_root
from dreamjax.signals.recordings.readers.recording import Source
from dreamjax.signals.recordings.scrub import scrubbed
from dreamjax.storage import manifest
from dreamjax.typing import JsonDict

UNIT = "µV"  # of datasets that state none
COMPANIONS_HASHED = 2  # rules from which on an input's hash covers the files that it names
ACCESSION = re.compile(r"(ds|on|nm)\d{6}")  # OpenNeuro, its anonymised deposits, NEMAR
INFERRED = {"folder": "names of folders", "file name": "names of files", "header": "codes in headers"}
OF_DATASET = (
    "sha256",
    "tables",
    "dataset",
    "format",
    "sfreq",
    "windows",
    "warning",
    "notes",
    "plan",
    "modality",
    "unit",
    "compensation",
)  # summary → dataset.json


def find_recordings(
    paths: Sequence[str | os.PathLike[str] | Source], settings: WindowSettings, options: PrepareOptions
) -> "RecordingInputs":
    """Return every recording under `paths`, which may also be sources that `find_sources` returned.

    Raise UserError where there is none, or where one table of events is given for several.
    """
    if options.electrodes.montage:
        positions_in(options.electrodes.montage)  # before any recording is read
    searched = [str(p) for p in paths if not isinstance(p, Source)]
    sources = [p for p in paths if isinstance(p, Source)]
    if searched:
        matches = find_sources(
            searched, dataset=options.dataset, licence=options.licence, subject_pattern=options.subject_pattern
        )
        sources += [_impersonal(source, options) for source in matches]
    table = settings.events.source
    if table not in ("", "file") and "{stem}" not in table and len(sources) > 1:
        raise UserError(
            f"{table} holds the events of one recording, but {len(sources)} were found; name one, or put {{stem}} "
            "into --events where the recordings' names differ"
        )
    return RecordingInputs(sources, settings, options, tuple(searched))


def _impersonal(source: Source, options: PrepareOptions) -> Source:
    """Return the source without a corpus that was only guessed from a folder's name, which may name a person.

    Its windows carry the name of the dataset that is being written; pseudonyms and splits are those of `UNKNOWN`, so
    they do not depend on where the output goes. The folder of a BIDS root still tells persons of two roots apart, but
    it is published only where it is an accession number (ds000117).
    """
    if options.dataset or corpus_of(source.name.replace("!", "/")):
        return source
    if bids_root(Path(source.path)):
        return source if ACCESSION.fullmatch(source.dataset) else replace(source, corpus=convert.UNKNOWN)
    return replace(source, dataset=convert.UNKNOWN)


@dataclass(frozen=True)
class RecordingInputs:
    """The input of `prepare`: recordings, one part each."""

    sources: Sequence[Source]
    settings: WindowSettings
    options: PrepareOptions
    searched: tuple[str, ...] = ()  # paths that the user gave

    converter = staticmethod(convert.convert)
    grows = True  # more may be added to a finished dataset

    @property
    def paths(self) -> Sequence[str]:
        """Return the files and folders that --overwrite must not delete."""
        return [*self.searched, *(source.path for source in self.sources)]

    def settings_hash(self) -> str:
        """Return a digest of what decides whether two runs write the same records from the same input."""
        options = self.options
        return inputs.digest([
            self.settings.as_json(),
            inputs.salt_hash(options.salt),
            sorted(options.splits.shares.items()),
            options.splits.seed,
            sorted(options.unit_scales.items()),
            options.strict,
            *([fingerprint] if (fingerprint := options.electrodes.fingerprint()) else []),  # as before this setting
            *([] if options.modality == "auto" else [options.modality]),
            records.FORMAT,
            self._event_table(),
        ])  # fmt: skip

    def _event_table(self) -> str:
        """Return the hash of the one table of events, or ""."""
        table = self.settings.events.source
        return manifest.file_hash(table) if table not in ("", "file") and Path(table).is_file() else ""

    def differences(self, dataset: JsonDict) -> str:
        """Return in what the settings differ from those of a dataset, in words."""
        scales = sorted(dataset["unit_scales"].values()), sorted(self.options.unit_scales.values())
        shares = {"fractions": dict(self.options.splits.shares), "seed": self.options.splits.seed}
        before = dataset["settings"] | {name: dataset["splitting"][name] for name in shares} | {"unit_scale": scales[0]}
        now = self.settings.as_json() | shares
        different = inputs.differences(before, now | {"unit_scale": scales[1]})
        stated, given = dataset.get("choices", {}), self._choices()
        different += [f"another {option}" for option, value in given.items() if stated.get(option, value) != value]
        if not different:
            different = [f"another {' or '.join(['--salt', *(option for option in given if option not in stated)])}"]
        return ", ".join(different)

    def _choices(self) -> JsonDict:
        """Return the options that are not repeated in dataset.json, by hashes: they may name a person."""
        electrodes = self.options.electrodes
        return {
            "--strict": self.options.strict,
            "--channels": inputs.digest(electrodes.channels),
            "--modality": self.options.modality,
            "--montage": inputs.digest(electrodes.fingerprint()[-1:] if electrodes.montage else []),
            "table of --events": self._event_table(),
        }

    def is_complete(self, dataset: JsonDict, out: object) -> bool:
        """Return whether the dataset in `out`, made with equal settings, holds all of these inputs.

        Raise UserError where it holds others.
        """
        held = {entry["sha256"]: entry.get("tables") for entry in dataset["inputs"]}  # older datasets have no tables
        people = {entry["sha256"]: entry.get("subject") for entry in dataset["inputs"]}
        given: dict[str, set[str]] = {}  # of equal recordings only one is kept
        named: dict[str, set[str | None]] = {}
        failed, complete = set(dataset["failed_inputs"]), True
        rules = dataset.get("rules", 1)
        for task in self.tasks(Path(), ""):
            content = self._input_hash(task.source)
            if content not in held and rules < COMPANIONS_HASHED:
                content = self._input_hash(task.source, named=False)
            given.setdefault(content, set()).add(_tables_hash(task))
            named.setdefault(content, {None}).add(convert.identity_of(task.source, self.options.salt).subject)
            complete &= content in held or content in failed or self._failed_input(task) in failed
        if lost := held.keys() - given.keys():
            raise UserError(
                f"{out} was prepared from other recordings ({len(lost)} of them are not given now); "
                "choose another --out or pass --overwrite"
            )
        changed = [content for content, tables in held.items() if tables is not None and tables not in given[content]]
        changed += [content for content, subject in people.items() if subject not in named[content]]
        return complete and not changed and {entry.partition(" ")[0] for entry in failed} <= given.keys()

    def _failed_input(self, task: convert.RecordingTask) -> str:
        """Return what must change before a recording that was left out is tried again: its content or its tables."""
        return f"{self._input_hash(task.source)} {_tables_hash(task)}".rstrip()

    def _input_hash(self, source: Source, named: bool = True) -> str:
        """Return `convert.input_hash`, or "" for input that cannot be read, or not within the timeout."""
        try:
            return convert.input_hash(source, self.options.timeout_s, named)
        except (OSError, UserError):
            return ""

    def tasks(self, parts: Path, name: str) -> Sequence[convert.RecordingTask]:
        """Return the tasks of the converter; `name` is the dataset's."""
        return [convert.RecordingTask(source, self.settings, str(parts), self.options, name) for source in self.sources]

    def check(self, done: Done, failed: Failed) -> None:
        """Raise UserError where what was converted makes no dataset."""
        if not done:
            for entry in _failures(failed):
                log.warning("left out: %(path)s: %(reason)s", entry)
            raise UserError(f"no recording could be converted, of {len(failed)} given; see the reasons above")

    def once(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Return the outcomes where only one of several recordings with equal content is converted.

        It is the first whose subject is known, else the first.
        """
        made = sorted((o for o in outcomes if not o.reason), key=lambda o: (o.task.source.subject == UNKNOWN, o.index))
        again = {made[i].index for i in copies.repeated([o.result["sha256"] for o in made])}
        reason = "the same content (SHA-256) as another recording, which is kept"
        return [replace(o, reason=reason) if o.index in again else o for o in outcomes]

    def splits(self, done: Done, failed: Failed) -> Sequence[str]:
        """Return the split of each part. People of whom copies of one recording exist are in one split."""
        fractions, seed = self.options.splits.shares, self.options.splits.seed
        together = [(copy.source.person, copy.of.task.source.person) for copy in self.copies(done, failed)]
        people = [part.task.source.person for part in done]
        of_person = assign_splits(people + [one for one, _ in together], fractions, seed, together)
        return [of_person[person] for person in people]

    def copies(self, done: Done, failed: Failed) -> list["Copy"]:
        """Return what is given twice: left out where the content is equal, and kept where only the signal is."""
        kept = {part.summary["sha256"]: part for part in done}
        equal = [
            Copy(part.task.source, kept[part.result["sha256"]], "the same content, left out")
            for part in failed
            if part.result is not None
        ]
        pairs = copies.alike([part.summary.get("sketch", ()) for part in done])
        return equal + [Copy(done[j].task.source, done[i], "the same signal, kept in the same split") for i, j in pairs]

    def describe(self, done: Done, failed: Failed, splits: Sequence[str]) -> JsonDict:
        """Return dataset.json but for the shards."""
        summaries, options = [part.summary for part in done], self.options
        known = [(part, of) for part, of in zip(done, splits, strict=True) if _known(part)]
        subjects = {s: len({part.task.source.person for part, of in known if of == s}) for s in SPLITS}
        unknown = {s: splits.count(s) - sum(of == s for _, of in known) for s in SPLITS}
        entries = []
        for part, split in zip(done, splits, strict=True):
            who, r = part.task.identity, part.summary
            entry: JsonDict = {"recording": who.recording, "subject": who.subject, "split": split}
            entry["subject_from"] = part.task.source.subject_from
            entry |= {key: value for key, value in r.items() if key in OF_DATASET}
            entries.append(entry | {"hours": round(r["seconds"] / 3600, 5), "channels": len(r["ch_names"])})
        by = " and ".join(["subject"] * bool(known) + ["recording"] * (len(known) < len(done)))
        published = {part.task.source.dataset: convert.published_corpus(part.task.source) for part in done}
        return {
            "totals": {
                "recordings": len(done),
                "recordings_left_out": len(failed),
                "hours_read": round(sum(r["seconds"] for r in summaries) / 3600, 4),
                "hours": round(sum(r["valid_samples"] for r in summaries) / self.settings.sfreq / 3600, 4),
                "windows": sum(r["windows"] for r in summaries),
                "windows_rejected": sum(entry["windows"] for r in summaries for entry in r["rejects"]),
                "subjects": sum(subjects.values()),
                "recordings_of_unknown_subjects": sum(unknown.values()),
            },
            "subjects": subjects,
            "recordings_of_unknown_subjects": unknown,
            "copies": [
                {"recording": who.recording, "subject": who.subject, "of": copy.of.task.identity.recording}
                | {"how": copy.how}
                for copy in self.copies(done, failed)
                for who in [convert.identity_of(copy.source, options.salt)]
            ],
            "corpora": {
                name: _corpus([part for part in done if part.summary["dataset"] == name])
                for name in sorted({r["dataset"] for r in summaries})
            },
            "modalities": dict(sorted(Counter(r.get("modality", "eeg") for r in summaries).items())),
            **(
                {"unit": " or ".join(units)}
                if (units := sorted({r.get("unit", UNIT) for r in summaries})) != [UNIT]
                else {}
            ),
            "settings": self.settings.as_json(),
            "choices": self._choices(),
            "rules": parts.RULES,
            "splitting": {"fractions": dict(options.splits.shares), "seed": options.splits.seed, "by": by},
            "unit_scales": {  # users name a corpus by its folder; one that may name a person is not repeated
                published.get(name, convert.UNKNOWN if name else ""): factor
                for name, factor in options.unit_scales.items()
            },
            "labels": sorted({label for r in summaries for label in r["labels"]} - {""}),
            "channels": sorted({c for r in summaries for c in r["ch_names"]}),
            "inputs": entries,
            "failed_inputs": sorted(self._failed_input(part.task) for part in failed if not part.for_now),
        }

    def _limits(self, done: Done) -> list[quality.QualityLimits]:
        """Return the limits of the modalities of the parts, first that of which there are most; else those of EEG."""
        settings = self.settings
        modalities = Counter(part.summary.get("modality", "eeg") for part in done)
        chosen = [name for name, _ in modalities.most_common()] or ["eeg"]
        return [quality.limits_for(name, settings.limits, settings.meg_limits) for name in chosen]

    def rejects(self, done: Done, failed: Failed) -> Sequence[JsonDict]:
        """Return the lines of rejects.jsonl. A recording is named by its id: file names may name a person."""

        def named(part: ConvertedPart | Outcome) -> JsonDict:
            source, recording = part.task.source, part.task.identity.recording
            return {"recording": recording, "dataset": convert.published_corpus(source), "reader": source.reader}

        whole = [named(part) | {"whole": True, "reason": scrubbed(part.reason, part.task.source)} for part in failed]
        return whole + [named(part) | {"whole": False} | entry for part in done for entry in part.summary["rejects"]]

    def key(self) -> Sequence[JsonDict]:
        """Return the lines of the key of the pseudonyms."""
        return [
            {"recording": who.recording, "subject_id": who.subject, "path": source.name, "subject": source.subject}
            for source in self.sources
            for who in [convert.identity_of(source, self.options.salt)]
        ]

    def report_layout(self, done: Done, splits: Sequence[str]) -> ReportLayout:
        """Return how the quality report shows the parts."""
        settings = self.settings
        limits = self._limits(done)[0]
        return ReportLayout(
            names=[part.task.identity.recording for part in done],
            splits=splits,
            split_note=split_note([part.task.source for part in done]),
            steps=quality_report.steps(settings, [part.summary["plan"] for part in done]),
            unit=" or ".join(one.unit for one in self._limits(done)),
            plausible=limits.plausible,
            sfreq=settings.sfreq,
            first=settings.event_first,
            length=settings.event_samples,
        )

    def result(self, dataset: JsonDict, done: Done, failed: Failed) -> JsonDict:
        """Return what the command reports of recordings alone."""
        implausible = [part.task.source.name for part in done if part.summary["warning"]]
        notes = [{"path": part.task.source.name, "note": note} for part in done for note in part.summary["notes"]]
        given_twice = [
            {"path": copy.source.name, "of": copy.of.task.source.name, "how": copy.how}
            for copy in self.copies(done, failed)
        ]
        limits = {name: value for one in reversed(self._limits(done)) for name, value in vars(one).items()}
        return {
            "implausible": implausible,
            "failed": _failures(failed),
            "copies": given_twice,
            "notes": notes,
            "limits": limits,
        }


@dataclass(frozen=True)
class Copy:
    """A recording that holds what another one holds."""

    source: Source
    of: ConvertedPart
    how: str


def split_note(sources: Sequence[Source]) -> str:
    """Return what the splits keep apart, and how the subjects are known."""
    unknown = sum(source.subject == UNKNOWN for source in sources)
    ways = {what: sum(source.subject_from == way for source in sources) for way, what in INFERRED.items()}
    inferred = ", ".join(f"{what} ({counted(n, 'recording')})" for what, n in ways.items() if n)
    return " ".join([
        *(["No subject is in two splits."] if not unknown else []),
        *(["No known subject is in two splits."] if 0 < unknown < len(sources) else []),
        *([f"{counted(unknown, 'recording')} of unknown subjects: split by recording, so they may share people."]
          if unknown else []),
        *([f"Subjects were taken from {inferred}."] if inferred else []),
    ])  # fmt: skip


def _known(part: ConvertedPart) -> bool:
    return part.task.source.subject != UNKNOWN


def _corpus(members: Done) -> JsonDict:
    return {
        "licences": sorted({part.summary["licence"] for part in members}),
        "recordings": len(members),
        "hours": round(sum(part.summary["seconds"] / 3600 for part in members), 4),
        "subjects": len({part.task.source.person for part in members if _known(part)}),
        **({"recordings_of_unknown_subjects": n} if (n := sum(not _known(part) for part in members)) else {}),
        "channels": sorted({len(part.summary["ch_names"]) for part in members}),
    }


def _tables_hash(task: convert.RecordingTask) -> str:
    """Return `convert.tables_hash`, or "" for tables that cannot be read."""
    try:
        return convert.tables_hash(task.source, convert.event_table(task))
    except (OSError, UserError):
        return ""


def _failures(failed: Failed) -> list[JsonDict]:
    """Return path and reason, for the user only."""
    return [{"path": part.task.source.name, "reason": _without_path(part.reason, part.task.source)} for part in failed]


def reason_without_path(outcome: Outcome) -> str:
    """Return why a source could not be opened; the reason does not repeat its path."""
    return _without_path(outcome.reason, outcome.task)


def _without_path(reason: str, source: Source) -> str:
    return reason.removeprefix(f"{source.name}: ").removeprefix(f"{source.path}: ")
