"""Simulated files through the real readers and the real preparation: what was put in comes out."""

import json

import numpy as np
import pytest

pytest.importorskip("mne")
pytest.importorskip("edfio")

from dreamjax.signals.datasets import records
from dreamjax.signals.preparation.prepare import PrepareOptions, prepare
from dreamjax.signals.preparation.window_settings import EventWindows, WindowSettings
from dreamjax.signals.recordings.identity import SplitRequest
from dreamjax.signals.simulation import simulate as sim

EVENTS = EventWindows(source="file", tmin=-0.2, tmax=0.8, baseline=(-0.2, 0.0))


def epochs(tmp_path, name, **settings):
    """(truth, windows of a simulated set cut around its images, 1 s each at 256 Hz)."""
    sim.simulate(
        tmp_path / name, sim.SimulationSettings(subjects=1, minutes=3, channels=19, classes=2, seed=3, **settings)
    )
    steps = WindowSettings(samples=256, events=EVENTS)
    options = PrepareOptions(workers=0, splits=SplitRequest(fractions={"train": 1.0, "val": 0.0, "test": 0.0}))
    prepare([tmp_path / name], tmp_path / f"{name}-shards", steps, options)
    truth = json.loads((tmp_path / name / "truth.json").read_text())
    return truth, list(records.read_windows(tmp_path / f"{name}-shards", "train"))


def expected_average(truth, windows, label):
    """Mean expected response to the images that these windows name, average-referenced, at the windows' samples."""
    numbers = {p["file"]: i for i, p in enumerate(truth["images"])}
    seconds = np.arange(256) / 256 - 0.2
    shown = [numbers[w.stimulus] for w in windows if w.label == label]
    mean = np.mean([sim.expected_response(truth, 0, p, seconds) for p in shown], 0)
    return mean - mean.mean(0)


def test_every_trial_arrives_with_its_class_and_its_image(tmp_path):
    truth, windows = epochs(tmp_path, "set")
    shown = [truth["images"][p] for _, p in truth["subjects"][0]["trials"]]
    assert [(w.label, w.stimulus) for w in windows] == [(p["shape"], p["file"]) for p in shown]
    onsets = [sample / 250 - 0.2 for sample, _ in truth["subjects"][0]["trials"]]
    np.testing.assert_allclose([w.start for w in windows], onsets, atol=0.5 / 256)  # the nearest sample at 256 Hz
    assert set(windows[0].ch_names) == set(truth["subjects"][0]["ch_names"])
    assert windows[0].licence == "CC0-1.0"


def test_class_averages_are_the_expected_responses_and_none_without_strength(tmp_path):
    """With strength 4 the average is the truth to a few tenths of its size; with 0, what is left is noise."""
    truth, windows = epochs(tmp_path, "strong", strength=4.0, blink_uv=0.0)
    _, null = epochs(tmp_path, "null", strength=0.0, blink_uv=0.0)
    names = windows[0].ch_names
    order = [truth["subjects"][0]["ch_names"].index(n) for n in names]
    for label in ("circle", "bar"):
        measured = np.mean([w.signal for w in windows if w.label == label], 0)
        expected = expected_average(truth, windows, label)[order]
        assert np.corrcoef(measured.ravel(), expected.ravel())[0, 1] > 0.9
        slope = (measured * expected).sum() / (expected**2).sum()
        assert slope == pytest.approx(1, abs=0.1)  # in µV: no step of the way has changed the unit
        nothing = np.mean([w.signal for w in null if w.label == label], 0)
        assert abs((nothing * expected).sum() / (expected**2).sum()) < 0.15
