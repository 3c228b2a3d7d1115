"""Read BIDS sidecars (EEG-BIDS, Pernet et al. 2019), which take precedence over the recording's own header.

`*_channels.tsv` (types, bad channels), `*_electrodes.tsv` with `*_coordsystem.json` (positions), `*_events.tsv`,
`*_eeg.json` (line frequency, reference, filters), each looked for in the recording's folder and in the folders above
it (the inheritance principle). All of them are optional.
"""

import json
import re
from collections import ChainMap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from dreamjax.console import counted
from dreamjax.errors import UserError
from dreamjax.signals.recordings.events import ABSENT, events_of_table, number, read_table
from dreamjax.signals.recordings.montage import names_other_sensor, standard_name
from dreamjax.signals.recordings.readers.meg_sensors import MEG
from dreamjax.signals.recordings.readers.modalities import BTI
from dreamjax.signals.recordings.readers.recording import Contents, listed, rescale
from dreamjax.signals.recordings.scrub import error_text
from dreamjax.signals.recordings.units import microvolts
from dreamjax.typing import JsonDict

_KINDS = {"eeg": "EEG", "eog": "EOG VEOG HEOG", "ecg": "ECG", "emg": "EMG", "stim": "TRIG", "ref": "REF",
          "seeg": "SEEG", "ecog": "ECOG", "dbs": "DBS", "mag": "MEGMAG", "grad_axial": "MEGGRADAXIAL",
          "grad_planar": "MEGGRADPLANAR", "ref_meg": "MEGREFMAG MEGREFGRADAXIAL MEGREFGRADPLANAR",
          "misc": "EYEGAZE MISC GSR RESP PPG TEMP PUPIL AUDIO SYSCLOCK ADC DAC OTHER"}  # fmt: skip
TYPES = {name: kind for kind, names in _KINDS.items() for name in names.split()}  # of channels.tsv
SPDX = {"cc0": "CC0-1.0", "cc0 1.0": "CC0-1.0", "cc-0": "CC0-1.0", "pddl": "PDDL-1.0", "cc-by": "CC-BY-4.0",
        "cc by 4.0": "CC-BY-4.0", "cc-by-4.0": "CC-BY-4.0", "cc by": "CC-BY-4.0", "cc-by-sa-4.0": "CC-BY-SA-4.0",
        "cc by-sa 4.0": "CC-BY-SA-4.0", "cc-by-nc-4.0": "CC-BY-NC-4.0", "odc-by": "ODC-By-1.0"}  # fmt: skip
FACTS = ("_eeg.json", "_meg.json")
LICENCE = re.compile(
    r"(CC0|CC-BY(-NC)?(-SA|-ND)?|ODC-By|ODbL|PDDL|CDLA-(Permissive|Sharing)|OGL-UK|etalab|MIT|Apache|BSD|[AL]?GPL|MPL|EUPL)"
    r"(-\d[\d.]*)?(-Clause|-only|-or-later)?"
)  # the field is free text
UNITLESS = ("eeglab",)  # formats whose header has no units; others that fill no `Contents.units` imply them
VOLTAGES = ("eeg", "eog", "ecg", "emg", "ref", "seeg", "ecog", "dbs")
METRES = {
    f"{prefix}{word}": factor
    for prefixes, factor in ((("", ""), 1.0), (("c", "centi"), 1e-2), (("m", "milli"), 1e-3))
    for prefix, words in zip(prefixes, (("m",), ("meter", "meters", "metre", "metres")), strict=True)
    for word in words
}  # m, meters, mm, millimetres, …
ALS = ("CTF", "EEGLAB", "EEGLAB-HJ", "KitYokogawa", "4DBti")  # x to the nose, y to the left
RAS = ("CapTrak", "ElektaNeuromag")  # x to the right, y to the nose: MNE's head frame when drawn between the ears


def bids_root(path: Path) -> Path | None:
    """Return the nearest folder above `path` with a dataset_description.json."""
    return next((p for p in path.absolute().parents if (p / "dataset_description.json").is_file()), None)


def licence_of(root: Path) -> str:
    """Return the SPDX id of a BIDS dataset's licence; "unknown" where it states none, or an unknown id."""
    text = str(_json(root / "dataset_description.json").get("License", "")).strip()
    if text.lower() in SPDX:
        return SPDX[text.lower()]
    return text if LICENCE.fullmatch(text) else "unknown"


