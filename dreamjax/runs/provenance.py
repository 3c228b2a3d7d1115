"""The recordings that a run was trained on: to recognise people in evaluations, and for model cards.

data.json in the work directory is written when training begins: shards can be prepared again at the same path with
other people in their splits, and then only this file records the people a run was trained on. It holds the pseudonyms
and hashes of dataset.json, and no other personal data. provenance.json is that of an imported run.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.metrics.leakage import Dataset, People
from dreamjax.parallel import processes
from dreamjax.signals.datasets import records
from dreamjax.signals.datasets.copied import Copied
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.signals.recordings import identity, montage
from dreamjax.storage import manifest, presence, sniffing
from dreamjax.typing import JsonDict

NAME = "data.json"
IMPORTED = "provenance.json"  # in the directory of an imported run: its source, and what is known of its training
STEPS = ("low", "high", "notch", "sfreq", "reference", "causal")  # of dataset.json's settings


def people(folder: str, split: str) -> People:
    """Return the people of a split of a dataset folder: from dataset.json if it lists them, else from records.

    An unknown subject is replaced by its recording (`identity.unit`).
    """
    dataset = records.load_dataset(folder)
    if split not in dataset["splits"]:
        return People()
    inputs = [entry for entry in dataset.get("inputs", []) if entry.get("split") == split]
    files = frozenset(entry["sha256"] for entry in inputs if entry.get("sha256"))
    if inputs and all("subject" in entry for entry in inputs):
        return People(frozenset(_unit(entry) for entry in inputs), files)
    windows = records.read_windows(folder, split)
    return People(frozenset(identity.unit(window.subject, window.recording) for window in windows), files)


def _unit(entry: JsonDict) -> str:
    return identity.unit(entry["subject"], entry.get("recording", ""))


def _corpora(folder: str, dataset: JsonDict) -> dict[str, JsonDict]:
    """Return corpus → licences, subjects and more; from the records where another tool has written the dataset."""
    if dataset.get("corpora"):
        return dataset["corpora"]
    licences: dict[str, set[str]] = {}
    subjects: dict[str, set[str]] = {}
    for split in dataset["splits"]:
        for window in records.read_windows(folder, split):
            licences.setdefault(window.dataset, set()).add(window.licence)
            unit = identity.unit(window.subject, window.recording)
            subjects.setdefault(window.dataset, set()).add(unit)
    corpora: dict[str, JsonDict] = {}
    for name, names in licences.items():
        unknown = identity.unknown_units(subjects[name])
        corpora[name] = {"licences": sorted(names), "subjects": len(subjects[name]) - unknown}
        corpora[name] |= {"recordings_of_unknown_subjects": unknown} if unknown else {}
    return corpora


def _steps(dataset: JsonDict) -> JsonDict:
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


def describe(folder: str) -> JsonDict:
    """Return the entry of data.json for one dataset folder, as it is now."""
    dataset = records.load_dataset(folder)
    trained = people(folder, "train")
    return {
        "path": folder,
        "name": dataset["name"],
        "shards": _hashes(dataset),  # shard → SHA-256
        "train": {"subjects": sorted(trained.subjects), "files": sorted(trained.files)},
        "corpora": _corpora(folder, dataset),
        "steps": _steps(dataset),
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


def read(workdir: epath.PathLike) -> list[JsonDict] | None:
    """Return the datasets that a run was trained on; None for a run without data.json."""
    path = epath.Path(workdir) / NAME
    if not presence.exists(path):
        return None
    try:
        entries = manifest.unsealed(json.loads(path.read_text()), path)["datasets"]
        for entry in entries:
            _ = entry["shards"], entry["train"]["subjects"], entry["train"]["files"], entry["corpora"], entry["steps"]
        return entries
    except (ValueError, KeyError, TypeError) as problem:
        raise UserError(f"{path} is damaged; restore it from a copy, or train in another work directory") from problem


def dataset(folder: str) -> Dataset:
    """Return all people of a dataset folder."""
    listed = records.load_dataset(folder)
    files: dict[str, frozenset[str]] = {}
    for entry in listed.get("inputs", []):
        if entry.get("sha256") and "subject" in entry:
            files[_unit(entry)] = files.get(_unit(entry), frozenset()) | {entry["sha256"]}
    subjects = frozenset().union(*(people(folder, split).subjects for split in listed["splits"]))
    return Dataset(subjects, files, Copied.of([folder]).sharing())


def trained_on(paths: Sequence[str], workdir: str | None = None) -> tuple[People, ...] | None:
    """Return the people trained on, by dataset: from the run in `workdir`, else those of the current training splits.

    None where a path no longer exists, or none is given.
    """
    recorded = None if workdir is None else read(workdir)
    if recorded is not None:
        parts = (entry["train"] for entry in recorded)
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

    A run begun by a version without data.json gets none: its data are unknown. Raise UserError for changed data.
    """
    if started:
        check(workdir, paths)
    processes.barrier("data")  # all have compared
    if not started and processes.is_first():
        manifest.write_json(epath.Path(workdir) / NAME, {"datasets": [describe(path) for path in paths]})
    processes.barrier("data is written")


