"""The data that a run was trained on: data.json in its work directory, written when training begins.

Shards can be prepared again at the same path, with other people in their splits; then only this file says on whom a run
was trained. It holds pseudonyms and hashes as dataset.json has them, and no other personal data.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypedDict

from etils import epath

from dreamjax.errors import UserError
from dreamjax.metrics.leakage import Dataset, People
from dreamjax.parallel import processes
from dreamjax.signals.datasets import records
from dreamjax.storage import atomic
from dreamjax.typing import JsonDict

NAME = "data.json"


class DatasetEntry(TypedDict):
    """What data.json says of one dataset folder."""

    path: str
    name: str
    shards: dict[str, str]  # shard → SHA-256
    train: dict[str, list[str]]  # subjects, files (SHA-256)
    corpora: dict[str, JsonDict]  # corpus → licences, subjects and more
    steps: JsonDict
    settings: JsonDict


STEPS = ("low", "high", "notch", "sfreq", "reference", "causal")  # of dataset.json's settings


def who(folder: str, split: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return (subjects, SHA-256 of recordings) of a split: from dataset.json if it lists them, else from records."""
    dataset = records.load_dataset(folder)
    if split not in dataset["splits"]:
        return frozenset(), frozenset()
    inputs = [entry for entry in dataset.get("inputs", []) if entry.get("split") == split]
    files = frozenset(entry["sha256"] for entry in inputs if entry.get("sha256"))
    if inputs and all("subject" in entry for entry in inputs):
        return frozenset(entry["subject"] for entry in inputs), files
    return frozenset(window.subject for window in records.read_windows(folder, split)), files


def corpora(folder: str, dataset: JsonDict) -> dict[str, JsonDict]:
    """Return corpus → licences, subjects and more; from the records where another tool has written the dataset."""
    if dataset.get("corpora"):
        return dataset["corpora"]
    licences: dict[str, set[str]] = {}
    subjects: dict[str, set[str]] = {}
    for split in dataset["splits"]:
        for window in records.read_windows(folder, split):
            licences.setdefault(window.dataset, set()).add(window.licence)
            subjects.setdefault(window.dataset, set()).add(window.subject)
    return {name: {"licences": sorted(names), "subjects": len(subjects[name])} for name, names in licences.items()}


def steps(dataset: JsonDict) -> JsonDict:
    """Return a dataset's preprocessing, and how many recordings have which band, line filter and reference."""
    settings = dataset.get("settings", {})
    plans = [entry.get("plan", {}) for entry in dataset.get("inputs", [])]
    return {
        "dataset": dataset["name"],
        "settings": {name: settings[name] for name in STEPS if name in settings},
        "bands": _counted(plan.get("band") for plan in plans),
        "line": _counted(plan.get("line") for plan in plans),
        "references": _counted(plan.get("reference") for plan in plans),
    }


def _counted(values: Iterable[object]) -> dict[str, int]:
    return dict(sorted(Counter(json.dumps(value) for value in values).items()))


def describe(folder: str) -> DatasetEntry:
    """Return the entry of data.json for one dataset folder, as it is now."""
    dataset = records.load_dataset(folder)
    subjects, files = who(folder, "train")
    return {
        "path": folder,
        "name": dataset["name"],
        "shards": _hashes(dataset),
        "train": {"subjects": sorted(subjects), "files": sorted(files)},
        "corpora": corpora(folder, dataset),
        "steps": steps(dataset),
        "settings": settings(dataset),
    }


def settings(dataset: JsonDict) -> JsonDict:
    """Return how the recordings were prepared, so that others can be prepared alike; without the user's paths."""
    values = dict(dataset.get("settings", {}))
    if "events" in values:
        values["events"] = {name: value for name, value in values["events"].items() if name != "source"}
    return values


def _hashes(dataset: JsonDict) -> dict[str, str]:
    return {name: shard.get("sha256", "") for name, shard in sorted(dataset["shards"].items())}


def read(workdir: epath.PathLike) -> list[DatasetEntry] | None:
    """Return the datasets that a run was trained on; None for a run without data.json."""
    path = epath.Path(workdir) / NAME
    if not path.exists():
        return None
    try:
        entries = json.loads(path.read_text())["datasets"]
        for entry in entries:
            _ = entry["shards"], entry["train"]["subjects"], entry["train"]["files"], entry["corpora"], entry["steps"]
        return entries
    except (ValueError, KeyError, TypeError) as problem:
        raise UserError(f"{path} is damaged; restore it from a copy, or train in another work directory") from problem


def people(folder: str, split: str) -> People:
    """Return the people of a split of a dataset folder."""
    return People(*who(folder, split))


def dataset(folder: str) -> Dataset:
    """Return all people of a dataset folder."""
    listed = records.load_dataset(folder)
    files: dict[str, frozenset[str]] = {}
    for entry in listed.get("inputs", []):
        if entry.get("sha256") and "subject" in entry:
            files[entry["subject"]] = files.get(entry["subject"], frozenset()) | {entry["sha256"]}
    return Dataset(frozenset().union(*(people(folder, split).subjects for split in listed["splits"])), files)


def trained_on(paths: Sequence[str], workdir: str | None = None) -> tuple[People, ...] | None:
    """Return the people trained on, by dataset: as the run in `workdir` says, else those of the training splits now.

    None where a path no longer exists, or none is given.
    """
    recorded = None if workdir is None else read(workdir)
    if recorded is not None:
        parts = [entry["train"] for entry in recorded]
        return tuple(People(frozenset(part["subjects"]), frozenset(part["files"])) for part in parts)
    if not paths:  # an imported run, whose data are unknown
        return None
    try:
        return tuple(people(path, "train") for path in paths)
    except UserError:
        return None


def held_out(folders: Sequence[str], split: str) -> dict[str, tuple[Dataset, People]]:
    """Return dataset folder → all of its people, and those of its `split`."""
    return {folder: (dataset(folder), people(folder, split)) for folder in folders}


def claim(workdir: epath.PathLike, paths: Sequence[str], started: bool) -> None:
    """Write data.json when training begins; check that the data are the same when it continues (`started`).

    A run begun by a version without data.json gets none: its data are unknown. Raises UserError for changed data.
    """
    recorded = read(workdir) if started else None
    if recorded is not None:
        now = [_hashes(records.load_dataset(path)) for path in paths]
        for path, entry, hashes in zip(paths, recorded, now, strict=False):
            if entry["shards"] != hashes:
                raise UserError(
                    f"the data at {path} has changed since the run in {workdir} began; start another work directory"
                )
    processes.barrier("data")  # all have compared
    if not started and processes.is_first():
        atomic.write_text(epath.Path(workdir) / NAME, json.dumps({"datasets": [describe(path) for path in paths]}))
    processes.barrier("data is written")
