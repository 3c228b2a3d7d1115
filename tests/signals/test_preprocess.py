"""From a recording to windows: what is promised about time, reference, amplitude, edges and memory."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from recorded import TEN_TWENTY, noise, recording

from dreamjax.errors import UserError
from dreamjax.signals.datasets import records
from dreamjax.signals.preparation import quality
from dreamjax.signals.preparation import recording_plan as plan
from dreamjax.signals.preparation.window_settings import EventWindows, WindowSettings
from dreamjax.signals.preparation.windows import RecordingWindows
from dreamjax.signals.recordings.identity import Identity

AS_RECORDED = WindowSettings(reference="recorded", notch="off")
UNFILTERED = WindowSettings(low=None, high=None, notch="off", reference="recorded")
IDENTITY = Identity("subject", "session", "recording")


def all_windows(rec, settings=AS_RECORDED):
    return list(RecordingWindows(rec, settings, IDENTITY))


# ------------------------------------------------------------------------------------------------------- time and place
def test_windows_tile_the_recording_in_relative_time():
    windows = all_windows(recording(noise(4, 20)))
    assert [w.start for w in windows] == [2.0 * i for i in range(10)]
    assert {w.signal.shape for w in windows} == {(4, 512)}
    assert {(w.subject, w.session, w.recording) for w in windows} == {("subject", "session", "recording")}


def test_overlapping_windows_agree_where_they_overlap():
    windows = all_windows(recording(noise(3, 20)), dataclasses.replace(AS_RECORDED, stride=128))
    assert len(windows) == (20 * 256 - 512) // 128 + 1
    np.testing.assert_array_equal(windows[0].signal[:, 128:], windows[1].signal[:, :384])


def test_no_window_crosses_a_discontinuity():
    """Unfiltered samples carry their own index: each window is one unbroken run inside one segment."""
    segments = ((0, 1300), (1300, 1700), (1700, 1800), (1900, 5000))
    rec = recording(np.stack([np.arange(5000.0)] * 2), segments=segments)
    limits = quality.EegLimits(implausible="flag", noisy_uv=1e9)
    windows = all_windows(rec, dataclasses.replace(UNFILTERED, limits=limits))
    for w in windows:
        run = w.signal[0, w.valid]
        assert np.all(np.diff(run) == 1)
        assert any(a <= run[0] and run[-1] < b for a, b in segments)
    lengths = [int(w.valid.sum()) for w in windows]
    assert lengths == [512, 512, 400] + [512] * 6  # 400 samples are padded; 100 are less than a quarter of a window


def test_windows_that_do_not_go_on_from_the_one_before_say_so():
    """Segments of whole windows touch in the file; the first of each is marked, and every pre-cut trial is."""
    segments = ((0, 1024), (1024, 2048))
    windows = all_windows(recording(noise(4, 8), segments=segments))
    assert [records.APART in w.flags for w in windows] == [True, False, True, False]
    trials = all_windows(recording(noise(4, 8), segments=segments, precut=True))
    assert all(records.APART in w.flags for w in trials)


def test_filters_do_not_reach_across_a_discontinuity():
    """The same segment, alone or after a segment a thousand times as large, gives the same windows."""
    quiet, loud = noise(2, 10, seed=1), noise(2, 10, seed=2, scale=15_000.0)
    limits = quality.EegLimits(implausible="flag", noisy_uv=1e9)
    settings = dataclasses.replace(AS_RECORDED, limits=limits)
    both = recording(np.concatenate([loud, quiet], axis=1), segments=((0, 2560), (2560, 5120)))
    alone = all_windows(recording(quiet), settings)
    after = all_windows(both, settings)[-len(alone) :]
    np.testing.assert_allclose(after[0].signal, alone[0].signal, atol=1e-4)


@pytest.mark.parametrize("block", [40_000, 400_000])
@pytest.mark.parametrize("sfreq", [500.0, 256.0])
def test_the_blocks_leave_no_trace(block, sfreq, monkeypatch):
    """Read in many small blocks or in one: windows and statistics equal within 1e-6 of the signal's scale."""
    rec = recording(noise(19, 90, sfreq), sfreq)
    whole = all_windows(rec, WindowSettings())
    monkeypatch.setattr(plan, "BLOCK_VALUES", block)
    parts = all_windows(rec, WindowSettings())
    assert len(whole) == len(parts) == 45
    difference = max(np.abs(a.signal - b.signal).max() for a, b in zip(whole, parts, strict=True))
    assert difference < 1e-6 * whole[0].scale
    assert parts[0].scale == pytest.approx(whole[0].scale, rel=1e-6)


