"""Windows locked to events, and pre-cut trials."""

import dataclasses

import numpy as np
import pytest
from recorded import noise, recording

from dreamjax.signals.preparation import quality
from dreamjax.signals.preparation.window_settings import EventWindows, WindowSettings
from dreamjax.signals.preparation.windows import RecordingWindows
from dreamjax.signals.recordings.identity import Identity
from dreamjax.signals.recordings.readers.recording import Event

AS_RECORDED = WindowSettings(reference="recorded", notch="off")
UNFILTERED = WindowSettings(low=None, high=None, notch="off", reference="recorded")
IDENTITY = Identity("subject", "session", "recording")


def all_windows(rec, settings=AS_RECORDED):
    return list(RecordingWindows(rec, settings, IDENTITY))


# ------------------------------------------------------------------------------------------------------- pre-cut trials
def test_trials_are_demeaned_padded_and_not_high_passed():
    """A slow 0.4 Hz half wave and an offset: the shape survives, the offset does not, padding is marked."""
    t = np.arange(256) / 256
    trial = 30 * np.sin(2 * np.pi * 0.4 * t) + 1000
    rec = recording(
        np.tile(trial, (4, 3)),
        precut=True,
        segments=((0, 256), (256, 512), (512, 768)),
        segment_labels=("a", "b", "a"),
        names=["Fp1", "Cz", "O1", "O2"],
    )
    windows = all_windows(rec)
    assert [w.label for w in windows] == ["a", "b", "a"]
    for w in windows:
        assert w.valid.tolist() == [True] * 256 + [False] * 256
        assert not w.signal[:, 256:].any()
        np.testing.assert_allclose(w.signal[0, 20:236], (trial - trial.mean())[20:236], atol=0.5)


def test_the_label_of_a_whole_recording_reaches_its_windows():
    windows = all_windows(recording(noise(2, 10), segment_labels=("rest",)))
    assert {w.label for w in windows} == {"rest"}


# --------------------------------------------------------------------------------------------------------------- events
def event_settings(**fields):
    return dataclasses.replace(UNFILTERED, samples=128, events=EventWindows(source="file", **fields))


def test_markers_moved_by_one_sample_move_every_window_by_one_sample():
    """The golden test: unfiltered samples carry their index."""
    x = np.stack([np.arange(20_000.0)] * 2) / 100
    samples = [700, 3333, 9001, 15_001]
    for shift in (0, 1, 2, -1):
        events = tuple(Event(s + shift, 0.0, "image") for s in samples)
        settings = event_settings(tmin=-0.125, tmax=0.25)
        limits = quality.EegLimits(implausible="flag", flat_uv=0, noisy_uv=np.inf)
        windows = all_windows(recording(x, events=events), dataclasses.replace(settings, limits=limits))
        first = [round(float(w.signal[0, 0]) * 100) for w in windows]
        assert first == [s + shift - 32 for s in samples]  # tmin of -0.125 s is 32 samples
        assert {int(w.valid.sum()) for w in windows} == {96}


@pytest.mark.parametrize("offset_ms", [0.0, 1000 / 256, -2000 / 256, 100.0, 0.7])
def test_an_offset_in_milliseconds_moves_exactly(offset_ms):
    """Also by a part of a sample: a ramp of 0.01 µV a sample tells where its samples were taken."""
    x = np.stack([np.arange(4000.0)] * 2) / 100
    limits = quality.EegLimits(implausible="flag", flat_uv=0, noisy_uv=np.inf)
    settings = dataclasses.replace(event_settings(offset_ms=offset_ms), limits=limits)
    (window,) = all_windows(recording(x, events=(Event(1000, 0.0, "a"),)), settings)
    moved = offset_ms / 1000 * 256
    assert float(window.signal[0, 0]) * 100 == pytest.approx(1000 + moved, abs=2e-3)
    assert window.start == pytest.approx((1000 + moved) / 256, abs=1e-9)


