"""NumPy arrays (`.npy`) with a JSON sidecar of the same name. Nothing is unpickled: an object array is refused.

    {"sfreq": 250, "ch_names": ["Fz", "Cz"], "unit": "uV", "reference": "A1", "line_freq": 50,
     "highpass": 0.1, "lowpass": 100, "axes": "channels time", "events": [{"sample": 10, "code": "face"}],
     "labels": ["face", …]}

`sfreq` and `ch_names` are required. `axes` is "channels time" (default), "time channels" or "trials channels time";
`labels` are those of the trials.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from dreamjax.errors import UserError, nearest
from dreamjax.signals.recordings.readers.bids import reference_named
from dreamjax.signals.recordings.readers.recording import Contents, Event, Recording, Source, assemble, end_to_end
from dreamjax.signals.recordings.scrub import error_text
from dreamjax.storage import sniffing
from dreamjax.typing import JsonDict

UNITS = {"uV": 1.0, "µV": 1.0, "mV": 1e3, "V": 1e6, "nV": 1e-3}
AXES = ("channels time", "time channels", "trials channels time")
KEYS = ("sfreq", "ch_names", "ch_types", "unit", "reference", "line_freq", "highpass", "lowpass", "axes", "events",
        "labels")  # fmt: skip
ELSEWHERE = {"subject": "--subject-pattern", "session": "the path (ses-2)", "licence": "--licence",
             "dataset": "--dataset"}  # fmt: skip


def open_numpy(source: Source, strict: bool) -> Contents:
    """Open the array, memory-mapped, with the metadata of its sidecar."""
    path = source.path
    facts = sidecar(Path(path))
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as e:
        raise UserError(f"{path}: not a plain NumPy array ({error_text(e)}); save numbers with numpy.save") from e
    if array.size == 0:
        raise UserError(f"{path}: has shape {array.shape}, so it holds no signal; remove it from the input")
    if array.dtype.kind not in "fiu":
        raise UserError(f"{path}: holds {array.dtype}, not real numbers; save numbers with numpy.save")
    axes = facts.get("axes", "channels time" if array.ndim == 2 else "trials channels time")
    if axes not in AXES or array.ndim != len(axes.split()):
        raise UserError(f"{path}: has shape {array.shape} but axes {axes!r}; give axes as one of {AXES}")
    array = array.T if axes == "time channels" else array
    names, labels = facts["ch_names"], [str(label) for label in facts.get("labels", [])]
    if len(names) != array.shape[-2]:
        raise UserError(f"{path}: {array.shape[-2]} channels but {len(names)} ch_names in its sidecar; make them agree")
    n_trials = len(array) if array.ndim == 3 else 1
    if labels and len(labels) != n_trials:
        raise UserError(f"{path}: {n_trials} trials but {len(labels)} labels in its sidecar; make them agree")
    return replace(
        _contents(array, float(facts["sfreq"]), names, UNITS[facts.get("unit", "uV")]),
        types=facts.get("ch_types") or (),
        reference=reference_named(str(facts.get("reference", ""))),
        highpass=facts.get("highpass"),
        lowpass=facts.get("lowpass"),
        line_freq=facts.get("line_freq"),
        segment_labels=labels or ([""] * n_trials if array.ndim == 3 else []),
        events=[_event(e, path) for e in facts.get("events", [])],
    )


def _contents(
    array: Float[np.ndarray, "... channels time"], sfreq: float, ch_names: Sequence[str], factor: float = 1.0
) -> Contents:
    """Return contents over (channels, time), or over trials of such."""
    trials = array if array.ndim == 3 else array[None]
    return Contents(
        **end_to_end(trials.__getitem__, len(trials), trials.shape[2], factor),
        format="numpy",
        labels=[str(name) for name in ch_names],
        sfreq=sfreq,
        segment_labels=[""] * len(trials) if array.ndim == 3 else [],
        precut=array.ndim == 3,
    )


def recording_from_array(x: Float[np.ndarray, "..."], sfreq: float, ch_names: Sequence[str]) -> Recording:
    """Return a `Recording` over an array in memory, in µV: (channels, time) of one stretch, or trials of such.

    Raise UserError for another number of axes or channels, for numbers that are not real, and for a rate in Hz that is
    not positive.
    """
    array = np.asarray(x)
    if array.ndim not in (2, 3) or array.dtype.kind not in "fiu":
        raise UserError(
            f"the array has shape {array.shape} and type {array.dtype}; give real numbers as (channels, time) or "
            "(trials, channels, time)"
        )
    if len(ch_names) != array.shape[-2]:
        raise UserError(f"the array has {array.shape[-2]} channels, but ch_names has {len(ch_names)} names")
    if not 0 < sfreq < math.inf:
        raise UserError(f"sfreq is {sfreq}, but it must be a positive number of Hz")
    return assemble(Source("array", "numpy"), _contents(array, float(sfreq), ch_names))


def sidecar(path: Path) -> JsonDict:
    """Return the JSON next to `path`. Raise UserError where it is absent, not JSON, or has unknown or missing keys."""
    sidecar_path = path.with_suffix(".json")
    if not sidecar_path.is_file():
        raise UserError(f"{path}: needs a sidecar {sidecar_path.name} with at least sfreq and ch_names")
    facts = sniffing.read_json(epath.Path(sidecar_path), 'write {"sfreq": …, "ch_names": […]}')
    for key in facts:
        if key in ELSEWHERE:  # silently passed over, it would put one person into two splits
            raise UserError(f"{sidecar_path}: {key} is not read from a sidecar; say it by {ELSEWHERE[key]}")
        if key not in KEYS:
            raise UserError(
                f"{sidecar_path}: has the unknown key {key!r}; did you mean {nearest(key, KEYS) or ', '.join(KEYS)}?"
            )
    if missing := [key for key in ("sfreq", "ch_names") if key not in facts]:
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
