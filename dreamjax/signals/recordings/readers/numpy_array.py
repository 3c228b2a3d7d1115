"""NumPy arrays (`.npy`) with a JSON sidecar of the same name. Nothing is unpickled: an object array is refused.

    {"sfreq": 250, "ch_names": ["Fz", "Cz"], "unit": "uV", "reference": "A1", "line_freq": 50,
     "highpass": 0.1, "lowpass": 100, "axes": "channels time", "events": [{"sample": 10, "code": "face"}],
     "labels": ["face", …]}

`sfreq` and `ch_names` are required. `axes` is "channels time" (default), "time channels" or "trials channels time";
`labels` are those of the trials.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from dreamjax.errors import UserError, nearest
from dreamjax.signals.recordings.readers.bids import reference_named
from dreamjax.signals.recordings.readers.recording import Contents, Event, Recording, Source, assemble
from dreamjax.signals.recordings.scrub import error_text
from dreamjax.typing import JsonDict

UNITS = {"uV": 1.0, "µV": 1.0, "mV": 1e3, "V": 1e6, "nV": 1e-3}
AXES = ("channels time", "time channels", "trials channels time")
KEYS = ("sfreq", "ch_names", "ch_types", "unit", "reference", "line_freq", "highpass", "lowpass", "axes", "events",
        "labels")  # fmt: skip
ELSEWHERE = {
    "subject": "--subject-pattern",
    "session": "the path (ses-2)",
    "licence": "--licence",
    "dataset": "--dataset",
}


def open_numpy(source: Source, strict: bool = False) -> Contents:
    """The array, memory-mapped, and what its sidecar says about it."""
    facts = sidecar(Path(source.path))
    try:
        array = np.load(source.path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as e:
        raise UserError(
            f"{source.path}: not a plain NumPy array ({error_text(e)}); save numbers with numpy.save"
        ) from e
    if array.dtype.kind not in "fiu":
        raise UserError(f"{source.path}: holds {array.dtype}, not real numbers; save numbers with numpy.save")
    axes = facts.get("axes", "channels time" if array.ndim == 2 else "trials channels time")
    if axes not in AXES or array.ndim != len(axes.split()):
        raise UserError(f"{source.path}: has shape {array.shape} but axes {axes!r}; give axes as one of {AXES}")
    order = [axes.split().index(axis) for axis in ("trials", "channels", "time") if axis in axes.split()]
    view = array.transpose(order) if array.ndim == 3 else array.transpose(order)[None]
    n_trials, n_channels, _ = view.shape
    names = facts["ch_names"]
    if len(names) != n_channels:
        raise UserError(
            f"{source.path}: {n_channels} channels but {len(names)} ch_names in its sidecar; make them agree"
        )
    factor = UNITS[facts.get("unit", "uV")]
    labels = [str(label) for label in facts.get("labels", [])]
    if labels and len(labels) != n_trials:
        raise UserError(f"{source.path}: {n_trials} trials but {len(labels)} labels in its sidecar; make them agree")

    return Contents(
        **of_trials(view, factor),
        format="numpy",
        labels=[str(name) for name in names],
        sfreq=float(facts["sfreq"]),
        types=facts.get("ch_types"),
        reference=reference_named(str(facts.get("reference", ""))),
        highpass=facts.get("highpass"),
        lowpass=facts.get("lowpass"),
        line_freq=facts.get("line_freq"),
        segment_labels=labels or ([""] * n_trials if array.ndim == 3 else []),
        precut=array.ndim == 3,
        events=[_event(e, source.path) for e in facts.get("events", [])],
    )


def of_trials(view: Float[np.ndarray, "trials channels time"], factor: float = 1.0) -> JsonDict:
    """Return the fields of `Contents` that say where the trials of an array lie, end to end, and how they are read."""
    n_trials, _, length = view.shape

    def read(start: int, stop: int, picks: Sequence[int]) -> Float[np.ndarray, "channels time"]:
        out = np.empty((len(picks), stop - start))
        for trial in range(start // length, -(-stop // length)):
            low, high = max(start, trial * length), min(stop, (trial + 1) * length)
            piece = view[trial, list(picks), low - trial * length : high - trial * length]
            out[:, low - start : high - start] = piece
        return out * factor

    segments = [(i * length, (i + 1) * length) for i in range(n_trials)]
    return {"n_samples": n_trials * length, "reader": read, "segments": segments}


def recording_from_array(
    x: Float[np.ndarray, "..."], sfreq: float, ch_names: Sequence[str], *, unit: str = "uV"
) -> Recording:
    """Return a `Recording` over an array in memory.

    Args:
        x: (channels, time) of one stretch, or (trials, channels, time).
        sfreq: Hz.
        ch_names: one for each channel.
        unit: of the array, of `UNITS`.

    Raises:
        UserError: for another number of axes or channels, for numbers that are not real, and for a rate that is not
            positive.
    """
    array = np.asarray(x)
    if array.ndim not in (2, 3) or array.dtype.kind not in "fiu":
        raise UserError(
            f"the array has shape {array.shape} and type {array.dtype}; give real numbers as (channels, time) or "
            "(trials, channels, time)"
        )
    view = array if array.ndim == 3 else array[None]
    if len(ch_names) != view.shape[1]:
        raise UserError(f"the array has {view.shape[1]} channels, but ch_names has {len(ch_names)} names")
    if not 0 < sfreq < math.inf:
        raise UserError(f"sfreq is {sfreq}, but it must be a positive number of Hz")
    trials = array.ndim == 3
    contents = Contents(
        **of_trials(view, UNITS[unit]),
        format="numpy",
        labels=[str(name) for name in ch_names],
        sfreq=float(sfreq),
        segment_labels=[""] * len(view) if trials else [],
        precut=trials,
    )
    return assemble(Source("array", "numpy"), contents)


def sidecar(path: Path) -> JsonDict:
    """The checked JSON beside `path`.

    Raises:
      UserError: absent, not JSON, an unknown key, or a required one missing.
    """
    sidecar_path = path.with_suffix(".json")
    if not sidecar_path.exists():
        raise UserError(f"{path}: needs a sidecar {sidecar_path.name} with at least sfreq and ch_names")
    try:
        facts = json.loads(sidecar_path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise UserError(f"{sidecar_path}: not JSON ({error_text(e)}); repair it") from e
    if not isinstance(facts, dict):
        raise UserError(f'{sidecar_path}: not a JSON object; write {{"sfreq": …, "ch_names": […]}}')
    for key in facts:
        if key in ELSEWHERE:  # silently passed over, it would put one person into two splits
            raise UserError(f"{sidecar_path}: {key} is not read from a sidecar; say it by {ELSEWHERE[key]}")
        if key not in KEYS:
            raise UserError(
                f"{sidecar_path}: has the unknown key {key!r}; did you mean {nearest(key, KEYS) or ', '.join(KEYS)}?"
            )
    missing = [key for key in ("sfreq", "ch_names") if key not in facts]
    if missing:
        raise UserError(f"{sidecar_path}: lacks {' and '.join(missing)}; add what the amplifier was set to")
    rate = facts["sfreq"]
    if not isinstance(rate, int | float) or not math.isfinite(rate) or rate <= 0:
        raise UserError(f"{sidecar_path}: sfreq is {rate!r}, not a positive number of Hz")
    if facts.get("unit", "uV") not in UNITS:
        raise UserError(f"{sidecar_path}: unit is {facts['unit']!r}; it can be {', '.join(UNITS)}")
    return facts


def _event(event: Any, path: str) -> Event:
    try:
        return Event(int(event["sample"]), float(event.get("duration", 0)), str(event["code"]),
                     str(event.get("stimulus", "")))  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise UserError(f"{path}: an event of its sidecar is {event!r}; write sample and code") from e