ONSETS = (1500, 2003, 2717, 3001, 4444, 5005)  # of 500 Hz: at 256 Hz 768, then 1025.536, 1391.104, …


def test_a_sine_is_sampled_at_the_onset_itself():
    """500 → 256 Hz: sample k of every window is the sine k/256 s after the onset, within 1e-3 of its amplitude."""
    x = 20 * np.sin(2 * np.pi * np.array([[10.0], [37.0]]) * np.arange(500 * 14) / 500)
    events = tuple(Event(n, 0.0, "a") for n in ONSETS)
    settings = event_settings(tmin=-0.1, tmax=0.3)
    windows = all_windows(recording(x, 500.0, events=events), settings)
    for onset, w in zip(ONSETS, windows, strict=True):
        k = np.flatnonzero(w.valid) - 26  # the sample on the onset is the 27th
        expected = 20 * np.sin(2 * np.pi * np.array([[10.0], [37.0]]) * (onset / 500 + k / 256))
        np.testing.assert_allclose(w.signal[:, w.valid], expected, atol=20e-3)
        assert w.start == pytest.approx(onset / 500 - 26 / 256, abs=1e-9)


@pytest.mark.parametrize("sfreq", [500.0, 512.0, 1000.0, 250.0])
def test_an_evoked_response_has_its_analytic_latency(sfreq):
    """The mean over events of a 10 µV bump 100 ms after each, of 20 ms (one sigma), within 1e-3 of its height."""
    onsets = [round(sfreq * t) + i for i, t in enumerate(np.arange(2.0, 28.0, 1.3))]
    t = np.arange(round(30 * sfreq)) / sfreq

    def bump(t):
        return 10 * np.exp(-0.5 * np.square((t - 0.1) / 0.02))

    x = sum(bump(t - n / sfreq) for n in onsets)
    limits = quality.EegLimits(implausible="flag", flat_uv=0, noisy_uv=np.inf)
    settings = dataclasses.replace(event_settings(tmax=0.4), limits=limits)
    rec = recording(np.stack([x, x]), sfreq, events=tuple(Event(n, 0.0, "a") for n in onsets))
    mean = np.mean([w.signal[0, w.valid] for w in all_windows(rec, settings)], axis=0)
    k = np.arange(len(mean)) / 256
    np.testing.assert_allclose(mean, bump(k), atol=10e-3)
    assert np.abs(mean - bump(k + 0.5 / 256)).max() > 0.5  # the control: half a sample is ten times the tolerance


def test_windows_with_causal_filters_stay_on_the_grid():
    """What lies between two samples needs the later ones, so an onset there takes the nearest."""
    rec = recording(noise(3, 12, 500.0), 500.0, events=(Event(2003, 0.0, "a"),))
    settings = dataclasses.replace(event_settings(), causal=True)
    (window,) = all_windows(rec, settings)
    assert window.start == 1026 / 256


def test_events_carry_label_stimulus_and_baseline():
    x = noise(4, 30) + 7.0
    events = (Event(1000, 0.0, "house", "h1.png"), Event(3000, 0.0, "face"), Event(4000, 0.0, "button"))
    settings = event_settings(tmin=-0.1, tmax=0.3, baseline=(-0.1, 0.0), codes=("house", "face"))
    windows = all_windows(recording(x, events=events), settings)
    assert [(w.label, w.stimulus) for w in windows] == [("house", "h1.png"), ("face", "")]
    for w in windows:
        np.testing.assert_allclose(w.signal[:, :26].mean(axis=1), 0, atol=1e-4)  # 0.1 s is 26 samples


def test_events_too_near_an_edge_are_rejected_with_the_reason():
    events = (Event(10, 0.0, "a"), Event(1000, 0.0, "a"), Event(2555, 0.0, "a"))
    made = RecordingWindows(recording(noise(3, 10), events=events), event_settings(tmin=-0.1), IDENTITY)
    assert len(list(made)) == 1
    assert [r.reason for r in made.rejects] == ["the event's window crosses an edge"] * 2
