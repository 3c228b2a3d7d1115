"""Neuroscan `.cnt`: 16 or 32 bits a sample, which the format does not say; decided from the samples themselves.

Layout: SETUP of 900 bytes, 75 bytes an electrode, samples multiplexed, then an event table whose position stands at
byte 886. A file cut short by its publisher ends before that table.
"""

import os
import struct

import numpy as np

from dreamjax.errors import UserError
from dreamjax.signals.recordings.readers.mne_reader import open_with_mne
from dreamjax.signals.recordings.readers.recording import Contents, Source

SETUP_BYTES, ELECTRODE_BYTES = 900, 75
PROBE_SAMPLES = 4000


def open_cnt(source: Source, strict: bool = False) -> Contents:
    """Through MNE, with the data format and the end of the data settled first."""
    n_channels, data_bytes = checked_header(source.path)
    bits = sample_bits(source.path, n_channels, data_bytes)
    contents = open_with_mne(source.path, "cnt", data_format=f"int{bits}")
    held = data_bytes // (n_channels * bits // 8)
    if held < contents.n_samples:
        contents.notes.append(f"the header promises {contents.n_samples} samples but the file holds {held}")
        segments = contents.segments or [(0, contents.n_samples)]
        contents.n_samples = held
        contents.segments = [(a, min(b, held)) for a, b in segments if a < held]
    contents.notes.append(f"{bits}-bit samples, judged from the data")
    contents.positions = None  # they are places on a drawing of the head, not on the head
    return contents


def checked_header(path: str) -> tuple[int, int]:
    """(channels, bytes of samples).

    Raises:
      UserError: the file is too short for what its header says.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(SETUP_BYTES)
    if len(head) < SETUP_BYTES:
        raise UserError(f"{path}: only {size} bytes, too short for a Neuroscan header; restore it")
    n_channels = struct.unpack_from("<H", head, 370)[0]
    rate = struct.unpack_from("<H", head, 376)[0]
    table = struct.unpack_from("<I", head, 886)[0]
    start = SETUP_BYTES + ELECTRODE_BYTES * n_channels
    if not 1 <= n_channels <= 1024 or rate == 0 or size <= start:
        raise UserError(f"{path}: its header gives {n_channels} channels at {rate} Hz in {size} bytes; restore it")
    end = table if start < table <= size else size
    return n_channels, end - start


def sample_bits(path: str, n_channels: int, data_bytes: int) -> int:
    """16 or 32: of the two readings, the one in which a channel changes less from sample to sample for its spread."""
    count = min(PROBE_SAMPLES * n_channels * 4, data_bytes // (4 * n_channels) * 4 * n_channels)
    with open(path, "rb") as file:
        file.seek(SETUP_BYTES + ELECTRODE_BYTES * n_channels)
        raw = file.read(count)
    if len(raw) < 8 * n_channels:
        return 16
    roughness = {}
    for bits, kind in ((16, "<i2"), (32, "<i4")):
        values = np.frombuffer(raw, kind)
        values = values[: len(values) // n_channels * n_channels].reshape(-1, n_channels).astype(np.float64)
        spread = values.std(axis=0)
        steps = np.diff(values, axis=0).std(axis=0)
        moving = spread > 0
        roughness[bits] = float(np.median(steps[moving] / spread[moving])) if moving.any() else np.inf
    return 32 if roughness[32] < roughness[16] else 16
