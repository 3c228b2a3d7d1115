"""What a run was trained on, kept beside it: data.json in its work directory, written when training begins.

Shards can be prepared anew at the same path, with other people in their splits; who was trained on is then known from
here alone. Pseudonyms and hashes as dataset.json has them, nothing else about anybody.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from dreamjax.errors import UserError
from dreamjax.metrics.leakage import Dataset, People
from dreamjax.parallel import processes
from dreamjax.signals.datasets import records
from dreamjax.storage import atomic

NAME = "data.json"
STEPS = ("low", "high", "notch", "sfreq", "reference", "causal")  # of dataset.json's settings


def who(folder: str, split: str) -> tuple[frozenset[str], frozenset[str]]:
    """(subjects, SHA-256 of recordings) in a split: from dataset.json where that lists them, else from every record."""
    dataset = records.load_dataset(folder)
    if split not in dataset["splits"]:
        return frozenset(), frozenset()
    inputs = [entry for entry in dataset.get("inputs", []) if entry.get("split") == split]
    files = frozenset(entry["sha256"] for entry in inputs if entry.get("sha256"))
    if inputs and all("subject" in entry for entry in inputs):
        return frozenset(entry["subject"] for entry in inputs), files
    return frozenset(window.subject for window in records.read_windows(folder, split)), files


def corpora(folder: str, dataset: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Corpus → licences, subjects and more; from the records where another tool has written the dataset."""
    if dataset.get("corpora"):
        return dataset["corpora"]
    licences: dict[str, set[str]] = {}
    subjects: dict[str, set[str]] = {}
    for split in dataset["splits"]:
        for window in records.read_windows(folder, split):
            licences.setdefault(window.dataset, set()).add(window.licence)
            subjects.setdefault(window.dataset, set()).add(window.subject)
    return {name: {"licences": sorted(found), "subjects": len(subjects[name])} for name, found in licences.items()}


def steps(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """A dataset's preprocessing, and how many recordings have which band, line filter and reference."""
    settings = dataset.get("settings", {})
    plans = [entry.get("plan", {}) for entry in dataset.get("inputs", [])]
    return {
        "dataset": dataset["name"],
        "settings": {name: settings[name] for name in STEPS if name in settings},
        "bands": _counted(plan.get("band") for plan in plans),
        "line": _counted(plan.get("line") for plan in plans),
        "references": _counted(plan.get("reference") for plan in plans),
    }


def _counted(values: Iterable[Any]) -> dict[str, int]:
    return dict(sorted(Counter(json.dumps(value) for value in values).items()))


def describe(folder: str) -> dict[str, Any]:
    """What data.json says of one dataset folder, as it is now."""
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


def settings(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """How its recordings were prepared, whole, so that others can be prepared alike; without the user's own paths."""
    found = dict(dataset.get("settings", {}))
    if "events" in found:
        found["events"] = {name: value for name, value in found["events"].items() if name != "source"}
    return found


def _hashes(dataset: Mapping[str, Any]) -> dict[str, str]:
    return {name: shard.get("sha256", "") for name, shard in sorted(dataset["shards"].items())}


def read(workdir: epath.PathLike) -> list[dict[str, Any]] | None:
    """What a run says it was trained on, dataset by dataset; None for a run that does not say."""
    path = epath.Path(workdir) / NAME
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())["datasets"]
        for entry in found:
            _ = entry["shards"], entry["train"]["subjects"], entry["train"]["files"], entry["corpora"], entry["steps"]
        return found
    except (ValueError, KeyError, TypeError) as problem:
        raise UserError(f"{path} is damaged; restore it from a copy, or train in another work directory") from problem


def people(folder: str, split: str) -> People:
    """Who is in a split of a dataset folder: from its dataset.json where that lists them, else from every record."""
    return People(*who(folder, split))


def dataset(folder: str) -> Dataset:
    """Everybody in a dataset folder."""
    found = records.load_dataset(folder)
    files: dict[str, frozenset[str]] = {}
    for entry in found.get("inputs", []):
        if entry.get("sha256") and "subject" in entry:
            files[entry["subject"]] = files.get(entry["subject"], frozenset()) | {entry["sha256"]}
    return Dataset(frozenset().union(*(people(folder, split).subjects for split in found["splits"])), files)


def trained_on(paths: Sequence[str], workdir: str | None = None) -> tuple[People, ...] | None:
    """Who was trained on, by dataset: as the run in `workdir` says, else who is now in the training splits of `paths`.

    None where a path is no longer there to look, or none is known.
    """
    recorded = None if workdir is None else read(workdir)
    if recorded is not None:
        parts = [entry["train"] for entry in recorded]
        return tuple(People(frozenset(part["subjects"]), frozenset(part["files"])) for part in parts)
    if not paths:  # an imported run, which does not say what it was trained on
        return None
    try:
        return tuple(people(path, "train") for path in paths)
    except UserError:
        return None


def held_out(folders: Sequence[str], split: str) -> dict[str, tuple[Dataset, People]]:
    """Dataset folder → everybody in it, and who is in `split` of it."""
    return {folder: (dataset(folder), people(folder, split)) for folder in folders}


def claim(workdir: epath.PathLike, paths: Sequence[str], started: bool) -> None:
    """Write data.json where training begins; see that the data are the same where it goes on (`started`).

    A run begun before data.json was kept gets none: what it saw first is not known. Raises UserError for other data.
    """
    recorded = read(workdir) if started else None
    if recorded is not None:
        now = [_hashes(records.load_dataset(path)) for path in paths]
        for path, entry, hashes in zip(paths, recorded, now, strict=False):
            if entry["shards"] != hashes:
                raise UserError(
                    f"the data at {path} has changed since the run in {workdir} began; start another work directory"
                )
    processes.barrier("data")  # everybody has compared
    if not started and processes.is_first():
        atomic.write_text(epath.Path(workdir) / NAME, json.dumps({"datasets": [describe(path) for path in paths]}))
    processes.barrier("data is written")
