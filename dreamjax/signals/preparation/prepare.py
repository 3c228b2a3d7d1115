"""Recordings or published trials → a dataset folder: children convert, the parent splits, merges, reports, commits.

Children write one part per task into `.NAME.parts` beside the output; an interrupted run finds them again. How the
output folder gets to its place: `dataset_folder`. What is converted, and how it is described: `inputs`.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from etils import epath

from dreamjax.console import progress
from dreamjax.errors import UserError
from dreamjax.signals.datasets import records
from dreamjax.signals.preparation import (
    convert,
    dataset_folder,
    incremental,
    inputs,
    parts,
    quality_report,
    recording_inputs,
    trial_inputs,
    workers,
)
from dreamjax.signals.preparation.convert_trials import TrialSettings
from dreamjax.signals.preparation.inputs import JSON, ConvertedPart, Done, Failed, FailedPart, Inputs
from dreamjax.signals.preparation.prepare_options import PrepareOptions
from dreamjax.signals.preparation.recording_inputs import RecordingInputs
from dreamjax.signals.preparation.window_settings import WindowSettings
from dreamjax.signals.recordings.corpora.trial_corpora import trial_corpus_of
from dreamjax.signals.recordings.identity import SPLITS, SplitRequest
from dreamjax.signals.recordings.opening import find_sources
from dreamjax.signals.recordings.readers.recording import Source
from dreamjax.storage import atomic

if TYPE_CHECKING:
    import mne

__all__ = [
    "PrepareOptions",
    "SplitRequest",
    "TrialSettings",
    "WindowSettings",
    "list_events",
    "prepare",
    "prepare_raws",
]


def prepare(
    paths: Sequence[str | os.PathLike[str] | Source],
    out: str | os.PathLike[str],
    settings: WindowSettings | TrialSettings | None = None,
    options: PrepareOptions | None = None,
) -> JSON:
    """Convert every recording under `paths`, or one file of published trials, into the dataset folder `out`.

    Args:
      paths: files, folders, BIDS roots, or sources from `recordings.find_sources`; or one file of published trials.
      out: a folder that does not exist yet, or that this function made with the same settings. Recordings that it
        does not hold yet are added to it; those that it holds must be given too.
      settings: `TrialSettings` for published trials, else `WindowSettings`; the defaults where there are none.

    Returns:
      What the command reports: totals, records by split, speed and what was left out.

    Raises:
      UserError: nothing could be converted, or `out` holds something else.
    """
    options, started = options or PrepareOptions(), time.monotonic()
    dataset_folder.refuse_key_inside(options.key_file, out)
    corpus = trial_corpus_of(paths)
    kind = TrialSettings if corpus else WindowSettings
    settings = kind() if settings is None else settings
    if not isinstance(settings, kind):
        raise UserError(f"{paths[0]}: expected {kind.__name__} for this input, got {type(settings).__name__}")
    chosen: Inputs
    if corpus and isinstance(settings, TrialSettings):
        chosen = trial_inputs.open_trials([p for p in paths if not isinstance(p, Source)], corpus, settings, options)
    else:
        assert isinstance(settings, WindowSettings)
        chosen = recording_inputs.find_recordings(paths, settings, options)
    preparation = _Preparation.start(chosen, out, options, started)
    if options.overwrite:
        dataset_folder.refuse_to_replace(preparation.final, chosen.paths)
    adding = False
    if not options.overwrite and (dataset := dataset_folder.finished_dataset(preparation.final)):
        if dataset.get("settings_hash") != chosen.settings_hash():
            raise UserError(
                f"{out} was prepared from other files or with other settings; choose another --out or pass --overwrite"
            )
        if chosen.is_complete(dataset, out):
            return preparation.result(dataset, [], []) | {"already_prepared": True}
        adding = True
    with dataset_folder.parts_folder(preparation.local) as folder:
        tasks = chosen.tasks(folder, preparation.name)
        with incremental.grown(preparation.final, folder) if adding else nullcontext():
            return preparation.commit(folder, tasks, _converted(chosen.converter, tasks, options))


def list_events(paths: Sequence[str | os.PathLike[str]], worker_count: int = 1) -> JSON:
    """Return the events of every recording under `paths` (`events.list_events`), each opened in a child process."""
    sources = find_sources(paths)
    outcomes = workers.run("dreamjax.signals.preparation.convert:list_events", sources, workers=worker_count)
    tables = {o.task: {"file": sources[o.task].name, "reason": o.reason} if o.reason else o.result for o in outcomes}
    return {"recordings": [tables[i] for i in sorted(tables)]}


def prepare_raws(
    raws: "Iterable[mne.io.BaseRaw]",
    out: str | os.PathLike[str],
    settings: WindowSettings | None = None,
    options: PrepareOptions | None = None,
    *,
    subject_of: "Callable[[mne.io.BaseRaw], str] | None" = None,
) -> JSON:
    """`prepare` for any iterable of `mne.io.Raw`, one at a time and in this process: data only your code can load.

    Args:
      raws: taken one by one, so a generator needs memory for one.
      subject_of: the subject's id, from which the pseudonym and the split come. Default: the `his_id` of the Raw's
        `subject_info`; a Raw without one counts as a person of its own.

    Raises:
      UserError: nothing could be converted, or `out` exists.
    """
    options = options or PrepareOptions()
    dataset_folder.refuse_key_inside(options.key_file, out)
    sources: list[Source] = []
    recordings = RecordingInputs(sources, settings or WindowSettings(), options)
    preparation = _Preparation.start(recordings, out, options, time.monotonic())
    if preparation.final.exists() and any(preparation.final.iterdir()) and not options.overwrite:
        raise UserError(f"{preparation.final} exists; choose another folder or pass overwrite=True")
    with dataset_folder.parts_folder(preparation.local) as folder:
        tasks: list[convert.RecordingTask] = []
        outcomes: list[workers.Outcome] = []
        for i, raw in enumerate(raws):
            info = raw.info.get("subject_info") or {}
            subject = subject_of(raw) if subject_of else str(info.get("his_id") or f"raw {i}")
            corpus, licence = options.dataset or convert.UNKNOWN, options.licence or "unknown"
            sources.append(Source(f"raw {i}", "raw", corpus, subject, str(i), licence))
            tasks.append(recordings.task(sources[i], folder, preparation.name))
            outcomes.append(
                workers.attempt(lambda task, _, raw=raw: convert.convert_raw(task, raw), i, tasks[i], lambda: None)
            )
        return preparation.commit(folder, tasks, outcomes)


def _worker_count(options: PrepareOptions) -> int:
    return options.workers if options.workers is not None else os.cpu_count() or 1


def _converted(converter: str, tasks: Sequence[object], options: PrepareOptions) -> Iterator[workers.Outcome]:
    """Outcomes of all tasks as they end, with progress."""
    left_out = 0
    with progress("prepare", len(tasks)) as bar:
        for outcome in workers.run(
            converter,
            tasks,
            workers=_worker_count(options),
            timeout_s=options.timeout_s,
            quiet=not options.verbose,
        ):
            left_out += bool(outcome.reason)
            bar.advance(1, note=f"{left_out} left out" if left_out else "")
            yield outcome


@dataclass(frozen=True)
class _Preparation:
    """One call of `prepare`: of what, to where, since when."""

    inputs: Inputs
    final: epath.Path  # the dataset folder, local or in an object store
    local: Path  # where it is built; the same place unless `final` is remote
    name: str
    options: PrepareOptions
    started: float

    @staticmethod
    def start(chosen: Inputs, out: str | os.PathLike[str], options: PrepareOptions, started: float) -> "_Preparation":
        name = dataset_folder.dataset_name(out, options.name)
        return _Preparation(chosen, *dataset_folder.places_of(out), name, options, started)

    def commit(self, folder: Path, tasks: Sequence[object], outcomes: Iterable[workers.Outcome]) -> JSON:
        """Merge what was converted, write everything beside it, give the folder its name, forget the parts."""
        by_task = {outcome.task: outcome for outcome in outcomes}
        converting = time.monotonic() - self.started
        done = [ConvertedPart(tasks[i], o.result) for i, o in sorted(by_task.items()) if not o.reason]
        failed = [FailedPart(tasks[i], o.reason) for i, o in sorted(by_task.items()) if o.reason]
        self.inputs.check(done, failed)
        dataset = self._assemble(folder, done, failed)
        if self.options.key_file:
            atomic.write_text(self.options.key_file, dataset_folder.json_lines(self.inputs.key()))
        shutil.rmtree(folder, ignore_errors=True)
        return self.result(dataset, done, failed) | self._speed(done, failed, converting)

    def _assemble(self, parts_folder: Path, done: Done, failed: Failed) -> JSON:
        """The dataset folder, built whole under another name, then renamed (or, in an object store, committed last)."""
        splits = self.inputs.splits(done)
        fresh = self.local.parent / f".{self.local.name}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        with atomic.new_folder(fresh) as building:
            folder = Path(building)
            shards = {
                split: records.merge(
                    [
                        parts_folder / part.summary["part"] / parts.SHARD
                        for part, of in zip(done, splits, strict=True)
                        if of == split and part.summary["windows"]
                    ],
                    folder,
                    self.name,
                    split,
                )
                for split in SPLITS
            }
            described = self.inputs.describe(done, failed, splits) | inputs.environment(self.options.salt)
            described["settings_hash"] = self.inputs.settings_hash()
            if self.inputs.grows:
                incremental.keep(folder, [part.summary for part in done])
            lines = self.inputs.rejects(done, failed)
            atomic.write_text(folder / "rejects.jsonl", dataset_folder.json_lines(lines))
            layout = self.inputs.report_layout(done, splits)
            averages = [parts_folder / part.summary["part"] / parts.AVERAGES for part in done]
            quality_report.write(folder, self.name, described, [part.summary for part in done], averages, layout)
            dataset = records.finish(folder, self.name, shards, described)
        dataset_folder.deliver(fresh, self.local, self.final)
        return dataset

    def result(self, dataset: JSON, done: Done, failed: Failed) -> JSON:
        """Return what the command prints, but for the speed."""
        result = {"out": str(self.final), "already_prepared": False, **dataset["totals"], "splits": dataset["splits"]}
        return {**result, "failed": [], **self.inputs.result(dataset, done, failed)}

    def _speed(self, done: Done, failed: Failed, converting: float) -> JSON:
        fresh = [part.summary for part in done if not part.summary["reused"]]
        cores = max(1, min(_worker_count(self.options), len(done) + len(failed)))
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
