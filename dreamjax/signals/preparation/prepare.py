"""Recordings → a dataset folder: children convert, the parent splits by subject, merges, reports, commits.

Children write one part per recording into `.NAME.parts` beside the output; an interrupted run finds them again. How
the output folder gets to its place: `dataset_folder`.
"""

import hashlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from etils import epath

from dreamjax.console import log, progress
from dreamjax.errors import UserError
from dreamjax.signals.datasets import records
from dreamjax.signals.preparation import convert, dataset_folder, incremental, inputs, windows, workers
from dreamjax.signals.preparation.convert import Task
from dreamjax.signals.preparation.inputs import Done, Failed
from dreamjax.signals.preparation.windows import Settings
from dreamjax.signals.recordings.corpora import corpus_of
from dreamjax.signals.recordings.identity import SPLITS, assign_splits
from dreamjax.signals.recordings.readers.bids import bids_root
from dreamjax.signals.recordings.readers.recording import Source
from dreamjax.storage import atomic

FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}
ACCESSION = re.compile(r"(ds|on|nm)\d{6}")  # OpenNeuro, its anonymised deposits, NEMAR


@dataclass(frozen=True)
class Options:
    """How to run. Of these, `salt`, `fractions`, `split_seed`, `unit_scales` and `strict` change the records."""

    name: str = ""  # of the dataset folder; from the folder's name when empty
    workers: int | None = None  # child processes; None for one per core, 0 for none
    timeout_s: float = 300.0  # a child without progress for so long is killed
    salt: str | None = None  # of the pseudonyms; None for one made from the dataset's name
    fractions: Mapping[str, float] = field(default_factory=lambda: dict(FRACTIONS))
    split_seed: int = 0
    unit_scales: Mapping[str, float] = field(default_factory=dict)  # dataset name ("" for all) → factor
    strict: bool = False  # refuse files shorter than their header says
    overwrite: bool = False
    key_file: str = ""  # where to write recording id → path; kept out of the dataset on purpose
    dataset: str | None = None  # these three: as in recordings.find_sources
    licence: str | None = None
    subject_pattern: str | None = None
    stimuli: str = ""  # folder in which every stimulus file of an event table must lie
    verbose: bool = False

    def __post_init__(self) -> None:
        shares = list(self.fractions.values())
        if set(self.fractions) != set(SPLITS) or min(shares) < 0 or not abs(sum(shares) - 1) <= 1e-6:
            raise ValueError(f"splits are three shares that sum to 1, not {shares}")
        if self.workers is not None and self.workers < 0:
            raise ValueError("workers is 0 or more")
        if not 0 < self.timeout_s < math.inf:
            raise ValueError(f"the timeout is {self.timeout_s:g}, but it must be a positive number of seconds")
        if any(not math.isfinite(factor) or factor == 0 for factor in self.unit_scales.values()):
            raise ValueError("a unit scale is a number other than 0 that the signal is multiplied by")


def prepare(
    paths: Sequence[str | os.PathLike[str] | Source],
    out: str | os.PathLike[str],
    settings: Settings | None = None,
    options: Options | None = None,
) -> dict[str, Any]:
    """Convert every recording under `paths` into the dataset folder `out`. Returns what the command reports.

    Args:
      paths: files, folders, BIDS roots, or sources from `recordings.find_sources`.
      out: a folder that does not exist yet, or that this function made with the same settings. Recordings that it
        does not hold yet are added to it; those that it holds must be given too.

    Raises:
      UserError: nothing could be converted, or `out` holds something else.
    """
    from dreamjax.signals.recordings.opening import find_sources

    settings, options = settings or Settings(), options or Options()
    given = [str(p) for p in paths if not isinstance(p, Source)]
    sources = [p for p in paths if isinstance(p, Source)]
    if given:
        found = find_sources(
            given, dataset=options.dataset, licence=options.licence, subject_pattern=options.subject_pattern
        )
        sources += [_impersonal(source, options) for source in found]
    table = settings.events.source
    if table not in ("", "file") and "{stem}" not in table and len(sources) > 1:
        raise UserError(
            f"{table} holds the events of one recording, but {len(sources)} were found; name one, or put {{stem}} "
            "into --events where the recordings' names differ"
        )
    run = _Run.start(out, settings, options)
    if options.overwrite:
        dataset_folder.refuse_to_replace(run.final, [*given, *(source.path for source in sources)])
    existing = _existing(run, sources)
    if existing is not None:
        return existing
    with dataset_folder.parts_beside(run.local) as parts:
        adding = bool(dataset_folder.described(run.final)) and not options.overwrite
        with incremental.grown(run.final, parts) if adding else nullcontext():
            return run.commit(parts, sources, _converted([run.task(source, parts) for source in sources], options))


