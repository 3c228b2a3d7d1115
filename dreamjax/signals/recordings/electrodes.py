"""A user's names and positions of the electrodes, for any recording: `--channels` and `--montage`.

Names come in the order of the file, or as LABEL=NAME. Positions come from a file of electrode positions (a table with
the columns name, x, y and z, EEGLAB's `.ced`, or a format that MNE reads) or from a montage of MNE (`biosemi128`), and
are used instead of those in the recording.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from dreamjax.console import counted
from dreamjax.errors import UserError, nearest, require
from dreamjax.signals.recordings import montage
from dreamjax.signals.recordings.events import ABSENT, number, read_table
from dreamjax.signals.recordings.readers.mne_reader import positions_of, quiet
from dreamjax.signals.recordings.readers.recording import TRUSTED_TYPES, Contents, listed, settle_names
from dreamjax.signals.recordings.scrub import error_text
from dreamjax.storage import manifest

UNITS = {1.0: (0.03, 0.25), 1e-2: (3.0, 25.0), 1e-3: (30.0, 250.0)}  # factor into m → radii of a head in m, cm and mm

HEAD_M = 0.095  # radius of MNE's spherical heads
OF_POSITIONS = (".ced", ".locs", ".loc", ".eloc", ".sfp", ".elc", ".bvef")  # read next to a recording of the same stem

SOCKET = re.compile(r"B\d{1,2}|A([3-9]|[12]\d|3[0-2])")  # no site of the 10-05 system has such a name


@dataclass(frozen=True)
class Electrodes:
    """What a user says about the electrodes of all recordings."""

    channels: tuple[str, ...] = ()  # names in the order of the file, or LABEL=NAME
    montage: str = ""  # a file of positions, or the name of a montage

    def __post_init__(self) -> None:
        pairs = sum("=" in name for name in self.channels)
        if pairs not in (0, len(self.channels)):
            raise ValueError("channels are names in the order of the file, or all of the form LABEL=NAME")
        if any(not part.strip() for name in self.channels for part in name.split("=", 1)):
            raise ValueError("a channel name is empty")

    def fingerprint(self) -> list[str]:
        """Return what changes a record; nothing by default, as in versions without these settings."""
        if self == Electrodes():
            return []
        file = Path(self.montage).is_file()
        return [*self.channels, manifest.file_hash(self.montage) if file else self.montage]

    def apply(self, contents: Contents) -> None:
        """Rename the channels of a recording and replace their positions; its notes state both.

        Raise UserError where names or positions do not fit it.
        """
        if self.channels:
            _rename(contents, self.channels)
        if self.montage:
            _place(contents, positions_in(self.montage), "--montage")


def position_file(path: Path) -> Path | None:
    """Return the file of electrode positions next to a recording, of the same stem; None without one."""
    plain = path.with_name(path.name.removesuffix(".gz"))
    near = (plain.with_suffix(spelled) for suffix in OF_POSITIONS for spelled in (suffix, suffix.upper()))
    return next((file for file in near if file.is_file()), None)


def place_by_companion(path: Path, contents: Contents) -> None:
    """Take positions that a recording lacks from the file next to it; a note says so, or why they are not used."""
    file = position_file(path)
    if file is None or (contents.positions is not None and montage.plausible(contents.positions)):
        return
    what = f"its {file.suffix.lower()} file"
    try:
        _place(contents, positions_in(str(file)), what)
    except UserError as problem:
        reason = str(problem).removeprefix(f"--montage {file}: ").removeprefix(f"{file}: ").removeprefix(f"{what}: ")
        contents.notes.append(f"the positions in {what} are not used: {reason}")


def _rename(contents: Contents, channels: Sequence[str]) -> None:
    kinds, labels = settle_names(contents.labels, contents.types)[1], [label.strip() for label in contents.labels]
    if "=" in channels[0]:
        wanted = {old.strip(): new.strip() for old, new in (name.split("=", 1) for name in channels)}
        known = {montage.normalise_name(label)[0].lower(): i for i, label in enumerate(labels)}
        known |= {label.lower(): i for i, label in enumerate(labels)}
        if missing := [old for old in wanted if old.lower() not in known]:
            raise UserError(f"--channels: no channel {listed(missing)}; the recording has {listed(labels)}")
        named = {known[old.lower()]: new for old, new in wanted.items()}
    else:
        scalp, signal = (
            [i for i, kind in enumerate(kinds) if kind in wanted] for wanted in (("eeg",), {*kinds} - {"stim"})
        )
        order = next((some for some in (scalp, signal) if len(some) == len(channels)), None)
        if order is None:
            raise UserError(
                f"--channels gives {counted(len(channels), 'name')}, but the recording has {len(scalp)} EEG channels "
                f"of {len(signal)} in all: {listed(labels)}; name all of them in this order, or some as LABEL=NAME"
            )
        named = dict(zip(order, channels, strict=True))
    types, bad = list(contents.types) or [""] * len(labels), set(contents.bad)
    contents.bad = [named.get(i, label) for i, label in enumerate(contents.labels) if label in bad]
    for i, name in named.items():
        kind = montage.normalise_name(name)[1]
        labels[i], types[i] = name, kind if kind in TRUSTED_TYPES and montage.names_other_sensor(name) else "eeg"
    contents.labels, contents.types = labels, types
    contents.notes.append(f"{counted(len(named), 'channel')} named by --channels")


def _place(contents: Contents, positions: dict[str, Float[np.ndarray, "3"]], origin: str) -> None:
    labels = list(contents.labels)
    sites = montage.biosemi_names(labels) if contents.format == "bdf" else None
    banks = montage.banked_names(labels) if sites is None else None
    names, kinds = settle_names(sites or banks or labels, contents.types)
    keys: list[tuple[str, ...]] = [
        (label.strip().upper(), name.upper()) for label, name in zip(labels, names, strict=True)
    ]
    if any(SOCKET.fullmatch(name) for name in positions):  # the socket A1 is not the ear lobe A1, nor C3 the site C3
        keys = [pair[:1] for pair in keys] if sites or banks else keys
    elif banks:
        raise UserError(
            f"{origin}: the channels of this recording are sockets of an amplifier (A1…, B1…), and this montage has "
            "none; give one with the same sockets, such as biosemi128, or name the channels with --channels"
        )
    elif sites:
        keys = [pair[1:] for pair in keys]
    unknown = np.full(3, np.nan)
    xyz = [next((positions[key] for key in pair if key in positions), unknown) for pair in keys]
    places = np.array(xyz, float).reshape(-1, 3)
    contents.place(places)
    placed = [i for i, kind in enumerate(kinds) if kind == "eeg" and np.isfinite(places[i]).all()]
    if not placed:
        raise UserError(
            f"{origin}: it has no electrode of this recording, whose channels are {listed(names)}; "
            "name them with --channels"
        )
    contents.notes.append(f"positions of {counted(len(placed), 'EEG channel')} from {origin}")


def positions_in(source: str) -> dict[str, Float[np.ndarray, "3"]]:
    """Return NAME, as spelled and as its 10-05 name, in capitals → position in m, MNE's head frame.

    Raise UserError for a file or a name that is not a montage.
    """
    path = Path(source)
    if path.is_file() and path.suffix.lower() in (".tsv", ".csv", ".ced"):
        names, xyz = _table(path)
    else:
        names, xyz = _of_mne(path if path.is_file() else source)
    if not montage.plausible(xyz):
        raise UserError(f"--montage {source}: its positions are not on a head; give m, cm or mm about its centre")
    places = {
        name.rstrip("."): at for name, at in zip(names, xyz, strict=True)
    }  # EEGLAB pads names with dots to four characters
    spelled = {(montage.standard_name(name) or name).upper(): at for name, at in places.items()}
    return spelled | {name.strip().upper(): at for name, at in places.items()}


def _table(path: Path) -> tuple[list[str], Float[np.ndarray, "electrodes 3"]]:
    rows = [{column.lower(): cell for column, cell in row.items()} for row in read_table(path)]
    columns = set(rows[0]) if rows else set()
    eeglab = "labels" in columns and bool({"theta", "sph_theta"} & columns or path.suffix.lower() == ".ced")
    label = "labels" if eeglab else "name"
    if not {label, "x", "y", "z"} <= columns and not (eeglab and {"theta", "radius"} <= columns):
        expected = "labels with x, y and z, or with theta and radius" if eeglab else "name, x, y and z"
        raise UserError(f"{path}: expected the columns {expected}; add them")
    try:
        placed = [(row[label], at) for row in rows if (at := _place_of(row, eeglab)) is not None]
    except ValueError as problem:
        raise UserError(f"{path}: a position is not a number ({error_text(problem)}); repair it") from problem
    xyz = np.array([at for _, at in placed], float).reshape(-1, 3)
    radius = float(np.median(np.linalg.norm(xyz, axis=1))) if len(xyz) else 0.0
    factor = next((factor for factor, (low, high) in UNITS.items() if low <= radius < high), 1.0)
    if eeglab and factor == 1.0 and radius > 0:  # on a sphere of radius 1
        factor = HEAD_M / radius
    return [name for name, _ in placed], xyz * factor


def _place_of(row: dict[str, str], eeglab: bool) -> list[float] | None:
    """Return (right, front, up) of a row, None where it is not stated. Raise ValueError for what is not a number.

    EEGLAB has x to the nose and y to the left. Its theta and radius are those of a flat map: 0° is the nose, positive
    to the right, and a radius of 0.5 the equator.
    """
    cells = [row.get(axis, "") for axis in "xyz"]
    if not any(cell.lower() in ABSENT for cell in cells):
        x, y, z = map(number, cells)
        return [-y, x, z] if eeglab else [x, y, z]
    flat = [row.get(name, "") for name in ("theta", "radius")]
    if not eeglab or any(cell.lower() in ABSENT for cell in flat):
        return None
    theta, height = np.deg2rad(number(flat[0])), np.pi * (0.5 - number(flat[1]))
    return [np.cos(height) * np.sin(theta), np.cos(height) * np.cos(theta), np.sin(height)]


def _of_mne(source: Path | str) -> tuple[list[str], Float[np.ndarray, "electrodes 3"]]:
    require("mne", "reading electrode positions")
    import mne

    try:
        with quiet():
            read = mne.channels.make_standard_montage if isinstance(source, str) else mne.channels.read_custom_montage
            given = read(source)
            info = mne.create_info(given.ch_names, 256.0, "eeg")
            info.set_montage(given, on_missing="ignore")
    except Exception as problem:
        if isinstance(source, str):
            guess = nearest(source, mne.channels.get_builtin_montages())
            hint = f"did you mean {guess}?" if guess else "give a file of positions, or a name such as biosemi128"
            raise UserError(f"--montage {source}: neither a file nor a montage of MNE; {hint}") from problem
        raise UserError(f"--montage {source}: not a file of positions ({error_text(problem)}); check it") from problem
    xyz = positions_of(info)
    return list(info.ch_names), np.full((len(info.ch_names), 3), np.nan) if xyz is None else xyz
