"""Windows locked to events, and pre-cut trials."""

import dataclasses

import numpy as np
import pytest
from recorded import noise, recording

from dreamjax.signals import preprocess, quality
from dreamjax.signals.preprocess import EventWindows, Identity, Settings, Windows
from dreamjax.signals.readers.base import Event

AS_RECORDED = Settings(reference="recorded", notch="off")
UNFILTERED = Settings(low=None, high=None, notch="off", reference="recorded")
IDENTITY = Identity("subject", "session", "recording")


def all_windows(rec, settings=AS_RECORDED):
    return list(preprocess.windows(rec, settings, IDENTITY))


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
        events = tuple(Event(s + shift, 0.0, "picture") for s in samples)
        settings = event_settings(tmin=-0.125, tmax=0.25)
        limits = quality.Limits(implausible="flag", flat_uv=0, noisy_uv=np.inf)
        windows = all_windows(recording(x, events=events), dataclasses.replace(settings, limits=limits))
        first = [round(float(w.signal[0, 0]) * 100) for w in windows]
        assert first == [s + shift - 32 for s in samples]  # tmin of -0.125 s is 32 samples
        assert {int(w.valid.sum()) for w in windows} == {96}


@pytest.mark.parametrize(("offset_ms", "moved"), [(0.0, 0), (1000 / 256, 1), (-2000 / 256, -2), (100.0, 26)])
def test_an_offset_in_milliseconds_moves_to_the_nearest_sample(offset_ms, moved):
    x = np.stack([np.arange(4000.0)] * 2) / 100
    limits = quality.Limits(implausible="flag", flat_uv=0, noisy_uv=np.inf)
    settings = dataclasses.replace(event_settings(offset_ms=offset_ms), limits=limits)
    (window,) = all_windows(recording(x, events=(Event(1000, 0.0, "a"),)), settings)
    assert round(float(window.signal[0, 0]) * 100) == 1000 + moved


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
    made = Windows(recording(noise(3, 10), events=events), event_settings(tmin=-0.1), IDENTITY)
    assert len(list(made)) == 1
    assert [r.reason for r in made.rejects] == ["the event's window crosses an edge"] * 2
