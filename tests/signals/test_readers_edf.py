"""EDF and BDF: equal to MNE and edfio, lazy, honest about lies, aware of gaps."""

import time
import tracemalloc

import numpy as np
import pytest
from edf_files import tal, write_edf

from dreamjax.errors import UserError
from dreamjax.signals.recordings.opening import open_recording
from dreamjax.signals.recordings.readers.edf_header import filter_edges

mne = pytest.importorskip("mne")

SAME_RATE = [  # channels of one sampling rate: MNE reads them without resampling
    "eegmat/Subject00_1.edf",
    "eegmat/Subject26_2.edf",
    "eeglab/test_data/test.edf",
    "eeglab/test_data/test.bdf",
    "formats/mne-python/mne/io/edf/tests/data/test.bdf",
    "formats/mne-testing-data/EDF/chtypes_edf.edf",
    "formats/mne-testing-data/EDF/test_edf_overlapping_annotations.edf",
    "formats/mne-testing-data/NihonKohden/MB0400FU.EDF",
]


def peak_of(action):
    """Bytes of Python memory that `action` had at most."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def ramp(channels=2, samples=256 * 10):
    return (np.arange(channels * samples).reshape(channels, samples) * 7) % 60000 - 30000


@pytest.mark.parametrize("name", SAME_RATE)
def test_every_sample_equals_mnes_within_one_digital_step(real_eeg, name):
    """Over the whole file, and over a span that starts and ends inside data records."""
    path = real_eeg / name
    read = mne.io.read_raw_bdf if path.suffix == ".bdf" else mne.io.read_raw_edf
    raw = read(path, preload=True, verbose="ERROR")
    recording = open_recording(path)
    assert recording.sfreq == raw.info["sfreq"]
    assert recording.n_samples == raw.n_times
    expected = raw.get_data() * 1e6
    kept = [i for i, n in enumerate(raw.ch_names) if n.lower() not in ("status", "trigger")]
    extras = raw._raw_extras[0]
    step = np.asarray(extras["cal"])[kept] * np.asarray(extras["units"])[kept] * 1e6  # µV a digital step
    ours = recording.read(0, recording.n_samples)
    assert ours.shape[0] == len(kept)
    for i, k in enumerate(kept):
        assert np.abs(ours[i] - expected[k]).max() <= step[i] * 1e-6 + 1e-9, raw.ch_names[k]
    start, stop = raw.n_times // 3 + 1, raw.n_times // 2 + 7
    np.testing.assert_array_equal(recording.read(start, stop, [1]), ours[1:2, start:stop])


def test_edfio_reads_the_same_microvolts(real_eeg):
    edfio = pytest.importorskip("edfio")
    edf = edfio.read_edf(real_eeg / "eegmat" / "Subject05_2.edf")
    ours = open_recording(real_eeg / "eegmat" / "Subject05_2.edf")
    factors = {"uV": 1.0, "mV": 1e3}  # the ECG is in mV
    data = np.stack([signal.data * factors[signal.physical_dimension] for signal in edf.signals])
    np.testing.assert_allclose(ours.read(0, ours.n_samples), data, atol=1e-9)


@pytest.mark.parametrize("bdf", [False, True])
def test_written_integers_come_back_exactly(tmp_path, bdf):
    digital = ramp() * (200 if bdf else 1)
    recording = open_recording(write_edf(tmp_path / f"a.{'bdf' if bdf else 'edf'}", digital, bdf=bdf))
    step = recording.read(0, 1)[0, 0] / digital[0, 0]
    np.testing.assert_allclose(recording.read(0, 2560) / step, digital, rtol=1e-3 if bdf else 1e-9, atol=0.51)
    assert recording.highpass == 0.1
    assert recording.lowpass == 100.0


@pytest.mark.parametrize(("unit", "factor"), [("uV", 1.0), ("mV", 1e3), ("V", 1e6), ("nV", 1e-3)])
def test_units_of_the_header_are_honoured(tmp_path, unit, factor):
    digital = ramp(1)
    plain = open_recording(write_edf(tmp_path / "a.edf", digital)).read(0, 100)
    other = open_recording(write_edf(tmp_path / "b.edf", digital, unit=unit)).read(0, 100)
    np.testing.assert_allclose(other, plain * factor)


def test_a_truncated_file_keeps_what_is_there_and_strict_refuses(tmp_path):
    whole = write_edf(tmp_path / "night.edf", ramp())
    data = whole.read_bytes()
    record = 2 * 256 * 2
    whole.write_bytes(data[: len(data) - 3 * record - 100])  # 6 whole records are left of 10
    recording = open_recording(whole)
    assert recording.n_samples == 6 * 256
    assert any("promises 10 records of 1 s but the file ends after 6" in note for note in recording.notes)
    np.testing.assert_allclose(recording.read(0, 6 * 256) / 0.1, ramp()[:, : 6 * 256], atol=0.6)
    with pytest.raises(UserError, match="promises 10 records"):
        open_recording(whole, strict=True)


@pytest.mark.parametrize("promised", [-1, 3])
def test_a_header_that_lies_about_the_length_is_corrected_by_the_file(tmp_path, promised):
    path = write_edf(tmp_path / "a.edf", ramp(), n_records=promised)
    recording = open_recording(path)
    assert recording.n_samples == 2560
    assert any("the file holds 10" in note for note in recording.notes)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "empty"),
        (b"time,Fp1,Fp2\n0.0,1.0,2.0\n" * 50, "a text file under the name .edf"),
        (b"0       short", "too short"),
        (np.random.default_rng(0).bytes(5000), "no EDF or BDF file"),
    ],
)
def test_rejects_file_that_is_not_edf(tmp_path, content, sentence):
    path = tmp_path / "x.edf"
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence) as caught:
        open_recording(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_gigantic_promise_allocates_nothing(tmp_path):
    """4000 signals of 250 million samples each, in a file of a megabyte: refused, within 20 MB and 2 seconds."""
    path = tmp_path / "huge.edf"
    head = bytearray(write_edf(tmp_path / "a.edf", ramp(1)).read_bytes()[:256])
    head[252:256] = b"4000"
    head[236:244] = b"99999999"
    path.write_bytes(bytes(head) + b"250000000".ljust(256 * 4000, b"1"))
    started = time.monotonic()
    with pytest.raises(UserError):
        open_recording(path)
    assert time.monotonic() - started < 2

    def refused():
        with pytest.raises(UserError):
            open_recording(path)

    assert peak_of(refused) < 20e6


def test_annotations_become_codes_at_the_right_sample(tmp_path):
    """T0 at 1.5 s is sample 384 at 256 Hz; the file starts 0.25 s after the second of its header."""
    tals = [tal(0.25 + r) for r in range(10)]
    tals[1] += tal(1.75, "T0", 0.5)
    tals[4] += tal(4.25, "T1", 2)
    recording = open_recording(write_edf(tmp_path / "a.edf", ramp(), plus="C", tals=tals))
    assert [(e.sample, e.code, e.duration) for e in recording.events] == [(384, "T0", 0.5), (1024, "T1", 2.0)]


def test_free_text_and_names_never_become_codes(tmp_path):
    """A repeated word of the patient field, and a repeated date, are dropped; other words are there only on request."""
    texts = ["patient asleep", "Mueller", "Mueller", "2020-01-02", "2020-01-02", "face", "face", "S 12"]
    tals = [tal(r) + (tal(r + 0.5, texts[r]) if r < len(texts) else b"") for r in range(10)]
    path = write_edf(tmp_path / "a.edf", ramp(), plus="C", tals=tals, patient="0815 F 02-MAY-1951 Mueller_Anna")
    recording = open_recording(path)
    assert [e.code for e in recording.events] == ["S12"]
    assert [e.code for e in recording.free_text] == ["patient asleep", "face", "face"]
    assert "4 annotations with names, dates or long texts dropped" in recording.notes
    assert "Mueller" not in repr(recording)


def test_a_discontinuous_edf_is_split_at_its_gaps(tmp_path):
    """Records start at 0, 1, 2, 10, 11, 20, … s: segments [0, 3), [3, 5), [5, 10) records, events in the right one."""
    starts = [0, 1, 2, 10, 11, 20, 21, 22, 23, 24]
    tals = [tal(t) for t in starts]
    tals[3] += tal(10.5, "A1")
    recording = open_recording(write_edf(tmp_path / "a.edf", ramp(), plus="D", tals=tals))
    assert recording.segments == ((0, 768), (768, 1280), (1280, 2560))
    assert [e.sample for e in recording.events] == [3 * 256 + 128]
    assert any("2 discontinuities" in note for note in recording.notes)


def test_a_discontinuous_edf_without_onsets_is_refused(tmp_path):
    path = write_edf(tmp_path / "a.edf", ramp(), plus="D")
    with pytest.raises(UserError, match=r"EDF\+D"):
        open_recording(path)


def test_reading_is_lazy(tmp_path):
    """Reading 1 s out of a file of 49 MB takes less than 1 MB."""
    path = write_edf(tmp_path / "long.edf", np.tile(ramp(4, 256 * 100), (2, 120)))
    recording = open_recording(path)
    assert recording.read(256 * 5000 + 11, 256 * 5001 + 11).shape == (8, 256)
    assert path.stat().st_size > 40e6
    assert peak_of(lambda: recording.read(256 * 5000 + 11, 256 * 5001 + 11)) < 1e6


@pytest.mark.parametrize(
    ("text", "edges"),
    [
        ("HP:0.5Hz LP:45Hz N:50Hz", (0.5, 45.0)),
        ("HP: 0.1s LP: 70Hz", (1 / (2 * np.pi * 0.1), 70.0)),  # a time constant: f = 1 / 2πτ
        ("HP:DC; LP:417", (None, 417.0)),
        ("", (None, None)),
    ],
)
def test_prefilter_texts(text, edges):
    found = filter_edges([text])
    assert found == pytest.approx(edges) if None not in edges else found == edges


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("UV", 1.0), ("µV", 1.0), ("ÂµV", 1.0), ("Î¼V", 1.0), ("\x83\xeaV", 1.0), ("[uV]", 1.0), ("microV", 1.0),
     ("uVolt", 1.0), ("MV", 1e3), ("Volts", 1e6), ("kV", 1e9), ("pV", 1e-6)],
)  # fmt: skip
def test_every_spelling_of_a_unit_is_understood(tmp_path, unit, factor):
    plain = open_recording(write_edf(tmp_path / "a.edf", ramp(1))).read(0, 100)
    other = open_recording(write_edf(tmp_path / "b.edf", ramp(1), unit=unit))
    np.testing.assert_allclose(other.read(0, 100), plain * factor)
    assert not any("read as µV" in note for note in other.notes)


def test_an_unknown_unit_is_named(tmp_path):
    recording = open_recording(write_edf(tmp_path / "a.edf", ramp(1), unit="furlong"))
    assert "unit 'furlong' read as µV" in recording.notes


def test_the_idle_level_of_biosemi_is_not_an_event(tmp_path):
    """The trigger input rests at 255; the two highest of the 24 bits are the amplifier's."""
    status = np.repeat([255, 5, 255, 7, 255], [300, 20, 200, 10, 2030]) | (1 << 16)
    digital = np.vstack([ramp(1), status[None]])
    recording = open_recording(write_edf(tmp_path / "a.bdf", digital, bdf=True, labels=["A1", "Status"]))
    assert [(e.sample, e.code) for e in recording.events] == [(300, "5"), (520, "7")]
    assert "the stimulus channel rests at 255 (99 % of the time): not an event" in recording.notes
