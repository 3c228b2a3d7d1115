"""MEG recordings that are more than one file: CTF `.ds` folders, KIT with its markers, 4D Neuroimaging (BTi) folders.

MNE reads them; what it takes on trust is checked first: names and sizes of CTF's files, and that neighbouring trials
of a CTF recording follow each other without a gap.
"""

import re
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from dreamjax.console import counted
from dreamjax.errors import UserError
from dreamjax.signals.recordings.readers.mne_reader import check_files, contents_of_raw, reading, require_mne
from dreamjax.signals.recordings.readers.modalities import MARKERS, OF_BTI
from dreamjax.signals.recordings.readers.recording import Contents, Source

if TYPE_CHECKING:
    import mne

MEG4_HEADER, VALUE_BYTES = 8, 4  # bytes of a .meg4 before its samples; of one
COUNTS_AT = 1288  # byte of a .res4 at which the samples of a trial stand, then the channels
AVERAGES_AT = 776  # byte of a .res4 at which the number of averaged trials stands
RES4_CHANNEL = 1328  # bytes of a .res4 that describe a channel
CLOCK = "SCLK01"  # the channel with the clock of a CTF system


# ---------------------------------------------------------------------------------------------------------------- CTF
@dataclass(frozen=True)
class CtfFolder:
    """The files of a `.ds` folder, checked: all are there under its name, and their sizes fit each other."""

    header: Path  # .res4
    signals: tuple[Path, ...]  # .meg4, .1_meg4, …
    samples: int  # of a trial
    channels: int
    averaged: int  # trials of which each is the mean; 0 of a recording

    @classmethod
    def of(cls, path: Path) -> "CtfFolder":
        """Return the files. Raise UserError for a folder in which one is missing, misnamed or cut short."""
        if not path.is_dir():
            raise UserError(f"{path}: a file, but a CTF recording is a folder with a .res4 and a .meg4; restore it")
        stem = path.name[: -len(".ds")]
        header, signal = _part(path, stem, "res4"), _part(path, stem, "meg4")
        with open(header, "rb") as file:
            start = file.read(COUNTS_AT + 6)
        if len(start) < COUNTS_AT + 6 or not start.startswith(b"MEG4"):
            raise UserError(f"{header}: not the header of a CTF recording; restore it from its source")
        (averaged,), (samples, channels) = (
            struct.unpack_from(">h", start, AVERAGES_AT),
            struct.unpack_from(">ih", start, COUNTS_AT),
        )
        if samples < 1 or channels < 1 or channels * RES4_CHANNEL > header.stat().st_size:
            raise UserError(
                f"{header}: it promises {channels} channels of {samples} samples, which cannot be; restore it"
            )
        later = (path / f"{stem}.{i}_meg4" for i in range(1, 1000))
        signals = [signal]
        for part in later:
            if not part.is_file():
                break
            signals.append(part)
        for part in signals:
            size, trial = part.stat().st_size - MEG4_HEADER, VALUE_BYTES * samples * channels
            if size < trial or size % trial:
                raise UserError(
                    f"{part}: {max(size, 0)} bytes of signal are not a whole number of trials of {channels} channels x "
                    f"{samples} samples ({trial} bytes); restore it from its source"
                )
        return cls(header, tuple(signals), samples, channels, max(averaged, 0))

    def clock(self, channel: int, part: int, sample: int) -> int:
        """Return the value of a channel at a sample of one signal file."""
        trial, within = divmod(sample, self.samples)
        at = MEG4_HEADER + VALUE_BYTES * ((trial * self.channels + channel) * self.samples + within)
        with open(self.signals[part], "rb") as file:
            file.seek(at)
            return int.from_bytes(file.read(VALUE_BYTES), "big", signed=True)

    def trials(self, part: int) -> int:
        """Return the number of trials in one signal file."""
        return (self.signals[part].stat().st_size - MEG4_HEADER) // (VALUE_BYTES * self.samples * self.channels)

    def gaps(self, channel: int | None) -> list[int]:
        """Return the samples at which a trial begins that does not follow the one before, by the system's clock.

        Without a clock, every trial.
        """
        begins = [(part, trial) for part in range(len(self.signals)) for trial in range(self.trials(part))]
        if channel is None or self.samples < 2:
            return [i * self.samples for i in range(1, len(begins))]
        last, n = self.samples - 1, self.samples
        step = (self.clock(channel, 0, last) - self.clock(channel, 0, 0)) / last
        cuts = []
        for i, ((part, trial), (next_part, next_trial)) in enumerate(pairwise(begins), start=1):
            jump = self.clock(channel, next_part, next_trial * n) - self.clock(channel, part, trial * n + last)
            if abs(jump - step) > max(abs(step), 1):
                cuts.append(i * n)
        return cuts


