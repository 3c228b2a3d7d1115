"""Prepare a dataset folder from recordings or published trials: children convert; the parent splits, merges, reports.

Children write one part per task into `.NAME.parts` next to the output, from which an interrupted run continues. See
`dataset_folder` for how the output folder is replaced, and `recording_inputs` and `trial_inputs` for the inputs.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dreamjax.console import log, progress
from dreamjax.errors import UserError
from dreamjax.interruption import interruptible
from dreamjax.parallel import environment
from dreamjax.signals.datasets import records
from dreamjax.signals.preparation import (
    convert,
    dataset_folder,
    incremental,
    inputs,
    parts,
    quality_report,
    things_meg_inputs,
    workers,
)
from dreamjax.signals.preparation.convert_trials import TrialSettings
from dreamjax.signals.preparation.inputs import ConvertedPart, Done, Failed, PrepareOptions
from dreamjax.signals.preparation.recording_inputs import RecordingInputs, find_recordings, reason_without_path
from dreamjax.signals.preparation.trial_inputs import TrialInputs
from dreamjax.signals.preparation.window_settings import WindowSettings
from dreamjax.signals.recordings import events
from dreamjax.signals.recordings.corpora.trial_corpora import refuse_parent, trial_corpus_of
from dreamjax.signals.recordings.identity import SPLITS, UNKNOWN, SplitRequest
from dreamjax.signals.recordings.opening import find_sources, open_recording
from dreamjax.signals.recordings.readers import subjects
from dreamjax.signals.recordings.readers.recording import Source
from dreamjax.storage import atomic, replacing
from dreamjax.typing import JsonDict

if TYPE_CHECKING:
    import mne

__all__ = ["PrepareOptions", "PreparedDataset", "SplitRequest", "TrialSettings", "WindowSettings", "list_events",
           "prepare", "prepare_raws"]  # fmt: skip
Inputs = RecordingInputs | TrialInputs  # what is converted part by part, and how it is described


@dataclass(frozen=True, kw_only=True)
class PreparedDataset:
    """The summary of a dataset. None: does not apply to recordings, to published trials, or to an existing dataset."""

    out: str
    already_prepared: bool
    recordings: int
    recordings_left_out: int | None = None
    hours_read: float | None = None
    trials_in_file: int | None = None
    hours: float  # in windows
    windows: int
    windows_rejected: int
    subjects: int  # known subjects
    recordings_of_unknown_subjects: int | None = None
    splits: Mapping[str, int]  # windows
    failed: Sequence[Mapping[str, str]] = ()  # path and reason
    notes: Sequence[Mapping[str, str]] | None = None  # path and what its reader left out or had to assume
    copies: Sequence[Mapping[str, str]] | None = None  # path, of (path), how: recordings that were given twice
    implausible: Sequence[str] | None = None  # paths of recordings of implausible amplitude that were kept
    limits: Mapping[str, float | str] | None = None  # of quality control
    trials: int | None = None
    people: Mapping[str, int] | None = None  # by split
    splitting: JsonDict | None = None
    rejected: Mapping[str, int] | None = None  # reason → trials
    unit: str | None = None
    onset: str | None = None  # where onsets of images are from: "trigger" or "events"
    mismatched_trials: Mapping[str, int] | None = None  # of triggers or table, without a partner in the other
    impossible: Mapping[str, str] | None = None  # controls that the experiment rules out, with the reasons
    reused: int | None = None  # parts of an interrupted run, or of the dataset that grew
    wall_s: float | None = None
    speed: Mapping[str, float | None] | None = None

    def as_json(self) -> JsonDict:
        """Return what `dreamjax prepare --json` prints."""
        return {name: value for name, value in vars(self).items() if value is not None}


def prepare(
    paths: Sequence[str | os.PathLike[str] | Source],
    out: str | os.PathLike[str],
    settings: WindowSettings | TrialSettings | None = None,
    options: PrepareOptions | None = None,
) -> PreparedDataset:
    """Convert every recording under `paths`, or one file of published trials, into the dataset folder `out`.

    Args:
      paths: files, folders, BIDS roots, or sources from `recordings.find_sources`; or one file of published trials.
      out: a folder that does not exist yet, or that this function made with the same settings. Recordings that it
        does not hold yet are added to it; those that it holds must be given too.
      settings: `TrialSettings` for published trials, else `WindowSettings`; None: the defaults.

    Raises:
      UserError: nothing could be converted, or `out` holds something else.
      TryAgain: on SIGTERM and Control-C, and where another process writes to `out`; finished parts are kept.
    """
    options, started = options or PrepareOptions(), time.monotonic()
    dataset_folder.refuse_key_inside(options.key_file, out)
    kind = TrialSettings if trial_corpus_of(paths) else WindowSettings
    if kind is WindowSettings:
        refuse_parent(paths)
    tree = things_meg_inputs.tree_in(paths, settings)
    if settings is None:
        settings = things_meg_inputs.settings() if tree else kind()
    if not isinstance(settings, kind):
        raise UserError(f"{paths[0]}: expected {kind.__name__} for this input, got {type(settings).__name__}")
    chosen: Inputs
    if isinstance(settings, TrialSettings):
        chosen = TrialInputs([os.fspath(p) for p in paths if not isinstance(p, Source)], settings, options)
    elif tree:
        chosen = things_meg_inputs.find_runs(tree, settings, options)
    else:
        chosen = find_recordings(paths, settings, options)
    run = _Preparation(chosen, out, options, started)
    replacing.recover(run.final)
    if (before := run.existing()) is not None and not options.overwrite:
        with interruptible("recordings were being compared with the dataset"):
            complete = chosen.is_complete(before, out)
        if complete:
            return run.unchanged(before)
    with dataset_folder.parts_folder(run.final, run.local) as folder, interruptible("recordings were being converted"):
        before = run.existing()  # the process that held the lock until now may have written it
        adding = before is not None and not options.overwrite
        if before is not None and adding and chosen.is_complete(before, out):
            return run.unchanged(before)
        with incremental.grown(run.final, folder) if adding else nullcontext():
            return run.commit(folder, run.converted(chosen.tasks(folder, run.name)))


def _list_events(source: Source, beat: Callable[[], None]) -> JsonDict:
    return events.list_events(open_recording(source))


def list_events(paths: Sequence[str], timeout_s: float = 300.0, memory_gib: float = 4.0) -> JsonDict:
    """Return the events of every recording under `paths` (`events.list_events`), each opened in a child process.

    Raise UserError where none of them can be opened.
    """
    memory = int(memory_gib * workers.GIB)
    ended = workers.run(_list_events, find_sources(paths), workers=1, timeout_s=timeout_s, memory=memory)
    outcomes = sorted(ended, key=lambda outcome: outcome.index)
    failed = {o.index: {"file": o.task.name, "reason": reason_without_path(o)} for o in outcomes if o.reason}
    if len(failed) == len(outcomes):
        reasons = "; ".join(f"{entry['file']}: {entry['reason']}" for entry in failed.values())
        raise UserError(f"no recording could be opened, of {len(outcomes)} given: {reasons}")
    return {"recordings": [failed.get(o.index, o.result) for o in outcomes]}


def prepare_raws(
    raws: "Iterable[mne.io.BaseRaw]",
    out: str | os.PathLike[str],
    settings: WindowSettings | None = None,
    options: PrepareOptions | None = None,
    *,
    subject_of: "Callable[[mne.io.BaseRaw], str] | None" = None,
) -> PreparedDataset:
    """Prepare any iterable of `mne.io.Raw`, one at a time in this process: data that only your own code can load.

    Args:
      raws: taken one by one, so a generator needs memory for one.
      subject_of: the subject's id, from which the pseudonym and the split come. Default: the `his_id` of the Raw's
        `subject_info`. The subject of a Raw without one is unknown: it may be in several splits.

    Raises:
      UserError: nothing could be converted, or `out` exists.
    """
    options, started = options or PrepareOptions(), time.monotonic()
    dataset_folder.refuse_key_inside(options.key_file, out)
    sources: list[Source] = []
    recordings = RecordingInputs(sources, settings or WindowSettings(), options)
    run = _Preparation(recordings, out, options, started)
    if run.final.exists() and any(run.final.iterdir()) and not options.overwrite:
        raise UserError(f"{run.final} exists; choose another folder or pass overwrite=True")
    with dataset_folder.parts_folder(run.final, run.local) as folder:
        outcomes: list[workers.Outcome] = []
        for i, raw in enumerate(raws):
            info = raw.info.get("subject_info") or {}
            subject = subject_of(raw) if subject_of else subjects.stated(str(info.get("his_id") or ""))
            corpus, licence = options.dataset or convert.UNKNOWN, options.licence or "unknown"
            named_by = ("caller" if subject_of else "header") if subject else ""
            about = {"subject": subject or UNKNOWN, "subject_from": named_by}
            sources.append(Source(f"raw {i}", "raw", corpus, session=str(i), licence=licence, **about))
            task = convert.RecordingTask(sources[i], recordings.settings, str(folder), options, run.name)
            outcomes.append(workers.attempt(partial(convert.convert_raw, raw), i, task, lambda: None))
        return run.commit(folder, outcomes)


class _Preparation:
    """One call of `prepare`: of what, to where, since when."""

    def __init__(self, chosen: Inputs, out: str | os.PathLike[str], options: PrepareOptions, started: float):
        self.inputs, self.options, self.started = chosen, options, started
        self.out = out
        self.name = dataset_folder.dataset_name(out, options.name)
        self.final, self.local = dataset_folder.places_of(out)
        self.workers = options.workers if options.workers is not None else environment.cores()

    def existing(self) -> JsonDict | None:
        """Return the dataset.json of the output, or None where there is none.

        Raise UserError for an output that must not be replaced, or was made from other files or with other settings.
        """
        dataset = dataset_folder.existing(self.final, self.inputs.paths if self.options.overwrite else None)
        if dataset is None or self.options.overwrite or dataset.get("settings_hash") == self.inputs.settings_hash():
            return dataset
        earlier = f" (an earlier version wrote it: {parts.CHANGED})" if self._is_earlier(dataset) else ""
        try:
            differences = self.inputs.differences(dataset)
        except (KeyError, TypeError, AttributeError):
            raise UserError(
                f"{self.out} is a dataset of another kind; choose another --out or pass --overwrite"
            ) from None
        raise UserError(
            f"{self.out} was prepared with other settings: {differences}{earlier}; pass the earlier settings, choose "
            "another --out or pass --overwrite"
        )

    def unchanged(self, dataset: JsonDict) -> PreparedDataset:
        """Return what the command reports of a dataset that is there already."""
        if self._is_earlier(dataset):
            log.warning(
                "%s: an earlier version wrote it, and its windows stay as they are: %s; --overwrite prepares it again",
                self.out,
                parts.CHANGED,
            )
        return self.result(dataset, [], [])

    def _is_earlier(self, dataset: JsonDict) -> bool:
        return self.inputs.grows and dataset.get("rules", 1) < parts.RULES

    def converted(self, tasks: Sequence[object]) -> Iterator[workers.Outcome]:
        """Yield the outcomes of all tasks as they end, with progress."""
        left_out, quiet = 0, not self.options.verbose
        outcomes = workers.run(
            self.inputs.converter,
            tasks,
            workers=self.workers,
            timeout_s=self.options.timeout_s,
            memory=int(self.options.memory_gib * workers.GIB),
            quiet=quiet,
        )
        with progress("prepare", len(tasks)) as bar:
            for outcome in outcomes:
                left_out += bool(outcome.reason)
                bar.advance(1, note=f"{left_out} left out" if left_out else "")
                yield outcome

    def commit(self, folder: Path, outcomes: Iterable[workers.Outcome]) -> PreparedDataset:
        """Merge the converted parts, write the other files, rename the folder, and delete the parts."""
        ended = self.inputs.once(sorted(outcomes, key=lambda outcome: outcome.index))
        converting = time.monotonic() - self.started
        done = [ConvertedPart(outcome.task, outcome.result) for outcome in ended if not outcome.reason]
        failed = [outcome for outcome in ended if outcome.reason]
        self.inputs.check(done, failed)
        if texts := sorted({text for part in done for text in part.summary.get("free_labels", [])}):
            log.warning(
                "free text of the recordings is stored as labels, as --keep-labels asks: %s; read it, and delete %s if "
                "a label names a person",
                ", ".join(map(repr, texts)),
                self.final,
            )
        with dataset_folder.replaced(self.final, self.local) as fresh:
            dataset = self._write(fresh, folder, done, failed)
        if self.options.key_file:
            atomic.write_text(self.options.key_file, dataset_folder.json_lines(self.inputs.key()), private=True)
        shutil.rmtree(folder, ignore_errors=True)
        return self.result(dataset, done, failed, self._speed(done, failed, converting))

    def _write(self, fresh: Path, parts_folder: Path, done: Done, failed: Failed) -> JsonDict:
        """Write everything that belongs into the dataset folder; return dataset.json."""
        summaries, splits = [part.summary for part in done], self.inputs.splits(done, failed)
        folders = [parts_folder / summary["part"] for summary in summaries]
        shards = {}
        for split in dict.fromkeys(
            (*SPLITS, *splits, *(name for s in summaries for name in s.get("split_windows", ())))
        ):
            members = zip(folders, summaries, splits, strict=True)
            files = [file for part, summary, of in members for file in parts.shards_of(part, summary, of, split)]
            if not files and split not in SPLITS:
                continue
            shards[split] = records.merge(files, fresh, self.name, split)
        described = self.inputs.describe(done, failed, splits) | inputs.environment(self.options.salt)
        described["settings_hash"] = self.inputs.settings_hash()
        if self.inputs.grows:
            incremental.keep(fresh, summaries)
        atomic.write_text(fresh / "rejects.jsonl", dataset_folder.json_lines(self.inputs.rejects(done, failed)))
        averages, layout = [part / parts.AVERAGES for part in folders], self.inputs.report_layout(done, splits)
        content = quality_report.ReportContent(described, summaries, averages, layout)
        quality_report.write(fresh, self.name, content)
        return records.finish(fresh, self.name, shards, described)

    def result(self, dataset: JsonDict, done: Done, failed: Failed, speed: JsonDict | None = None) -> PreparedDataset:
        """Return what the command reports; without `speed`, of what was there already."""
        of_inputs = self.inputs.result(dataset, done, failed) | (speed or {})
        totals, splits = dataset["totals"], dataset["splits"]
        return PreparedDataset(
            out=str(self.final), already_prepared=speed is None, splits=splits, **totals, **of_inputs
        )

    def _speed(self, done: Done, failed: Failed, converting: float) -> JsonDict:
        fresh = [part.summary for part in done if not part.summary["reused"]]
        cores = max(1, min(self.workers, len(done) + len(failed)))
        seconds, work = sum(r["seconds"] for r in fresh), sum(r["cpu_s"] for r in fresh)
        wall = round(time.monotonic() - self.started, 2)
        return {
            "reused": len(done) - len(fresh),
            "wall_s": wall,
            "speed": {
                "real_time_per_core": round(seconds / work, 1) if work else None,  # of processor time
                "real_time_per_core_with_start": round(seconds / (converting * cores), 1) if fresh else None,
                "hours_per_second_per_core": round(seconds / 3600 / work, 4) if work else None,
                "cores": cores,
                "converting_s": round(converting, 2),
                "wall_s": wall,
                "peak_memory_mb": round(max((r["peak_bytes"] for r in fresh), default=0) / 2**20),
            },
        }