def check(workdir: epath.PathLike, paths: Sequence[str]) -> None:
    """Raise UserError where the datasets at `paths` are not those that the run recorded in data.json, if it has one."""
    for path, entry in zip(paths, read(workdir) or (), strict=False):
        if entry["shards"] != _hashes(records.load_dataset(path)):
            raise UserError(
                f"the data at {path} has changed since the run in {workdir} began; start another work directory"
            )


# ------------------------------------------------------------------------------------------------------ for model cards
def imported(workdir: epath.PathLike) -> JsonDict:
    """Return the provenance of an imported run; empty for a run that dreamjax trained."""
    path = epath.Path(workdir) / IMPORTED
    return sniffing.read_json(path, "import the checkpoint again") if presence.exists(path) else {}


def training_of(paths: Sequence[str], workdir: epath.PathLike) -> tuple[dict[str, JsonDict] | None, list[JsonDict]]:
    """Return what a run's datasets are made of: (corpora, preprocessing).

    Corpora: name → licences, recordings, hours, subjects; None where one is not known. Preprocessing: of each dataset,
    and how many recordings have which band, line filter and reference. As the run, or the source of an imported one,
    recorded them; else as they lie at `paths`.
    """
    if source := imported(workdir):
        return source.get("corpora"), source.get("preprocessing", [])
    recorded = read(workdir)
    entries = [entry["corpora"] for entry in recorded or ()]
    steps = [entry["steps"] for entry in recorded or ()]
    known = True
    for path in paths if recorded is None else ():
        try:
            dataset = records.load_dataset(path)
            steps.append(_steps(dataset))
            entries.append(_corpora(path, dataset))
        except UserError as problem:
            log.warning("the corpora of this model are unknown: %s", problem)
            known = False
    corpora: dict[str, JsonDict] = {}
    for name, corpus in (item for entry in entries for item in entry.items()):
        licences = set(corpora.get(name, {}).get("licences", [])) | set(corpus["licences"])
        corpora[name] = {**corpus, "licences": sorted(licences)}
    return (corpora or None) if known else None, steps


def reference_of(steps: Sequence[Mapping[str, Any]]) -> str:
    """Return the reference that the windows had, in words."""
    counts: Counter[str] = Counter()
    for entry in steps:
        counts.update({str(json.loads(name)): count for name, count in entry["references"].items()})
    return ", ".join(f"{name} ({count} recordings)" for name, count in sorted(counts.items())) or "unknown"


def channels_of(data: DataConfig, workdir: epath.PathLike, channels: int) -> list[JsonDict] | None:
    """Return `chs_info` as MNE and braindecode have it: names, and positions in metres where they are known.

    None where channels are tiled or unknown.
    """
    if known := imported(workdir).get("channels"):
        return known
    if data.mapping == "tile":
        return None
    if data.montage != "own":
        names, xyz = montage.template(data.montage)
    else:
        window = _first_window(data)
        if window is None:
            return None
        names, xyz = window.ch_names, window.xyz
    if len(names) != channels:
        return None
    return [_channel(name, position) for name, position in zip(names, np.asarray(xyz, float), strict=True)]


def _first_window(data: DataConfig) -> records.Window | None:
    for path in data.path:
        try:
            dataset = records.load_dataset(path)
            return records.read_windows(path, next(iter(dataset["splits"])))[0]
        except UserError:
            continue
    return None


def _channel(name: str, position: np.ndarray) -> JsonDict:
    """Return one entry of `mne.Info["chs"]`: MNE's readers give EEG in volts, and this model takes µV."""
    channel: JsonDict = {"ch_name": name, "kind": 2, "coil_type": 1, "unit": 107, "unit_mul": -6}
    if np.isfinite(position).all():
        channel["loc"] = [round(float(x), 6) for x in position] + [0.0] * 9
    return channel
