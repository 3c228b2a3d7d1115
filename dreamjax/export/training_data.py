"""What an exported model says about itself: corpora, licences, filters, channels. No names, no dates, no paths."""

import json
from typing import Any

import numpy as np
from etils import epath

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.runs import provenance
from dreamjax.signals.datasets import records
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.signals.recordings import montage

NAME = "provenance.json"  # in the directory of an imported run: what its source said


def corpora_of(data: DataConfig, workdir: epath.PathLike) -> dict[str, dict[str, Any]] | None:
    """Corpus → licences, recordings, hours, subjects of a run's datasets; None where one is not known.

    As the run recorded them when it began, else as they lie at the paths of its config.
    """
    recorded = provenance.read(workdir)
    try:
        found = (
            [provenance.corpora(path, records.load_dataset(path)) for path in data.path] if recorded is None else None
        )
    except UserError as problem:
        log.warning("the corpora of this model are unknown: %s", problem)
        return None
    corpora: dict[str, dict[str, Any]] = {}
    for entry in found if found is not None else [entry["corpora"] for entry in recorded or []]:
        for name, corpus in entry.items():
            licences = set(corpora.get(name, {}).get("licences", [])) | set(corpus["licences"])
            corpora[name] = {**corpus, "licences": sorted(licences)}
    return corpora or None


def steps_of(data: DataConfig, workdir: epath.PathLike) -> list[dict[str, Any]]:
    """For each dataset its preprocessing, and how many recordings have which band, line filter and reference."""
    recorded = provenance.read(workdir)
    if recorded is not None:
        return [entry["steps"] for entry in recorded]
    found = []
    for path in data.path:
        try:
            found.append(provenance.steps(records.load_dataset(path)))
        except UserError:
            continue
    return found


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
