"""What a run says about the recordings that it was trained on, without names, dates and paths: for model cards."""

import contextlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.runs import provenance
from dreamjax.signals.datasets import records
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.signals.recordings import montage

NAME = "provenance.json"  # in the directory of an imported run: its source, and what that says of its training


def corpora_of(paths: Sequence[str], workdir: epath.PathLike) -> dict[str, dict[str, Any]] | None:
    """Return corpus → licences, recordings, hours, subjects of a run's datasets; None where one is not known.

    As the run, or the source of an imported one, recorded them; else as they lie at `paths`.
    """
    if source := imported(workdir):
        return source.get("corpora")
    recorded = provenance.read(workdir)
    try:
        if recorded is None:
            entries = [provenance.corpora(path, records.load_dataset(path)) for path in paths]
        else:
            entries = [entry["corpora"] for entry in recorded]
    except UserError as problem:
        log.warning("the corpora of this model are unknown: %s", problem)
        return None
    corpora: dict[str, dict[str, Any]] = {}
    for entry in entries:
        for name, corpus in entry.items():
            licences = set(corpora.get(name, {}).get("licences", [])) | set(corpus["licences"])
            corpora[name] = {**corpus, "licences": sorted(licences)}
    return corpora or None


def steps_of(paths: Sequence[str], workdir: epath.PathLike) -> list[dict[str, Any]]:
    """Return each dataset's preprocessing, and how many recordings have which band, line filter and reference."""
    if source := imported(workdir):
        return source.get("preprocessing", [])
    recorded = provenance.read(workdir)
    if recorded is not None:
        return [entry["steps"] for entry in recorded]
    steps = []
    for path in paths:
        with contextlib.suppress(UserError):
            steps.append(provenance.steps(records.load_dataset(path)))
    return steps


def reference_of(steps: Sequence[Mapping[str, Any]]) -> str:
    """Return the reference that the windows had, in words."""
    counts: Counter[str] = Counter()
    for entry in steps:
        counts.update({str(json.loads(name)): count for name, count in entry["references"].items()})
    return ", ".join(f"{name} ({count} recordings)" for name, count in sorted(counts.items())) or "unknown"


def channels_of(data: DataConfig, workdir: epath.PathLike, channels: int) -> list[dict[str, Any]] | None:
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


def _channel(name: str, position: np.ndarray) -> dict[str, Any]:
    """Return one entry of `mne.Info["chs"]`: MNE's readers give EEG in volts, and this model takes µV."""
    channel: dict[str, Any] = {"ch_name": name, "kind": 2, "coil_type": 1, "unit": 107, "unit_mul": -6}
    if np.isfinite(position).all():
        channel["loc"] = [round(float(x), 6) for x in position] + [0.0] * 9
    return channel


def imported(workdir: epath.PathLike) -> dict[str, Any]:
    """Return what the source of an imported run says; empty for a run that dreamjax trained."""
    path = epath.Path(workdir) / NAME
    return json.loads(path.read_text()) if path.exists() else {}