def _part(folder: Path, stem: str, suffix: str) -> Path:
    """Return a file of a `.ds` folder. Raise UserError where it is missing, or is there under another name."""
    path = folder / f"{stem}.{suffix}"
    if path.is_file():
        return path
    others = sorted(p.stem for p in folder.glob(f"*.{suffix}"))
    if others:
        raise UserError(
            f"{folder}: holds {others[0]}.{suffix}, but the files of a CTF recording have its folder's name; "
            f"rename the folder to {others[0]}.ds"
        )
    raise UserError(f"{folder}: {path.name} is missing; restore the whole folder from its source")


def open_ctf(source: Source, strict: bool) -> Contents:
    """Open a CTF `.ds` folder; trials that do not follow each other, by the system's clock, are segments."""
    path = Path(source.path)
    folder = CtfFolder.of(path)
    with reading(source.path, "it as ctf"):
        raw = require_mne().io.read_raw_ctf(path, preload=False)
    check_files(source.path, raw, "ctf")
    contents = contents_of_raw(raw, "ctf")
    clocks = [i for i, name in enumerate(raw.ch_names) if name.split("-")[0] == CLOCK]
    if cuts := {cut for cut in folder.gaps(clocks[0] if clocks else None) if cut < contents.n_samples}:
        contents.notes.append(f"{counted(len(cuts), 'gap')} between trials of the recording")
        edges = [sorted({a, b, *(cut for cut in cuts if a < cut < b)}) for a, b in contents.segments]
        contents.segments = [span for inner in edges for span in pairwise(inner)]
    if folder.averaged > 1:
        contents.notes.append(f"averages of {folder.averaged} trials, not a recording of single ones")
    return contents


# ---------------------------------------------------------------------------------------------------------------- KIT
def kit_files(path: Path) -> dict[str, Path]:
    """Return what MNE needs to place a KIT helmet on the head: markers (mrk), fiducials (elp), head shape (hsp).

    They lie next to the recording and begin with its name, as `x_mrk.sqd`, `x_elp.txt`, `x.hsp`; in BIDS
    `…_markers.sqd` and `…_headshape.hsp`.
    """
    stem = re.sub(r"_meg$", "", path.stem)
    ends = {"mrk": r"[-_.](mrk|markers?)(\.(sqd|con|mrk|txt))?", "elp": r"([-_](elp|headshape))?\.(elp|txt)",
            "hsp": r"([-_](hsp|headshape))?\.(hsp|txt)"}  # fmt: skip
    chosen: dict[str, Path] = {}
    for near in sorted(path.parent.glob(f"{_escaped(stem)}*")):
        rest = near.name[len(stem) :].lower()
        for what, pattern in ends.items():
            tagged = what in rest or not rest.endswith(".txt")
            if what not in chosen and tagged and near != path and re.fullmatch(pattern, rest):
                chosen[what] = near
    return chosen


def _escaped(stem: str) -> str:
    return re.sub(r"([\[\]*?])", r"[\1]", stem)


def open_kit(source: Source, strict: bool) -> Contents:
    """Open a KIT recording; with its markers, fiducials and head shape next to it, positions are those in the head."""
    path = Path(source.path)
    near = kit_files(path)
    complete = len(near) == 3
    with reading(source.path, "it as kit"):
        raw = require_mne().io.read_raw_kit(path, preload=False, **(near if complete else {}))
    return _contents(source, raw, "kit")


# ---------------------------------------------------------------------------------------------------------------- BTi
def bti_files(path: Path) -> list[Path]:
    """Return the files that complete the signal of a BTi folder: its config and its head shape."""
    return [near for name in OF_BTI if (near := path.parent / name).is_file()]


def open_bti(source: Source, strict: bool) -> Contents:
    """Open the signal of a 4D Neuroimaging (BTi) folder; without its hs_file the head's place is unknown."""
    path = Path(source.path)
    near = {file.name: file for file in bti_files(path)}
    if "config" not in near:
        raise UserError(f"{path}: the file config of its folder is missing; restore it")
    with reading(source.path, "it as bti"):
        raw = require_mne().io.read_raw_bti(
            path, config_fname=near["config"], head_shape_fname=near.get("hs_file"), preload=False
        )
    return _contents(source, raw, "bti")


def _contents(source: Source, raw: "mne.io.BaseRaw", format_: str) -> Contents:
    check_files(source.path, raw, format_)
    return contents_of_raw(raw, format_)


def is_markers(path: Path) -> bool:
    """Return whether a file holds the head position markers of a KIT recording, by its name."""
    return MARKERS.fullmatch(path.name) is not None
