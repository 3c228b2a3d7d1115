"""What an exported model says about itself: corpora, licences, filters, channels. No names, no dates, no paths."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.signals import montage, records
from dreamjax.signals.pipeline import DataConfig

NAME = "provenance.json"  # in the directory of an imported run: what its source said
STEPS = ("low", "high", "notch", "sfreq", "reference", "causal")  # of dataset.json's settings


def corpora_of(data: DataConfig) -> dict[str, dict[str, Any]] | None:
    """Corpus → licences, recordings, hours, subjects of the datasets of a config; None where one cannot be read."""
    corpora: dict[str, dict[str, Any]] = {}
    for path in data.path:
        try:
            dataset = records.load_dataset(path)
        except UserError as problem:
            log.warning("the corpora of this model are unknown: %s", problem)
            return None
        found = dataset.get("corpora") or _from_records(path, dataset)
        for name, corpus in found.items():
            licences = set(corpora.get(name, {}).get("licences", [])) | set(corpus["licences"])
            corpora[name] = {**corpus, "licences": sorted(licences)}
    return corpora or None


def _from_records(path: str, dataset: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The same from the records themselves, for a dataset that another tool has written."""
    licences: dict[str, set[str]] = {}
    subjects: dict[str, set[str]] = {}
    for split in dataset["splits"]:
        for window in records.read_windows(path, split):
            licences.setdefault(window.dataset, set()).add(window.licence)
            subjects.setdefault(window.dataset, set()).add(window.subject)
    return {name: {"licences": sorted(found), "subjects": len(subjects[name])} for name, found in licences.items()}


def steps_of(data: DataConfig) -> list[dict[str, Any]]:
    """For each dataset its preprocessing, and how many recordings have which band, line filter and reference."""
    found = []
    for path in data.path:
        try:
            dataset = records.load_dataset(path)
        except UserError:
            continue
        settings = dataset.get("settings", {})
        plans = [entry.get("plan", {}) for entry in dataset.get("inputs", [])]
        found.append(
            {
                "dataset": dataset["name"],
                "settings": {name: settings[name] for name in STEPS if name in settings},
                "bands": _counted(plan.get("band") for plan in plans),
                "line": _counted(plan.get("line") for plan in plans),
                "references": _counted(plan.get("reference") for plan in plans),
            }
        )
    return found


def _counted(values: Any) -> dict[str, int]:
    return dict(sorted(Counter(json.dumps(value) for value in values).items()))


def channels_of(data: DataConfig, channels: int) -> list[dict[str, Any]] | None:
    """`chs_info` as MNE and braindecode have it: names and known places in metres. None where tiled or unknown."""
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
    return [_channel(name, place) for name, place in zip(names, np.asarray(xyz, float), strict=True)]


def _first_window(data: DataConfig) -> records.Window | None:
    for path in data.path:
        try:
            dataset = records.load_dataset(path)
            return records.read_windows(path, next(iter(dataset["splits"])))[0]
        except UserError:
            continue
    return None


def _channel(name: str, place: np.ndarray) -> dict[str, Any]:
    """One entry of `mne.Info["chs"]`: an EEG channel in volts is what MNE's readers give, µV what this model takes."""
    channel: dict[str, Any] = {"ch_name": name, "kind": 2, "coil_type": 1, "unit": 107, "unit_mul": -6}
    if np.isfinite(place).all():
        channel["loc"] = [round(float(x), 6) for x in place] + [0.0] * 9
    return channel


def read(workdir: epath.PathLike) -> dict[str, Any]:
    """What the source of an imported run said; empty for a run of our own."""
    path = epath.Path(workdir) / NAME
    return json.loads(path.read_text()) if path.exists() else {}
