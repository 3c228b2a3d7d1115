"""NumPy arrays (`.npy`) with a JSON sidecar of the same name. Nothing is unpickled: an object array is refused.

    {"sfreq": 250, "ch_names": ["Fz", "Cz"], "unit": "uV", "reference": "A1", "line_freq": 50,
     "highpass": 0.1, "lowpass": 100, "axes": "channels time", "events": [{"sample": 10, "code": "face"}],
     "labels": ["face", …]}

`sfreq` and `ch_names` are required. `axes` names the axes in their order (default: "channels time", of three axes
"trials channels time"); `labels` are those of the trials. A channel of type `stim`, or with such a name, becomes events
where the sidecar lists none.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from dreamjax.errors import UserError, nearest
from dreamjax.signals.recordings.events import add_stim_events
from dreamjax.signals.recordings.readers.bids import reference_named
from dreamjax.signals.recordings.readers.recording import (
    Contents,
    Event,
    Recording,
    Source,
    assemble,
    end_to_end,
    settle_names,
)
from dreamjax.signals.recordings.scrub import error_text
from dreamjax.signals.recordings.units import microvolts
from dreamjax.storage import sniffing
from dreamjax.typing import JsonDict

UNITS = ("uV", "µV", "mV", "V", "nV")
AXES = tuple(
    " ".join(order) for words in (("channels", "time"), ("trials", "channels", "time"))
    for order in itertools.permutations(words)
)  # fmt: skip
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
    return with_sidecar(array, facts, path, "numpy")


def with_sidecar(array: np.ndarray, facts: JsonDict, path: str, format_: str) -> Contents:
    """Return the contents of an array with its sidecar's metadata. Raise UserError where they contradict each other."""
    if array.size == 0:
        raise UserError(f"{path}: has shape {array.shape}, so it holds no signal; remove it from the input")
    if array.dtype.kind not in "fiu":
        raise UserError(f"{path}: holds {array.dtype}, not real numbers; save the signal as numbers")
    axes = str(facts.get("axes", "channels time" if array.ndim == 2 else "trials channels time"))
    order = axes.split()
    if " ".join(order) not in AXES or array.ndim != len(order):
        raise UserError(f"{path}: has shape {array.shape} but axes {axes!r}; give axes as one of {', '.join(AXES)}")
    array = array.transpose([order.index(axis) for axis in ("trials", "channels", "time") if axis in order])
    names, labels = [str(name) for name in facts["ch_names"]], [str(label) for label in facts.get("labels", [])]
    types = [str(kind).lower() for kind in facts.get("ch_types") or ()]
    if len(names) != array.shape[-2]:
        if len(names) == array.shape[-1]:
            turned = " ".join([*order[:-2], order[-1], order[-2]])
            raise UserError(
                f"{path}: has shape {array.shape} as {axes!r}, but {len(names)} ch_names in its sidecar; if its "
                f'channels are the other axis, add "axes": "{turned}"'
            )
        raise UserError(f"{path}: {array.shape[-2]} channels but {len(names)} ch_names in its sidecar; make them agree")
    if types and len(types) != len(names):
        raise UserError(f"{path}: {len(types)} ch_types but {len(names)} ch_names in its sidecar; make them agree")
    n_trials = len(array) if array.ndim == 3 else 1
    if labels and len(labels) != n_trials:
        raise UserError(f"{path}: {n_trials} trials but {len(labels)} labels in its sidecar; make them agree")
    return replace(
        _contents(array, float(facts["sfreq"]), names, microvolts(str(facts.get("unit", "uV"))) or 1.0, types),
        format=format_,
        reference=reference_named(str(facts.get("reference", ""))),
        highpass=facts.get("highpass"),
        lowpass=facts.get("lowpass"),
        line_freq=facts.get("line_freq"),
        segment_labels=labels or ([""] * n_trials if array.ndim == 3 else []),
        events=events_listed(facts, path),
    )


def _contents(
    array: Float[np.ndarray, "... channels time"],
    sfreq: float,
    ch_names: Sequence[str],
    factor: float = 1.0,
    types: Sequence[str] = (),
) -> Contents:
    """Return contents over (channels, time), or over trials of such; the codes of a stimulus channel have no unit."""
    trials = array if array.ndim == 3 else array[None]
    kinds = settle_names(ch_names, types)[1]
    factors = np.array([[1.0] if kind == "stim" else [factor] for kind in kinds]).reshape(-1, 1)
    return Contents(
        **end_to_end(trials.__getitem__, len(trials), trials.shape[2], factors),
        format="numpy",
        labels=[str(name) for name in ch_names],
        types=types,
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
    contents = _contents(array, float(sfreq), ch_names)
    add_stim_events(contents)
    return assemble(Source("array", "numpy"), contents)


def sidecar(path: Path, more: Sequence[str] = (), required: Sequence[str] = ("sfreq", "ch_names")) -> JsonDict:
    """Return the JSON next to `path`. Raise UserError where it is absent, not JSON, or has unknown or missing keys.

    `more`: the keys of this format alone. A table that names its channels and has a clock needs no sidecar.
    """
    sidecar_path = sidecar_of(path)
    if not sidecar_path.is_file():
        if not required:
            return {}
        raise UserError(f"{path}: needs a sidecar {sidecar_path.name} with at least sfreq and ch_names")
    facts = sniffing.read_json(epath.Path(sidecar_path), 'write {"sfreq": …, "ch_names": […]}')
    for key in facts:
        if key in ELSEWHERE:  # silently passed over, it would put one person into two splits
            raise UserError(f"{sidecar_path}: {key} is not read from a sidecar; say it by {ELSEWHERE[key]}")
        known = (*KEYS, *more)
        if key not in known:
            raise UserError(
                f"{sidecar_path}: has the unknown key {key!r}; did you mean {nearest(key, known) or ', '.join(known)}?"
            )
    if missing := [key for key in required if key not in facts]:
        raise UserError(f"{sidecar_path}: lacks {' and '.join(missing)}; add what the amplifier was set to")
    for key in ("ch_names", "ch_types", "labels", "events"):
        if not isinstance(facts.get(key, []), list):
            raise UserError(f"{sidecar_path}: {key} is {facts[key]!r}; write a list")
    rate = facts.get("sfreq", 1)
    if not isinstance(rate, int | float) or not math.isfinite(rate) or rate <= 0:
        raise UserError(f"{sidecar_path}: sfreq is {rate!r}, not a positive number of Hz")
    if str(facts.get("unit", "uV")).replace("\u03bc", "\u00b5") not in UNITS:  # either of the two signs for µ
        raise UserError(f"{sidecar_path}: unit is {facts['unit']!r}; it can be {', '.join(UNITS)}")
    return facts


def sidecar_of(path: Path) -> Path:
    """Return the path of the sidecar: `x.json` of `x.npy`, `x.mat` and `x.csv.gz`."""
    return path.with_name(path.name.removesuffix(".gz")).with_suffix(".json")


def events_listed(facts: JsonDict, path: str) -> list[Event]:
    """Return the events that a sidecar lists."""
    return sorted((_event(event, path) for event in facts.get("events", [])), key=lambda event: event.sample)


def _event(event: Any, path: str) -> Event:
    try:
        return Event(int(event["sample"]), float(event.get("duration", 0)), str(event["code"]),
                     str(event.get("stimulus", "")))  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise UserError(f"{path}: an event of its sidecar is {event!r}; write sample and code") from e