def entities(name: str) -> dict[str, str]:
    """Return a name's entities: `sub-01_ses-2_task-rest_eeg.edf` → {"sub": "01", "ses": "2", "task": "rest"}."""
    return dict(part.split("-", 1) for part in name.split(".")[0].split("_") if "-" in part)


def sidecars(path: Path, suffix: str) -> Iterator[Path]:
    """Yield the sidecars of a recording that end in `suffix`, nearest first: same entities, in its folder or above."""
    root = bids_root(path)
    if BTI.fullmatch(path.name):  # in BIDS its folder has the recording's name
        path = path.parent
    mine = entities(path.name)
    if root is None or "sub" not in mine:
        return
    for folder in path.absolute().parents:
        names = [n for n in _files(folder, folder.stat().st_mtime_ns) if n == suffix[1:] or n.endswith(suffix)]
        for name in sorted(names, key=len, reverse=True):
            theirs = entities(name)
            if all(mine.get(key) == value for key, value in theirs.items() if key not in ("space", "recording")):
                yield folder / name
        if folder == root:
            return


@lru_cache(maxsize=64)
def _files(folder: Path, stamp: int) -> tuple[str, ...]:
    return tuple(entry.name for entry in folder.iterdir() if entry.is_file())


def apply_sidecars(path: Path, contents: Contents) -> Contents:
    """Return `contents` with the sidecars of `path` applied. Raise UserError for an unreadable one, with its row."""
    if path.name.split(".")[0].endswith(
        "_ieeg"
    ):  # channels that such a file calls EEG, or gives no type, are intracranial
        kinds = contents.types or ["misc" if names_other_sensor(label) else "eeg" for label in contents.labels]
        contents.types = ["seeg" if kind == "eeg" else kind for kind in kinds]
    if sidecar := next(sidecars(path, "_channels.tsv"), None):
        _channels(sidecar, contents)
    facts = [_json(file) for end in FACTS for file in sidecars(path, end)]
    _facts(dict(ChainMap(*facts)), contents)  # the nearest wins
    if sidecar := next(sidecars(path, "_electrodes.tsv"), None):
        system = next(sidecars(path, "_coordsystem.json"), None)
        _electrodes(sidecar, _json(system) if system else {}, contents)
    if sidecar := next(sidecars(path, "_events.tsv"), None):
        contents.events, left_out = events_of_table(sidecar, contents.sfreq, contents.n_samples)
        contents.free_text = ()  # the table names all events
        if left_out:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
            contents.notes.append(f"{counted(left_out.total(), 'row')} of events.tsv left out: {reasons}")
    return contents


def _channels(table: Path, contents: Contents) -> None:
    rows = {row.get("name", ""): row for row in read_table(table)}
    types, bad = list(contents.types) or ["eeg"] * len(contents.labels), list(contents.bad)
    for i, label in enumerate(contents.labels):
        row = rows.get(label.strip(), {})
        kind = TYPES.get(row.get("type", "").upper(), types[i])
        if types[i] not in MEG or kind == "misc":  # the coil type in the file says more than the table
            types[i] = kind
        if row.get("status", "").lower() == "bad":
            bad.append(label)
    contents.types, contents.bad = types, bad
    _units([rows.get(label.strip(), {}).get("units", "") for label in contents.labels], contents)


def _units(stated: Sequence[str], contents: Contents) -> None:
    """Read channels in the units of channels.tsv where the header of the file states none, and name contradictions."""
    headers = contents.units or [""] * len(contents.labels)
    if not contents.units and contents.format not in UNITLESS:
        return
    lines: dict[str, list[str]] = {}
    factors = [1.0] * len(contents.labels)
    for i, (unit, header, kind) in enumerate(zip(stated, headers, contents.types, strict=True)):
        by_table, by_header = microvolts(unit), microvolts(header)
        if unit.lower() in ABSENT or kind not in VOLTAGES:
            continue
        if by_table is None:
            line = f"units {unit!r} in channels.tsv is not one of voltage, not used"
        elif by_header is not None and by_table != by_header:
            line = f"units {unit!r} in channels.tsv contradicts {header!r} in the header, which is used"
        elif by_header is None and by_table != 1:
            factors[i], line = (
                by_table,
                f"read in {unit} as channels.tsv says, since the header states no unit of voltage",
            )
        else:
            continue
        lines.setdefault(line, []).append(contents.labels[i])
    contents.notes += [f"{counted(len(names), 'channel')} ({listed(names)}): {line}" for line, names in lines.items()]
    rescale(contents, factors)


