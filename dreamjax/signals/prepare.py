"""Recordings → a dataset folder: children convert, the parent splits by subject, merges, reports, commits.

Children write one part per recording into `.NAME.parts` beside the output; an interrupted run finds them again. The
output folder is built under a temporary name and renamed when it is whole.
"""

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from dreamjax import __version__
from dreamjax.console import log, progress
from dreamjax.errors import UserError
from dreamjax.signals import convert, preprocess, records, workers
from dreamjax.signals.convert import Task, scrubbed
from dreamjax.signals.identity import SPLITS, assign_splits
from dreamjax.signals.preprocess import Settings
from dreamjax.signals.readers.base import Source
from dreamjax.storage import atomic

FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}
PACKAGES = ("numpy", "scipy", "mne", "edfio", "array_record")


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
        if set(self.fractions) != set(SPLITS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(f"splits are three shares that sum to 1, not {shares}")
        if self.workers is not None and self.workers < 0:
            raise ValueError("workers is 0 or more")


def dataset_name(out: str | os.PathLike[str], wanted: str = "") -> str:
    """The dataset's name: as wanted, else made from the folder's."""
    if wanted:
        return wanted
    name = re.sub(r"[^a-z0-9]+", "_", Path(str(out).rstrip("/")).name.lower()).strip("_")
    return name if re.match(r"[a-z]", name) else f"eeg_{name}".rstrip("_")


def prepare(
    paths: Sequence[str | os.PathLike[str] | Source],
    out: str | os.PathLike[str],
    settings: Settings | None = None,
    options: Options | None = None,
) -> dict[str, Any]:
    """Convert every recording under `paths` into the dataset folder `out`. Returns what the command reports.

    Args:
      paths: files, folders, BIDS roots, or sources from `recordings.find_sources`.
      out: a folder that does not exist yet, or that this function made from the same recordings and settings.

    Raises:
      UserError: nothing could be converted, or `out` holds something else.
    """
    from dreamjax.signals.recordings import find_sources

    settings, options = settings or Settings(), options or Options()
    given = [str(p) for p in paths if not isinstance(p, Source)]
    sources = [p for p in paths if isinstance(p, Source)]
    if given:
        sources += find_sources(
            given, dataset=options.dataset, licence=options.licence, subject_pattern=options.subject_pattern
        )
    table = settings.events.source
    if table not in ("", "file") and "{stem}" not in table and len(sources) > 1:
        raise UserError(
            f"{table} holds the events of one recording, but {len(sources)} were found; name one, or put {{stem}} "
            "into --events where the recordings' names differ"
        )
    return _prepare(sources, Path(out), settings, options)


def list_events(paths: Sequence[str | os.PathLike[str]], worker_count: int = 1) -> dict[str, Any]:
    """The events of every recording under `paths` (`events.list_events`), each opened in a child process."""
    from dreamjax.signals.recordings import find_sources

    sources = find_sources(paths)
    found: dict[int, dict[str, Any]] = {}
    for outcome in workers.run("dreamjax.signals.convert:list_events", sources, workers=worker_count):
        failed = {"file": sources[outcome.task].name, "reason": outcome.reason}
        found[outcome.task] = failed if outcome.reason else outcome.result
    return {"recordings": [found[i] for i in sorted(found)]}


def _prepare(sources: Sequence[Source], out: Path, settings: Settings, options: Options) -> dict[str, Any]:
    started = time.monotonic()
    name = dataset_name(out, options.name)
    wanted = settings_hash(settings, options)
    existing = _existing(out, wanted, sources, options)
    if existing is not None:
        return existing
    with _working_folder(out) as parts:
        tasks = [_task(source, settings, options, parts) for source in sources]
        summaries, failures = _convert_all(tasks, options)
        converting = time.monotonic() - started
        if not summaries:
            raise UserError(f"none of the {len(sources)} recordings could be converted; see the reasons above")
        done = [(tasks[i].source, summary) for i, summary in sorted(summaries.items())]
        failed = [(tasks[i].source, reason) for i, reason in sorted(failures.items())]
        dataset = _assemble(out, name, parts, done, failed, settings, options, wanted)
        if options.key_file:
            _write_key(options.key_file, sources, options)
        result = _result(out, dataset, done, failed, converting, time.monotonic() - started, options, len(tasks))
    shutil.rmtree(parts, ignore_errors=True)
    return result


# ------------------------------------------------------------------------------------------------- before the children
def settings_hash(settings: Settings, options: Options) -> str:
    """What decides whether two runs would write the same records from the same input."""
    said = [
        preprocess.described(settings),
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


def _existing(out: Path, wanted: str, sources: Sequence[Source], options: Options) -> dict[str, Any] | None:
    """The result of an earlier, equal run; None where there is none. Raises UserError for any other folder."""
    if not out.exists() or options.overwrite:
        return None
    try:
        dataset = json.loads((out / "dataset.json").read_text())
    except (OSError, ValueError):
        if out.is_dir() and not any(out.iterdir()):
            return None
        raise UserError(f"{out} exists and is no dataset that `dreamjax prepare` wrote; choose another --out") from None
    if dataset.get("settings_hash") != wanted:
        raise UserError(f"{out} was prepared with other settings; choose another --out or pass --overwrite")
    before = {entry["sha256"] for entry in dataset["inputs"]} | set(dataset["failed_inputs"])
    now = {convert.input_hash(source) for source in sources}
    if before != now:
        raise UserError(f"{out} was prepared from other recordings; choose another --out or pass --overwrite")
    log.info("%s is already prepared from these recordings with these settings", out)
    return {"out": str(out), "already_prepared": True, **dataset["totals"], "failed": []}


@contextmanager
def _working_folder(out: Path) -> Iterator[Path]:
    """The folder of parts beside `out`, locked against a second run; kept when the run is interrupted."""
    parts = out.parent / f".{out.name}.parts"
    parts.mkdir(parents=True, exist_ok=True)
    with (parts / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another dreamjax prepare is writing {out}; wait for it or choose another --out") from None
        for stale in out.parent.glob(f".{out.name}.????????.part"):  # of a run that was killed while it merged
            shutil.rmtree(stale, ignore_errors=True)
        yield parts


def _task(source: Source, settings: Settings, options: Options, parts: Path) -> Task:
    scale = options.unit_scales.get(source.dataset, options.unit_scales.get(""))
    return Task(source, settings, str(parts), options.salt, scale, options.strict, options.stimuli)


def _convert_all(tasks: list[Task], options: Options) -> tuple[dict[int, dict[str, Any]], dict[int, str]]:
    """(task → summary, task → reason); each failure is said at once, with its path, to the user alone."""
    summaries: dict[int, dict[str, Any]] = {}
    failures: dict[int, str] = {}
    count = options.workers if options.workers is not None else os.cpu_count() or 1
    with progress("prepare", len(tasks)) as bar:
        for outcome in workers.run(
            "dreamjax.signals.convert:convert",
            tasks,
            workers=count,
            timeout_s=options.timeout_s,
            quiet=not options.verbose,
        ):
            source = tasks[outcome.task].source
            if outcome.reason:
                failures[outcome.task] = outcome.reason
                told = outcome.reason if source.path in outcome.reason else f"{source.name}: {outcome.reason}"
                log.warning("left out: %s", told)
            else:
                summaries[outcome.task] = outcome.result
                if outcome.result["warning"]:
                    log.warning("%s: %s", source.name, outcome.result["warning"])
            bar.advance(1, note=f"{len(failures)} left out" if failures else "")
    return summaries, failures


# ---------------------------------------------------------------------------------------------------------- assembling
Done = Sequence[tuple[Source, dict[str, Any]]]


def _assemble(
    out: Path,
    name: str,
    parts: Path,
    done: Done,
    failed: Sequence[tuple[Source, str]],
    settings: Settings,
    options: Options,
    wanted: str,
) -> dict[str, Any]:
    """Merge the parts into splits, write everything that goes beside them, and give the folder its name."""
    from dreamjax.signals import report

    splits = assign_splits([(s.dataset, s.subject) for s, _ in done], options.fractions, options.split_seed)
    old = out.parent / f".{out.name}.replaced.part"
    with atomic.new_folder(out if not out.exists() else out.parent / f".{out.name}.new") as epath_folder:
        folder = Path(epath_folder)
        shards = {
            split: records.merge(
                [parts / r["part"] / convert.SHARD for s, r in done if splits[s.dataset, s.subject] == split],
                folder,
                name,
                split,
            )
            for split in SPLITS
        }
        extra = describe(done, failed, splits, settings, options) | {"settings_hash": wanted}
        _write_rejects(folder / "rejects.jsonl", done, failed, options)
        report.write(folder, name, extra, [(r, parts / r["part"]) for _, r in done], settings)
        dataset = records.finish(folder, name, shards, extra)
    if (fresh := out.parent / f".{out.name}.new").exists():
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
        fresh.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    return dataset


def describe(
    done: Done,
    failed: Sequence[tuple[Source, str]],
    splits: Mapping[tuple[str, str], str],
    settings: Settings,
    options: Options,
) -> dict[str, Any]:
    """dataset.json but for the shards: totals, corpora, steps, versions, and one entry per input."""
    windows_s = settings.samples / settings.sfreq
    people = {s: sorted({(x.dataset, x.subject) for x, _ in done if splits[x.dataset, x.subject] == s}) for s in SPLITS}
    kept = sum(r["windows"] for _, r in done)
    inputs = []
    for source, r in done:
        who = convert.identity_of(source, options.salt)
        entry = {key: r[key] for key in ("sha256", "dataset", "format", "sfreq", "windows", "warning", "notes", "plan")}
        inputs.append(
            {"recording": who.recording, "subject": who.subject, "split": splits[source.dataset, source.subject]}
            | entry
            | {"hours": round(r["seconds"] / 3600, 5), "channels": len(r["ch_names"])}
        )
    return {
        "totals": {
            "recordings": len(done),
            "recordings_left_out": len(failed),
            "hours_read": round(sum(r["seconds"] for _, r in done) / 3600, 4),
            "hours": round(kept * windows_s / 3600, 4),
            "windows": kept,
            "windows_rejected": sum(r["judged"] - r["windows"] for _, r in done),
            "subjects": sum(map(len, people.values())),
        },
        "subjects": {split: len(found) for split, found in people.items()},
        "corpora": _corpora(done),
        "settings": preprocess.described(settings),
        "splitting": {"fractions": dict(options.fractions), "seed": options.split_seed, "by": "subject"},
        "salt": "given" if options.salt is not None else "default",
        "unit_scales": dict(options.unit_scales),
        "labels": sorted({label for _, r in done for label in r["labels"]} - {""}),
        "channels": sorted({c for _, r in done for c in r["ch_names"]}),
        "versions": {"dreamjax": __version__, "python": platform.python_version(), **_versions()},
        "inputs": inputs,
        "failed_inputs": sorted(_hash_or_empty(source) for source, _ in failed),
    }


def _corpora(done: Done) -> dict[str, dict[str, Any]]:
    corpora: dict[str, dict[str, Any]] = {}
    for source, r in done:
        entry = corpora.setdefault(
            source.dataset, {"licences": set(), "recordings": 0, "hours": 0.0, "people": set(), "channels": set()}
        )
        entry["licences"].add(r["licence"])
        entry["people"].add(source.subject)
        entry["channels"].add(len(r["ch_names"]))
        entry["recordings"] += 1
        entry["hours"] += r["seconds"] / 3600
    return {
        name: {
            "licences": sorted(e["licences"]),
            "recordings": e["recordings"],
            "hours": round(e["hours"], 4),
            "subjects": len(e["people"]),
            "channels": sorted(e["channels"]),
        }
        for name, e in sorted(corpora.items())
    }


def _hash_or_empty(source: Source) -> str:
    try:
        return convert.input_hash(source)
    except OSError:
        return ""


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _write_rejects(path: Path, done: Done, failed: Sequence[tuple[Source, str]], options: Options) -> None:
    """One line per recording or stretch left out. A recording is named by its id: file names may name a person."""
    lines = []
    for source, reason in failed:
        lines.append(_named(source, options) | {"whole": True, "reason": scrubbed(reason, source)})
    for source, r in done:
        lines += [_named(source, options) | {"whole": False} | stretch for stretch in r["rejects"]]
    atomic.write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def _named(source: Source, options: Options) -> dict[str, str]:
    who = convert.identity_of(source, options.salt)
    return {"recording": who.recording, "dataset": source.dataset, "reader": source.reader}


def _write_key(path: str, sources: Iterable[Source], options: Options) -> None:
    """recording id → path and subject: the key of the pseudonyms, to be kept away from the data."""
    lines = [
        {"recording": who.recording, "subject_id": who.subject, "path": source.name, "subject": source.subject}
        for source in sources
        for who in [convert.identity_of(source, options.salt)]
    ]
    atomic.write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def _result(
    out: Path,
    dataset: dict[str, Any],
    done: Done,
    failed: Sequence[tuple[Source, str]],
    converting: float,
    wall: float,
    options: Options,
    tasks: int,
) -> dict[str, Any]:
    """What the command prints."""
    fresh = [r for _, r in done if not r["reused"]]
    cores = max(1, min(options.workers if options.workers is not None else os.cpu_count() or 1, tasks))
    seconds, work = sum(r["seconds"] for r in fresh), sum(r["cpu_s"] for r in fresh)
    return {
        "out": str(out),
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
            "wall_s": round(wall, 2),
            "peak_memory_mb": round(max((r["peak_bytes"] for r in fresh), default=0) / 2**20),
        },
        "failed": [{"path": source.name, "reason": reason} for source, reason in failed],
    }
