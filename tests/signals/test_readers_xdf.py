"""XDF of LabRecorder: clocks of several computers, resets, missing samples, markers; and files that lie."""

import struct

import numpy as np
import pytest
from xdf_files import BOUNDARY, SITES, chunk, clock, header, recorded, samples, signal_chunks, write_xdf

from dreamjax.errors import UserError
from dreamjax.signals.recordings.opening import open_recording, source_of, survey

pytest.importorskip("pyxdf")
RATE = 250.0


def noise(n, channels=6, seed=0):
    return np.random.default_rng(seed).normal(size=(n, channels)) * 15


def onsets(recording):
    return [(event.sample, event.code) for event in recording.events]


def test_reads_signal_names_and_string_markers_on_one_clock(tmp_path):
    """The markers' computer is 1000 s ahead; the file's clock offsets say so."""
    recording = open_recording(recorded(tmp_path / "a.xdf"))
    assert (recording.sfreq, recording.n_samples, recording.ch_names) == (RATE, 2000, SITES)
    np.testing.assert_allclose(recording.read(0, 2000), noise(2000).T, rtol=1e-6)
    assert onsets(recording) == [(250, "S1"), (500, "S2"), (750, "S1"), (1001, "S2")]


@pytest.mark.parametrize("nominal", [-1.0, 0.0])
def test_measures_the_rate_where_the_header_states_none(tmp_path, nominal):
    recording = open_recording(recorded(tmp_path / "a.xdf", nominal=nominal))
    assert recording.sfreq == pytest.approx(RATE, rel=1e-6)
    assert any("the rate is measured, 250 Hz" in note for note in recording.notes)
    assert onsets(recording)[:2] == [(250, "S1"), (500, "S2")]


def test_a_measured_rate_near_a_whole_number_is_that_number(tmp_path):
    stamps = 500 + np.arange(1000) / 255.95
    chunks = [header(1, "EEG", "float32", 6, 0.0, SITES), *signal_chunks(1, noise(1000), stamps)]
    assert open_recording(write_xdf(tmp_path / "a.xdf", *chunks)).sfreq == 256


def test_a_drifting_clock_moves_no_event(tmp_path):
    """The EEG's computer gains 1 ms a second: after a minute a marker without correction would be 15 samples off."""
    n, drift = round(60 * RATE), 1e-3
    device = np.arange(n) / RATE * (1 + drift)  # the time that the device's clock shows
    shown = [t * (1 + drift) for t in range(0, 61, 5)]
    recording = open_recording(
        write_xdf(
            tmp_path / "a.xdf",
            header(1, "EEG", "float32", 6, RATE, SITES),
            header(2, "Markers", "int32", 1, 0),
            *signal_chunks(1, noise(n), device, 250),
            *(clock(1, t, t / (1 + drift) - t) for t in shown),
            *(clock(2, t, 0.0) for t in range(0, 61, 5)),
            samples(2, [[5], [0], [6]], [10.0, 30.0, 59.0], "int32"),
        )
    )
    assert recording.sfreq == RATE
    assert onsets(recording) == [(2500, "5"), (14750, "6")]


def test_a_clock_that_was_reset_makes_two_segments(tmp_path):
    """The EEG's computer restarts: its clock jumps from 104 to 10 s, and the offsets with it."""
    first, second = 100 + np.arange(1000) / RATE, 10 + np.arange(1000) / RATE
    x = noise(2000)
    offsets = [clock(1, 100 + t, 0.0) for t in range(5)] + [clock(1, 10 + t, 96.0) for t in range(5)]
    recording = open_recording(
        write_xdf(
            tmp_path / "a.xdf",
            header(1, "EEG", "float32", 6, RATE, SITES),
            header(2, "Markers", "string", 1, 0),
            *signal_chunks(1, x[:1000], first),
            *signal_chunks(1, x[1000:], second),
            *offsets,
            *(clock(2, 100 + t, 0.0) for t in range(10)),
            samples(2, [("S 1",), ("S 2",), ("S 3",)], [101.0, 105.0, 107.0], "string"),
        )
    )
    assert recording.segments == ((0, 1000), (1000, 2000))
    assert recording.sfreq == RATE
    assert onsets(recording) == [(250, "S1"), (1250, "S3")]
    assert any("1 markers before, after or between" in note for note in recording.notes)