def _impersonal(source: Source, options: Options) -> Source:
    """A source whose corpus was merely guessed from a folder's name loses that guess: folders may name a person.

    Its windows carry the name of the dataset that is being written; pseudonyms and splits are those of `UNKNOWN`, so
    they do not depend on where the output goes. The folder of a BIDS root still tells persons of two roots apart, but
    it is published only where it is an accession number (ds000117).
    """
    if options.dataset or corpus_of(source.name.replace("!", "/")):
        return source
    if bids_root(Path(source.path)):
        return source if ACCESSION.fullmatch(source.dataset) else replace(source, corpus=convert.UNKNOWN)
    return replace(source, dataset=convert.UNKNOWN)


def list_events(paths: Sequence[str | os.PathLike[str]], worker_count: int = 1) -> dict[str, Any]:
    """The events of every recording under `paths` (`events.list_events`), each opened in a child process."""
    from dreamjax.signals.recordings.opening import find_sources

    sources = find_sources(paths)
    found: dict[int, dict[str, Any]] = {}
    for outcome in workers.run("dreamjax.signals.preparation.convert:list_events", sources, workers=worker_count):
        failed = {"file": sources[outcome.task].name, "reason": outcome.reason}
        found[outcome.task] = failed if outcome.reason else outcome.result
    return {"recordings": [found[i] for i in sorted(found)]}


def prepare_raws(
    raws: Iterable[Any],
    out: str | os.PathLike[str],
    settings: Settings | None = None,
    options: Options | None = None,
    *,
    subject_of: Callable[[Any], str] | None = None,
) -> dict[str, Any]:
    """`prepare` for any iterable of `mne.io.Raw`, one at a time and in this process: data only your code can load.

    Args:
      raws: taken one by one, so a generator needs memory for one.
      subject_of: the subject's id, from which the pseudonym and the split come. Default: the `his_id` of the Raw's
        `subject_info`; a Raw without one counts as a person of its own.

    Raises:
      UserError: nothing could be converted, or `out` exists.
    """
    run = _Run.start(out, settings or Settings(), options or Options())
    if run.final.exists() and any(run.final.iterdir()) and not run.options.overwrite:
        raise UserError(f"{run.final} exists; choose another folder or pass overwrite=True")
    with dataset_folder.parts_beside(run.local) as parts:
        sources: list[Source] = []
        outcomes: list[workers.Outcome] = []
        for i, raw in enumerate(raws):
            info = raw.info.get("subject_info") or {}
            subject = subject_of(raw) if subject_of else str(info.get("his_id") or f"raw {i}")
            corpus, licence = run.options.dataset or convert.UNKNOWN, run.options.licence or "unknown"
            sources.append(Source(f"raw {i}", "raw", corpus, subject, str(i), licence))
            task = run.task(sources[i], parts)
            outcomes.append(workers.attempt(lambda t, _, raw=raw: convert.convert_raw(t, raw), i, task, _no_beat))
        return run.commit(parts, sources, outcomes)


def _no_beat() -> None:
    """Progress that nobody waits for."""


@dataclass(frozen=True)
class _Run:
    """One call of `prepare`: where to, how, since when."""

    final: epath.Path  # the dataset folder, local or in an object store
    local: Path  # where it is built; the same place unless `final` is remote
    name: str
    settings: Settings
    options: Options
    started: float

    @staticmethod
    def start(out: str | os.PathLike[str], settings: Settings, options: Options) -> "_Run":
        inputs.refuse_key_inside(options.key_file, out)
        name = dataset_folder.dataset_name(out, options.name)
        return _Run(*dataset_folder.places_of(out), name, settings, options, time.monotonic())

    @property
    def settings_hash(self) -> str:
        return settings_hash(self.settings, self.options)

    def task(self, source: Source, parts: Path) -> Task:
        options = self.options
        scale = options.unit_scales.get(source.dataset, options.unit_scales.get(""))
        corpus = source.corpus or source.dataset
        corpus = self.name if corpus == convert.UNKNOWN else corpus
        return Task(source, self.settings, str(parts), options.salt, corpus, scale, options.strict, options.stimuli)

    def commit(self, parts: Path, sources: Sequence[Source], outcomes: Iterable[workers.Outcome]) -> dict[str, Any]:
        """Merge what was converted, write everything beside it, give the folder its name, forget the parts."""
        by_task = {outcome.task: outcome for outcome in outcomes}
        converting = time.monotonic() - self.started
        done = [(sources[i], o.result) for i, o in sorted(by_task.items()) if not o.reason]
        failed = [(sources[i], o.reason) for i, o in sorted(by_task.items()) if o.reason]
        if not done:
            for source, reason in failed:
                log.warning("left out: %s: %s", source.name, _told(reason, source))
            raise UserError(f"no recording could be converted, of {len(failed)} given; see the reasons above")
        dataset = _assemble(self, parts, done, failed)
        if self.options.key_file:
            inputs.write_key(self.options.key_file, sources, self.options)
        shutil.rmtree(parts, ignore_errors=True)
        return _result(self, dataset, done, failed, converting)


