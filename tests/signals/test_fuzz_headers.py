"""Mutated EDF and BrainVision headers: every one opens or is refused in one sentence; no crash, no hang, no flood.

Each case also reads the first and last second of what opened, so that a header which passes is really usable. The
other formats: test_fuzz_formats.py.
"""

import resource
import time

import numpy as np
import pytest
from edf_files import tal, write_edf

from dreamjax.errors import UserError
from dreamjax.signals.recordings.opening import open_recording

SLOWEST_S = 2.0  # of processor time; a case takes milliseconds
MOST_KIB = 100 << 10  # that the process may grow by over all cases
VALUES = [
    b"",
    b"0",
    b"-1",
    b"1",
    b"99999999",
    b"1e99",
    b"-5",
    b"nan",
    b"inf",
    b"0x10",
    b"1.5",
    b"\xff\xff\xff",
    b"  7 ",
]


def mutate(data: bytes, rng: np.random.Generator, header: int, fields: list[tuple[int, int]]) -> bytes:
    """A few of: another byte, another value in a field, bytes cut out or doubled, the file cut short."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        kind = rng.integers(5)
        at = int(rng.integers(header))
        if kind <= 1:
            start, width = fields[rng.integers(len(fields))]
            value = VALUES[rng.integers(len(VALUES))]
            out[start : start + width] = value[:width].ljust(width)
        elif kind == 2 and len(out) > at:
            out[at : at + 1] = bytes([rng.integers(256)])
        elif kind == 3:
            length = int(rng.integers(1, 40))
            out[at : at + length] = b"" if rng.random() < 0.5 else out[at : at + length] * 2
        else:
            del out[int(rng.integers(len(out) + 1)) :]
    return bytes(out)


def judge(path, outcomes):
    started = time.process_time()
    sentence = str(path)
    try:
        recording = open_recording(path)
        second = min(round(recording.sfreq), recording.n_samples, 20000)
        for start in (0, recording.n_samples - second):
            signal = recording.read(start, start + second, range(min(4, len(recording.ch_names))))
            assert signal.shape[1] == second
        assert all(0 <= a < b <= recording.n_samples for a, b in recording.segments)
        outcomes["opened"] += 1
    except UserError as e:
        sentence = str(e)
        outcomes["refused"] += 1
    assert "\n" not in sentence
    assert str(path.parent) in sentence
    assert time.process_time() - started < SLOWEST_S


def edf_fields(n_signals):
    fixed = [(184, 8), (192, 44), (236, 8), (244, 8), (252, 4)]
    offsets, position = {}, 256
    for name, width in (("label", 16), ("transducer", 80), ("unit", 8), ("pmin", 8), ("pmax", 8), ("dmin", 8),
                        ("dmax", 8), ("prefilter", 80), ("samples", 8)):  # fmt: skip
        offsets[name] = [(position + i * width, width) for i in range(n_signals)]
        position += n_signals * width
    numbers = [f for name in ("pmin", "pmax", "dmin", "dmax", "samples", "samples", "label") for f in offsets[name]]
    return fixed * 3 + numbers


def run_edf(tmp_path, cases, seed):
    rng = np.random.default_rng(seed)
    digital = rng.integers(-3000, 3000, (4, 256 * 4))
    seeds = []
    for name, kwargs in {
        "plain.edf": {},
        "plus.edf": {"plus": "D", "tals": [tal(t) + tal(t + 0.5, "T1", 1.0) for t in (0, 1, 5, 6)]},
        "wide.bdf": {"bdf": True, "labels": ["A1", "A2", "A3", "Status"]},
    }.items():
        path = write_edf(tmp_path / name, digital, **kwargs)
        seeds.append((path.read_bytes(), path.suffix, 5 if "tals" in kwargs else 4))
    outcomes = {"opened": 0, "refused": 0}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in range(cases):
        data, suffix, n = seeds[case % len(seeds)]
        path = tmp_path / f"case{suffix}"
        path.write_bytes(mutate(data, rng, 256 * (n + 1), edf_fields(n)))
        judge(path, outcomes)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_KIB
    assert min(outcomes.values()) > cases // 20, f"mutations that never or always pass test nothing: {outcomes}"


VHDR = """Brain Vision Data Exchange Header File Version 1.0

[Common Infos]
Codepage=UTF-8
DataFile=case.eeg
MarkerFile=case.vmrk
DataFormat=BINARY
DataOrientation=MULTIPLEXED
NumberOfChannels=4
SamplingInterval=3906.25

[Binary Infos]
BinaryFormat=INT_16

[Channel Infos]
Ch1=Fp1,,0.1,µV
Ch2=Fp2,,0.1,µV
Ch3=O1,,0.1,µV
Ch4=O2,,0.1,µV

[Coordinates]
Ch1=1,-90,-72
Ch2=1,90,72
Ch3=1,-90,72
Ch4=1,90,-72
""".encode()
VMRK = b"""Brain Vision Data Exchange Marker File, Version 1.0

[Common Infos]
Codepage=UTF-8
DataFile=case.eeg

[Marker Infos]
Mk1=New Segment,,1,1,0,20131113161403794232
Mk2=Stimulus,S  1,100,1,0
Mk3=New Segment,,513,1,0,20131113161403794232
Mk4=Stimulus,S  2,600,1,0
"""


def spots(text):
    """(start, width) of every value after an equals sign."""
    found, position = [], 0
    for line in text.splitlines(keepends=True):
        if b"=" in line:
            start = position + line.index(b"=") + 1
            found.append((start, max(1, len(line.rstrip()) - line.index(b"=") - 1)))
        position += len(line)
    return found


def run_brainvision(tmp_path, cases, seed):
    rng = np.random.default_rng(seed)
    signal = rng.integers(-3000, 3000, (1024, 4)).astype("<i2").tobytes()
    outcomes = {"opened": 0, "refused": 0}
    header, markers, data = (tmp_path / f"case.{suffix}" for suffix in ("vhdr", "vmrk", "eeg"))
    for path, content in ((header, VHDR), (markers, VMRK), (data, signal)):
        path.write_bytes(content)
    assert open_recording(header).segments == ((0, 512), (512, 1024))  # also imports MNE, before time is taken
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(cases):
        which = rng.integers(8)
        header.write_bytes(mutate(VHDR, rng, len(VHDR), spots(VHDR)) if which < 5 else VHDR)
        markers.write_bytes(mutate(VMRK, rng, len(VMRK), spots(VMRK)) if which in (5, 6) else VMRK)
        data.write_bytes(signal[: int(rng.integers(len(signal)))] if which == 7 else signal)
        judge(header, outcomes)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_KIB
    assert min(outcomes.values()) > cases // 20, f"mutations that never or always pass test nothing: {outcomes}"


def test_a_thousand_mutated_edf_headers(tmp_path):
    run_edf(tmp_path, 1000, seed=1)


def test_mutated_brainvision_headers(tmp_path):
    pytest.importorskip("mne")
    run_brainvision(tmp_path, 300, seed=2)


@pytest.mark.hostile
def test_ten_thousand_mutated_headers(tmp_path):
    pytest.importorskip("mne")
    run_edf(tmp_path, 10000, seed=3)
    run_brainvision(tmp_path, 3000, seed=4)