def test_a_clock_set_back_without_offsets_makes_two_segments(tmp_path):
    stamps = np.concatenate((100 + np.arange(1000) / RATE, 10 + np.arange(1000) / RATE))
    chunks = [header(1, "EEG", "float32", 6, RATE, SITES), *signal_chunks(1, noise(2000), stamps)]
    recording = open_recording(write_xdf(tmp_path / "a.xdf", *chunks))
    assert recording.segments == ((0, 1000), (1000, 2000))
    assert any("clock of the EEG was reset 1 times" in note for note in recording.notes)


def test_lost_samples_are_a_gap(tmp_path):
    stamps = np.delete(500 + np.arange(2000) / RATE, slice(800, 1000))
    chunks = [header(1, "EEG", "float32", 6, RATE, SITES), *signal_chunks(1, noise(1800), stamps)]
    recording = open_recording(write_xdf(tmp_path / "a.xdf", *chunks))
    assert recording.segments == ((0, 800), (800, 1800))


def test_a_damaged_time_stamp_moves_nothing(tmp_path):
    stamps = 500 + np.arange(1000) / RATE
    markers = samples(2, [("S 1",)], [502.0], "string")
    stamps[[100, 300, 700]] = [1e300, np.nan, 3.0]
    chunks = [header(1, "EEG", "float32", 6, RATE, SITES), header(2, "Markers", "string", 1, 0)]
    recording = open_recording(write_xdf(tmp_path / "a.xdf", *chunks, *signal_chunks(1, noise(1000), stamps), markers))
    assert recording.segments == ((0, 1000),)
    assert onsets(recording) == [(500, "S1")]
    assert "3 time stamps of the EEG are damaged: taken from their neighbours" in recording.notes


def test_takes_the_widest_stream_of_eeg_and_counts_the_others(tmp_path):
    """A stream's name is free text: the note has its type and size."""
    stamps = 500 + np.arange(500) / RATE
    path = write_xdf(
        tmp_path / "a.xdf",
        header(1, "Gaze", "float32", 3, 60),
        header(2, "eeg", "float32", 6, RATE, SITES, unit="volts"),
        header(3, "EEG", "float32", 2, RATE, SITES[:2]),
        header(4, "Markers", "string", 1, 0),
        header(5, "Markers", "int16", 1, 0),
        *signal_chunks(1, noise(500, 3), stamps),
        *signal_chunks(2, noise(500), stamps),
        *signal_chunks(3, noise(500, 2), stamps),
        samples(4, [("7",), ("a long remark about Igor",)], [501.0, 501.5], "string"),
        samples(5, [[7], [9]], [500.5, 501.2], "int16"),
    )
    recording = open_recording(path)
    assert recording.ch_names == SITES
    np.testing.assert_allclose(recording.read(0, 9), noise(500)[:9].T * 1e6, rtol=1e-6)
    assert onsets(recording) == [(125, "stream 2/7"), (250, "stream 1/7"), (300, "9")]
    others = "2 other streams left out: Gaze (3 channels, 500 samples), EEG (2 channels, 500 samples)"
    assert others in recording.notes
    assert [(event.sample, event.code) for event in recording.free_text] == [(375, "a long remark about Igor")]
    assert not any("Igor" in note for note in recording.notes)


def test_a_stimulus_channel_among_the_eeg_becomes_events(tmp_path):
    x = np.concatenate((noise(500), np.zeros((500, 1))), axis=1)
    x[[100, 101, 300], 6] = 4
    names = [*SITES, "TRIGGER"]
    chunks = [header(1, "EEG", "float32", 7, RATE, names, "volts"), *signal_chunks(1, x, np.arange(500) / RATE)]
    assert onsets(open_recording(write_xdf(tmp_path / "a.xdf", *chunks))) == [(100, "4"), (300, "4")]