def _facts(facts: JsonDict, contents: Contents) -> None:
    with suppress(ValueError):  # n/a
        line = number(str(facts.get("PowerLineFrequency")).lower().removesuffix("hz"))
        contents.line_freq = line if 40 <= line <= 70 else contents.line_freq
    if reference := reference_named(str(facts.get("EEGReference", ""))):
        contents.reference = reference
    for filters in (facts.get("HardwareFilters"), facts.get("SoftwareFilters")):
        high, low = filter_edges(filters)
        contents.highpass = max(filter(None, (contents.highpass, high)), default=None)
        contents.lowpass = min(filter(None, (contents.lowpass, low)), default=None)


def reference_named(text: str) -> str | None:
    """Return the reference in BIDS's free text, reduced to site names and a few words, so that no prose is kept."""
    lower = text.lower()
    if "average" in lower or "car" in re.split(r"\W+", lower):
        return "average"
    for word, name in (("mastoid", "linked mastoids"), ("ear", "linked ears")):
        if "linked" in lower and word in lower:
            return name
    sites = [standard_name(word) for word in re.split(r"[\s,;/+()]+", text)]
    named = sorted({site for site in sites if site})
    return "+".join(named) if 0 < len(named) <= 2 else None


def filter_edges(filters: Any) -> tuple[float | None, float | None]:
    """Return (highpass, lowpass) in Hz from BIDS's free-form filter objects; None where they are not stated."""
    edges: dict[str, float | None] = {"high": None, "low": None}
    for name, details in filters.items() if isinstance(filters, dict) else ():
        kind = next((k for k in edges if re.search(rf"{k}[-_ ]?pass|{k}[-_ ]?cut", str(name), re.IGNORECASE)), None)
        values = details.values() if isinstance(details, dict) else [details]
        numbers = [float(v) for v in values if isinstance(v, int | float) and 0 < v < 1e5]
        if kind and numbers and edges[kind] is None:
            edges[kind] = numbers[0]
    return edges["high"], edges["low"]


def _electrodes(table: Path, system: JsonDict, contents: Contents) -> None:
    name = str(system.get("EEGCoordinateSystem", ""))
    unit = METRES.get(str(system.get("EEGCoordinateUnits", "")).strip().lower())
    landmarks = system.get("AnatomicalLandmarkCoordinates") or system.get("AnatomicalLandmarkCoordinates ") or {}
    xyz = np.full((len(contents.labels), 3), np.nan)
    where = {label.strip(): i for i, label in enumerate(contents.labels)}
    unread = []
    for row in read_table(table):
        if (i := where.get(row.get("name", ""))) is not None:
            cells = [row.get(axis, "") for axis in "xyz"]
            if all(cell.lower() in ABSENT for cell in cells):
                continue
            try:
                xyz[i] = [number(cell) for cell in cells]
            except ValueError:
                unread.append(row["name"])
    if unread:
        lost = counted(len(unread), "position")
        contents.notes.append(f"{lost} of electrodes.tsv without three numbers left out: {listed(unread)}")
    rotation = head_frame(name, landmarks)
    if rotation is None or unit is None:
        if np.isfinite(xyz).any():
            contents.notes.append("positions in a coordinate system that is not known, not used")
        return
    matrix, origin = rotation
    contents.place((xyz - origin) @ matrix.T * unit)


def head_frame(system: str, landmarks: JsonDict) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]] | None:
    """Return (rotation, origin) into MNE's head frame: from ears and nasion where given, else the system's axes.

    x runs from the left to the right ear point, y through the nasion, z up; the origin is where they meet.
    """
    points = []
    for keys in (("NAS", "Nz", "nasion"), ("LPA", "left"), ("RPA", "right")):
        point = next((landmarks[k] for k in keys if k in landmarks), None)
        if isinstance(point, list) and len(point) == 3:
            points.append(np.asarray(point, float))
    if len(points) == 3:
        nasion, left, right = points
        x = right - left
        x = x / np.linalg.norm(x)
        origin = left + x * ((nasion - left) @ x)
        y = nasion - origin
        y = y / np.linalg.norm(y)
        return np.stack([x, y, np.cross(x, y)]), origin
    if system in RAS:
        return np.eye(3), np.zeros(3)
    if system in ALS:
        return np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), np.zeros(3)
    return None


def _json(path: Path) -> JsonDict:
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as e:
        raise UserError(f"{path}: not a JSON file ({error_text(e)}); repair it") from e
    return value if isinstance(value, dict) else {}