# ------------------------------------------------------------------------------------------------- before the children
def settings_hash(settings: Settings, options: Options) -> str:
    """What decides whether two runs would write the same records from the same input."""
    said = [
        windows.described(settings),
        hashlib.sha256((options.salt or "").encode()).hexdigest(),
        sorted(options.fractions.items()),
        options.split_seed,
        sorted(options.unit_scales.items()),
        options.strict,
        records.FORMAT,
        _file_hash(settings.events.source),
    ]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def _file_hash(source: str) -> str:
    return convert.manifest.file_hash(source) if source not in ("", "file") and Path(source).is_file() else ""


def _existing(run: _Run, sources: Sequence[Source]) -> dict[str, Any] | None:
    """The result of an earlier, equal run; None where there is none, or where recordings are added to it.

    Raises UserError for any other folder.
    """
    out = run.final
    if not out.exists() or run.options.overwrite:
        return None
    dataset = dataset_folder.described(out)
    if dataset is None:
        if out.is_dir() and not any(out.iterdir()):
            return None
        raise UserError(f"{out} exists and is no dataset that `dreamjax prepare` wrote; choose another --out")
    if dataset.get("settings_hash") != run.settings_hash:
        raise UserError(f"{out} was prepared with other settings; choose another --out or pass --overwrite")
    its_own, given = {entry["sha256"] for entry in dataset["inputs"]}, set(map(inputs.input_hash_or_empty, sources))
    if its_own - given:
        raise UserError(
            f"{out} was prepared from other recordings ({len(its_own - given)} of its own are not given now); choose "
            "another --out or pass --overwrite"
        )
    if its_own | set(dataset["failed_inputs"]) != given:
        return None
    return {"out": str(out), "already_prepared": True, **dataset["totals"], "splits": dataset["splits"], "failed": []}


def _converted(tasks: Sequence[Task], options: Options) -> Iterator[workers.Outcome]:
    """Outcomes of all tasks as they end, with progress."""
    count, left_out = _worker_count(options), 0
    with progress("prepare", len(tasks)) as bar:
        for outcome in workers.run(
            "dreamjax.signals.preparation.convert:convert",
            tasks,
            workers=count,
            timeout_s=options.timeout_s,
            quiet=not options.verbose,
        ):
            left_out += bool(outcome.reason)
            bar.advance(1, note=f"{left_out} left out" if left_out else "")
            yield outcome


def _worker_count(options: Options) -> int:
    return options.workers if options.workers is not None else os.cpu_count() or 1


# ---------------------------------------------------------------------------------------------------------- assembling
def _assemble(run: _Run, parts: Path, done: Done, failed: Failed) -> dict[str, Any]:
    """The dataset folder, built whole under another name, then renamed (or, in an object store, committed last)."""
    from dreamjax.signals.preparation import quality_report

    options, settings = run.options, run.settings
    splits = assign_splits([(s.dataset, s.subject) for s, _ in done], options.fractions, options.split_seed)
    fresh = run.local.parent / f".{run.local.name}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    with atomic.new_folder(fresh) as building:
        folder = Path(building)
        shards = {
            split: records.merge(
                [parts / r["part"] / convert.SHARD for s, r in done if splits[s.dataset, s.subject] == split],
                folder,
                run.name,
                split,
            )
            for split in SPLITS
        }
        extra = inputs.describe(done, failed, splits, settings, options) | {"settings_hash": run.settings_hash}
        incremental.keep(folder, [r for _, r in done])
        inputs.write_rejects(folder / "rejects.jsonl", done, failed, options)
        quality_report.write(folder, run.name, extra, [(r, parts / r["part"]) for _, r in done], settings)
        dataset = records.finish(folder, run.name, shards, extra)
    dataset_folder.deliver(fresh, run.local, run.final)
    return dataset


def _result(run: _Run, dataset: dict[str, Any], done: Done, failed: Failed, converting: float) -> dict[str, Any]:
    """What the command prints."""
    fresh = [r for _, r in done if not r["reused"]]
    cores = max(1, min(_worker_count(run.options), len(done) + len(failed)))
    seconds, work = sum(r["seconds"] for r in fresh), sum(r["cpu_s"] for r in fresh)
    return {
        "out": str(run.final),
        "already_prepared": False,
        **dataset["totals"],
        "splits": dataset["splits"],
        "reused": len(done) - len(fresh),
        "speed": {
            "real_time_per_core": round(seconds / work, 1) if work else None,  # of processor time
            "real_time_per_core_with_start": round(seconds / (converting * cores), 1) if fresh else None,
            "hours_per_second_per_core": round(seconds / 3600 / work, 4) if work else None,
            "cores": cores,
            "converting_s": round(converting, 2),
            "wall_s": round(time.monotonic() - run.started, 2),
            "peak_memory_mb": round(max((r["peak_bytes"] for r in fresh), default=0) / 2**20),
        },
        "implausible": [source.name for source, r in done if r["warning"]],
        "failed": [{"path": source.name, "reason": _told(reason, source)} for source, reason in failed],
    }


def _told(reason: str, source: Source) -> str:
    """A reason for the user's own eyes, beside the path."""
    return reason.removeprefix(f"{source.name}: ").removeprefix(f"{source.path}: ")