def _long_recording(hours: float, channels: int, sfreq: float):
    """A recording that exists only where it is read: a value is a hash of its position, so any span can be computed."""
    names = [f"E{i}" for i in range(channels)]
    asked = []

    def read(start, stop, picks):
        asked.append(stop - start)
        t = np.arange(start, stop, dtype=np.uint64)
        rows = []
        for c in picks:
            x = (t * np.uint64(2654435761) + np.uint64(c * 40503)) * np.uint64(2246822519)
            rows.append(((x >> np.uint64(16)) % np.uint64(65536)).astype(np.float64) / 65536 - 0.5)
        return 60.0 * np.stack(rows)

    return recording(read, sfreq, names, n_samples=round(hours * 3600 * sfreq)), asked


def _peak_while(function) -> tuple[object, int]:
    import tracemalloc

    tracemalloc.start()
    try:
        return function(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_recording(monkeypatch):
    """A recording three times as long needs no more at any moment (8 channels, 250 Hz, blocks of 62 s)."""
    monkeypatch.setattr(plan, "BLOCK_VALUES", 125_000)
    settings = dataclasses.replace(AS_RECORDED, stride=512 * 20)
    peaks = []
    for hours in (0.5, 1.5):
        rec, _ = _long_recording(hours, 8, 250.0)
        count, peak = _peak_while(lambda rec=rec: sum(1 for _ in RecordingWindows(rec, settings, IDENTITY)))
        assert count == int((hours * 3600 * 256 - 512) // (512 * 20)) + 1
        peaks.append(peak)
    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[1] < 1.5 * 3600 * 250 * 8 * 8 / 3  # a third of the recording itself


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_day_of_64_channels_fits_in_two_gigabytes():
    """24 h, 64 channels, 500 Hz: at most 1.5 GiB more than before, with which a process of its own stays below 2; and
    windows equal those of an excerpt filtered as a whole.
    """
    rec, asked = _long_recording(24.0, 64, 500.0)
    windows = iter(RecordingWindows(rec, AS_RECORDED, IDENTITY))
    middle = None
    count = 0
    before = most = resident()  # not the process's highest so far: other tests may have needed more
    for w in windows:
        count += 1
        if count % 100 == 0:
            most = max(most, resident())
        if count == 21_000:
            middle = w
    assert count == 43_200
    assert most - before < 1.5 * 2**30
    assert max(asked) < 500 * 400
    around = round(
        (middle.start - 40) * 500
    )  # an excerpt that begins at a whole window, long before the filter's reach
    excerpt = recording(rec.read(around, around + 500 * 90), 500.0, rec.ch_names)
    alone = next(w for w in RecordingWindows(excerpt, AS_RECORDED, IDENTITY) if w.start == 40.0)
    assert np.abs(alone.signal - middle.signal).max() < 1e-6 * middle.scale


# ----------------------------------------------------------------------------------------------------------- the signal
def test_a_sine_keeps_its_amplitude_in_microvolts():
    t = np.arange(500 * 30) / 500
    rec = recording(20 * np.sin(2 * np.pi * 10 * t)[None], 500.0, ["Cz"])
    (window,) = [w for w in all_windows(rec) if w.start == 14.0]
    expected = 20 * np.sin(2 * np.pi * 10 * (14 + np.arange(512) / 256))
    np.testing.assert_allclose(window.signal[0], expected, atol=0.2)


def test_an_average_reference_sums_to_zero_and_loses_one_rank():
    window = all_windows(recording(noise(19, 10)), WindowSettings())[0]
    assert window.reference == "average"
    assert window.montage_rank == 18 == np.linalg.matrix_rank(window.signal.astype(float), tol=1e-2)
    np.testing.assert_allclose(window.signal.mean(axis=0), 0, atol=1e-4)


def test_few_or_crowded_electrodes_stay_as_recorded():
    for names in (TEN_TWENTY[:8], ("O1", "O2", "Oz", "Pz")):
        window = all_windows(recording(noise(len(names), 10), names=names), WindowSettings())[0]
        assert window.reference == "unknown"
        assert window.montage_rank == len(names) == np.linalg.matrix_rank(window.signal.astype(float), tol=1e-2)


def test_an_averaged_file_keeps_its_lower_rank():
    x = noise(6, 10)
    window = all_windows(recording(x - x.mean(axis=0), reference="average"))[0]
    assert (window.reference, window.montage_rank) == ("average", 5)


def test_a_dead_channel_does_not_enter_the_average():
    """The mean over the 18 others is subtracted, so the dead channel shows exactly minus that mean."""
    x = noise(19, 10)
    x[3] = 0.0
    window = all_windows(recording(x), WindowSettings())[0]
    assert not window.channel_ok[3]
    assert "flat:F3" in window.flags
    others = np.delete(window.signal, 3, axis=0)
    np.testing.assert_allclose(others.mean(axis=0), 0, atol=1e-4)
    assert window.signal[3].std() > 1


def test_only_eeg_channels_are_kept():
    rec = recording(noise(4, 10), sensor_kind=("eeg", "eog", "eeg", "ecg"))
    assert all_windows(rec)[0].ch_names == ("Fp1", "F7")
    with pytest.raises(UserError, match="no EEG channel"):
        all_windows(recording(noise(2, 10), sensor_kind=("eog", "misc")))


def test_the_scale_is_the_sd_of_gaussian_noise_and_deaf_to_blinks():
    """1.4826 · MAD estimates σ; the filter keeps 79 of 128 Hz of white noise. Blinks double the SD, not it."""
    rec = recording(noise(6, 120, scale=20.0))
    clean = all_windows(rec)[0].scale
    assert clean == pytest.approx(20 * np.sqrt(79.2 / 128), rel=0.05)  # half amplitude at 84.4 Hz: about 79 Hz of power
    x = noise(6, 120, scale=20.0)
    for start in range(0, x.shape[1], 5 * 256):
        x[:, start : start + 40] += 200
    blinking = all_windows(recording(x))
    assert np.concatenate([w.signal for w in blinking], axis=1).std() > 2 * clean
    assert blinking[0].scale == pytest.approx(clean, rel=0.15)


@pytest.mark.parametrize(
    ("fields", "settings", "band"),
    [
        ({}, {}, [0.5, 75.0]),
        ({"sfreq": 128.0}, {}, [0.5, 0.45 * 128]),
        ({"sfreq": 1000.0}, {"sfreq": 128.0, "samples": 256}, [0.5, 0.45 * 128]),
        ({"lowpass": 40.0}, {}, [0.5, 40.0]),
        ({"lowpass": 0.0}, {}, [0.5, 75.0]),  # a header that knows nothing
        ({"precut": True}, {}, [None, 75.0]),
    ],
)
def test_the_pass_band_never_exceeds_the_rate_or_the_files_own_filter(fields, settings, band):
    sfreq = fields.get("sfreq", 256.0)
    rec = recording(noise(4, 10, sfreq), **{"sfreq": sfreq, **fields})
    plan = RecordingWindows(rec, dataclasses.replace(AS_RECORDED, **settings), IDENTITY).plan
    assert [plan.low, plan.high] == band


@pytest.mark.parametrize(
    ("notch", "line_freq", "hum", "expected"),
    [
        ("auto", None, 60.0, (60.0, "detected")),
        ("auto", None, None, (None, "none")),
        ("auto", 50.0, None, (50.0, "file")),
        ("off", 50.0, 60.0, (None, "none")),
        ("16.7", None, None, (16.7, "setting")),
    ],
)
def test_the_notch_follows_the_file_then_the_peak(notch, line_freq, hum, expected):
    x = noise(4, 30)
    if hum:
        x += 30 * np.sin(2 * np.pi * hum * np.arange(x.shape[1]) / 256)
    made = RecordingWindows(
        recording(x, line_freq=line_freq), WindowSettings(notch=notch, reference="recorded"), IDENTITY
    )
    assert (made.plan.line, made.plan.line_source) == expected
    if hum and notch == "auto":
        window = list(made)[7].signal.astype(float)
        power = np.square(np.abs(np.fft.rfft(window * np.hanning(512))))
        assert power[:, 120].max() < 0.05 * np.median(power[:, 80:100])  # 60 Hz is bin 120


# ---------------------------------------------------------------------------------------------------------- bad samples
def test_a_gap_of_nan_in_one_channel_costs_that_channel_in_the_windows_that_hold_it():
    x = noise(4, 40)
    clean = all_windows(recording(x))
    x[2, 5000:5010] = np.nan
    made = RecordingWindows(recording(x), AS_RECORDED, IDENTITY)
    flagged = {w.start: (w.flags, w.channel_ok.tolist()) for w in made if any(f.startswith("missing") for f in w.flags)}
    assert flagged == {5000 // 512 * 2.0: (("missing:F7",), [True, True, False, True])}
    assert len(clean) == made.judged
    assert made.rejects == []


def test_a_channel_without_a_finite_sample_is_flagged_and_the_recording_kept():
    x = noise(19, 12)
    x[4] = np.nan
    for reference in ("recorded", "average"):
        made = RecordingWindows(recording(x), WindowSettings(reference=reference), IDENTITY)
        windows = list(made)
        assert [w.channel_ok.tolist() for w in windows] == [[i != 4 for i in range(19)]] * 6
        assert made.plan.notes == ("1 channel without a finite sample: Fz",)
        assert made.plan.as_json()["median_sd_uv"] == pytest.approx(15 * (75 / 128) ** 0.5, rel=0.1)
        assert np.isfinite(np.array([w.signal for w in windows])).all()
        assert np.isfinite(made.plan.scale)
    np.testing.assert_allclose(np.array([w.signal[w.channel_ok].sum(axis=0) for w in windows]), 0, atol=1e-3)


def test_railed_inputs_are_called_railed_and_not_a_wrong_unit():
    """An OpenBCI input without contact rests at ±187,500 µV, the end of its range."""
    x = noise(8, 12)
    x[2:5] = 187500.02
    made = RecordingWindows(recording(x), AS_RECORDED, IDENTITY)
    assert {w.flags[:3] for w in made} == {("railed:F7", "railed:F3", "railed:Fz")}
    assert made.plan.notes == ("3 channels railed: F7 (±187,500 µV), F3 (±187,500 µV), Fz (±187,500 µV)",)
    half = noise(8, 12)
    half[2, :1500] = -187500.02  # an electrode that was put on later
    half[2, 1500:] += 40_000
    made = RecordingWindows(recording(half), AS_RECORDED, IDENTITY)
    assert [any(f == "railed:F7" for f in w.flags) for w in made] == [True, True, True, False, False, False]
    x[:] = 187500.02
    with pytest.raises(UserError, match=r"railed: 8 of 8 inputs are held at their limit of up to ±187,500 µV"):
        RecordingWindows(recording(x), AS_RECORDED, IDENTITY)
    with pytest.raises(UserError, match=r"no signal: none of its 8 channels varies"):
        RecordingWindows(recording(x * 0), AS_RECORDED, IDENTITY)


@pytest.mark.parametrize("sfreq", [100.0, 128.0, 250.0, 256.0, 500.0, 1000.0])
def test_no_window_is_lost_at_the_end_whatever_the_rate(sfreq):
    """20 s are ten windows of 2 s, also where the last samples come after the last recorded one."""
    windows = all_windows(recording(noise(4, 20, sfreq), sfreq=sfreq))
    assert len(windows) == 10
    assert windows[-1].valid.all()


@pytest.mark.parametrize(
    ("settings", "flagged"),
    [
        ({}, False),  # the notch takes it out
        ({"notch": "off", "high": 30.0}, False),  # the low-pass does
        ({"notch": "off"}, True),
        ({"notch": "off", "line_ratio": 25.0}, False),
        ({"notch": "60"}, True),  # taken out where it is not
    ],
)
def test_line_noise_is_judged_on_what_the_filters_leave(settings, flagged):
    """50 µV of 50 Hz: ten times as much power as the noise."""
    x = noise(4, 20) + 50 * np.sin(2 * np.pi * 50 * np.arange(20 * 256) / 256)
    steps = {"reference": "recorded"} | settings
    ratio = {"line_ratio": steps.pop("line_ratio")} if "line_ratio" in steps else {}
    settled = WindowSettings(**steps, limits=quality.EegLimits(**ratio))
    made = RecordingWindows(recording(x), settled, IDENTITY)
    kept = list(made)
    assert (len(kept), len(made.rejects)) == ((0, 10) if flagged else (10, 0))
    if flagged:
        assert {r.reason for r in made.rejects} == {"only 0 of 4 channels are good (mostly line)"}


def test_a_gap_of_nan_costs_the_windows_that_hold_it_and_no_other():
    x = noise(4, 40)
    clean = all_windows(recording(x))
    x[:, 5000:5010] = np.nan
    made = RecordingWindows(recording(x), AS_RECORDED, IDENTITY)
    kept = {w.start: w for w in made}
    lost = 5000 // 512 * 2.0
    assert set(kept) == {w.start for w in clean} - {lost}
    assert [(r.start, r.reason) for r in made.rejects] == [(lost, "samples are not finite")]
    np.testing.assert_allclose(kept[0.0].signal, clean[0].signal, atol=1e-3)


def test_a_recording_of_nan_has_one_reason():
    with pytest.raises(UserError, match="no finite stretch"):
        all_windows(recording(np.full((3, 5000), np.nan)))


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_wrong_units_are_refused_never_rescaled(factor):
    """Volts taken for microvolts, or the reverse; with `flag` the values stay as they are."""
    x = noise(4, 20) * factor
    with pytest.raises(UserError, match="implausible amplitude"):
        all_windows(recording(x))
    limits = quality.EegLimits(implausible="flag", flat_uv=0, noisy_uv=np.inf)
    kept = all_windows(recording(x), dataclasses.replace(AS_RECORDED, limits=limits))
    assert "implausible amplitude" in kept[0].flags
    assert kept[3].signal.std() == pytest.approx(
        all_windows(recording(noise(4, 20)))[3].signal.std() * factor, rel=1e-3
    )


def test_clipped_channels_are_flagged_from_the_samples_as_recorded():
    x = noise(5, 20)
    x[1] = np.clip(x[1] * 4, -30, 30)
    x[1, 512 * 3 : 512 * 3 + 100] = 30  # a plateau of 0.4 s in the fourth window
    windows = all_windows(recording(x))
    assert not windows[3].channel_ok[1]
    assert "clipped:Fp2" in windows[3].flags
    assert windows[3].channel_ok.sum() == 4


def test_channels_marked_bad_by_the_file_are_not_ok():
    windows = all_windows(recording(noise(19, 10), bad_channels=("Cz",)), WindowSettings())
    assert not windows[0].channel_ok[TEN_TWENTY.index("Cz")]


# ------------------------------------------------------------------------------------------------------------- settings
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"low": 80.0}, "pass band"),
        ({"low": -1.0, "high": None}, "low is -1, but it must be a positive number of Hz, or none"),
        ({"high": 0.0, "low": None}, "high is 0"),
        ({"sfreq": 0.0}, "sfreq is 0, but it must be a positive number of Hz"),
        ({"sfreq": np.nan}, "sfreq is nan"),
        ({"notch": "inf"}, "auto, off or a frequency"),
        ({"notch": "fifty"}, "auto, off or a frequency"),
        ({"samples": 1}, "samples must be"),
        ({"min_fraction": 0.0}, "min_fraction"),
        ({"events": EventWindows(source="file", tmin=-1, tmax=2)}, "set samples to 768"),
        (
            {"events": EventWindows(source="file", tmin=1, tmax=0.5)},
            "tmax is 0.5 s, but it must be later than tmin, 1 s",
        ),
        ({"events": EventWindows(source="file", tmin=0, tmax=1, baseline=(-0.2, 0.0))}, "baseline"),
    ],
)
def test_settings_that_cannot_work_say_so(fields, words):
    with pytest.raises(ValueError, match=words):
        WindowSettings(**fields)


def test_every_step_is_described_and_no_path_is():
    values = WindowSettings(events=EventWindows(source="/home/hans/events.csv")).as_json()
    assert set(values) == {f.name for f in dataclasses.fields(WindowSettings)} - {"meg_limits"}  # of recordings of MEG
    assert values["events"]["source"] == "table"
    assert values["stride"] == 512


@pytest.mark.parametrize("causal", [False, True])
def test_causal_windows_do_not_see_later_samples(causal):
    """A step of 500 µV at 10 s: windows before it change only where the filters may look ahead."""
    x = noise(4, 20)
    stepped = x.copy()
    stepped[:, 10 * 256 :] += 500
    settings = dataclasses.replace(AS_RECORDED, causal=causal, limits=quality.EegLimits(noisy_uv=np.inf))
    before, after = (all_windows(recording(y), settings)[4].signal for y in (x, stepped))
    assert (np.abs(before - after).max() < 1e-3) == causal