@pytest.mark.parametrize(("format_", "idle"), [("float32", 0), ("int32", 255)])
def test_a_pulse_on_a_sampled_trigger_line_is_one_event(tmp_path, format_, idle):
    """Only its first sample is; the idle level is none."""
    stamps, line = 500 + np.arange(500) / RATE, np.full((500, 1), idle)
    line[100:150], line[300:310], line[310:320] = 4, 4, 7
    path = write_xdf(
        tmp_path / "a.xdf",
        header(1, "EEG", "float32", 6, RATE, SITES),
        header(2, "Stim", format_, 1, RATE),
        *signal_chunks(1, noise(500), stamps),
        samples(2, line, list(stamps), format_),
    )
    recording = open_recording(path)
    assert onsets(recording) == [(100, "4"), (300, "4"), (310, "7")]
    assert any("rests at 255" in note for note in recording.notes) == bool(idle)


def test_reports_a_file_without_eeg(tmp_path):
    path = write_xdf(tmp_path / "a.xdf", header(1, "Gaze", "float32", 3, 60), samples(1, [[1, 2, 3]] * 2, [1.0, 2.0]))
    with pytest.raises(UserError, match="no stream of EEG with samples; the types of its streams are: Gaze"):
        open_recording(path)


def test_a_file_cut_short_keeps_what_is_whole_unless_strict(tmp_path):
    path = recorded(tmp_path / "a.xdf")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    recording = open_recording(path)
    assert 900 < recording.n_samples < 1100
    assert "the file was cut short: its last chunk is incomplete" in recording.notes
    with pytest.raises(UserError, match=r"cut short.*leave out --strict"):
        open_recording(path, strict=True)


def test_goes_on_at_the_next_boundary_after_damage(tmp_path):
    stamps, x = 500 + np.arange(1000) / RATE, noise(1000)
    parts = [*signal_chunks(1, x[:500], stamps[:500]), b"\x07junk", chunk(5, BOUNDARY)]
    parts += signal_chunks(1, x[500:], stamps[500:])
    recording = open_recording(write_xdf(tmp_path / "a.xdf", header(1, "EEG", "float32", 6, RATE, SITES), *parts))
    assert recording.n_samples == 1000
    assert "1 damaged chunks left out" in recording.notes


CLAIMS = {
    "samples": samples(1, [[1.0] * 6], [1.0]).replace(struct.pack("<BI", 4, 1), struct.pack("<BI", 4, 2**31 - 1)),
    "a chunk": struct.pack("<BQH", 8, 2**62, 3),
    "a header": struct.pack("<BQH", 8, 2**62, 2),
    "channels": header(2, "EEG", "float32", 2**31, RATE),
    "a text": chunk(3, struct.pack("<IBIBBQ", 3, 4, 1, 0, 8, 2**60)),
    "entities": chunk(2, struct.pack("<I", 4) + b'<!DOCTYPE a [<!ENTITY b "cc">]><info><name>&b;</name></info>'),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_beyond_the_file_costs_only_its_chunk(tmp_path, claim):
    path = recorded(tmp_path / "a.xdf")
    path.write_bytes(path.read_bytes() + header(3, "Markers", "string", 1, 0) + CLAIMS[claim])
    recording = open_recording(path)
    assert recording.n_samples == 2000
    assert any("damaged" in note or "cut short" in note for note in recording.notes)


def test_a_gzipped_file_opens_and_a_bomb_does_not(tmp_path):
    import gzip

    plain = recorded(tmp_path / "a.xdf")
    packed = tmp_path / "b.xdfz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert onsets(open_recording(packed)) == onsets(open_recording(plain))
    packed.write_bytes(gzip.compress(b"XDF:" + bytes(1 << 20)))
    with pytest.raises(UserError, match="not an XDF file"):
        open_recording(packed)
    assert len(survey([tmp_path])[0]) == 2
    assert source_of(plain).reader == "xdf"
