"""The controls on simulated recordings, through the real readers: blocks light them up, a random order does not."""

import dataclasses

import numpy as np
import pytest

from dreamjax.errors import UserError
from dreamjax.evaluation import controls
from dreamjax.evaluation.controls import ClassTask, ControlData
from dreamjax.metrics import bootstrap
from dreamjax.signals.datasets import records
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.signals.preparation import prepare, window_settings
from dreamjax.signals.simulation import simulate
from dreamjax.targets import trials
from dreamjax.targets.trials import TargetConfig

CLASSES = 3
QUIET = prepare.PrepareOptions(workers=0, salt="test")


def study(root, order, strength, drift):
    """Four people; drift is kept by leaving out the high-pass filter."""
    simulate.simulate(
        root / "study",
        simulate.SimulationSettings(
            subjects=4,
            minutes=2.5,
            channels=8,
            sfreq=128.0,
            classes=CLASSES,
            images_per_class=20,
            strength=strength,
            order=order,
            drift_uv=drift,
            rest_fraction=0.25,
            blinks_per_minute=0,
        ),
    )
    settings = window_settings.WindowSettings(low=None, samples=128, sfreq=128)
    around = {"shards": (0.0, 0.8), "before": (-0.5, 0.0)}
    for name, (tmin, tmax) in around.items():
        events = window_settings.EventWindows(source="file", tmin=tmin, tmax=tmax)
        prepare.prepare([root / "study"], root / name, dataclasses.replace(settings, events=events), QUIET)
    prepare.prepare([root / "study"], root / "free", settings, QUIET)
    return root


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    made = {}
    for name, order, strength, drift in (
        ("blocks of nothing", "block", 0.0, 40.0),
        ("nothing", "random", 0.0, 40.0),
        ("evoked", "random", 8.0, 5.0),
    ):
        made[name] = study(tmp_path_factory.mktemp("controls"), order, strength, drift)
    return made


def asked(root):
    data = DataConfig(path=(str(root / "shards"),), samples=128, sfreq=128.0)
    target = TargetConfig(folder=str(root / "study" / "stimuli"), val_share=0.25, test_share=0.4)
    found = {s: trials.trials(data, target, s, seed=0, training=False) for s in trials.SPLITS}
    return ClassTask.of(data, found["train"], found["val"], found["test"], np.arange(len(found["test"])), seed=0)


@pytest.fixture(scope="module")
def answered(studies):
    out = {}
    for name, root in studies.items():
        own = asked(root)
        given = controls.answers(own, ControlData((str(root / "before"),), (str(root / "free"),)))
        out[name] = own, {answer.name: answer for answer in given}
    return out


def share(answered, study, control):
    own, given = answered[study]
    right = (given[control].classes == own.true).astype(float)
    return bootstrap.interval(
        np.stack([right, np.ones_like(right)], 1), lambda r: r[..., 0].sum(-1) / r[..., 1].sum(-1)
    )


@pytest.mark.parametrize("control", [controls.TIME, controls.BEFORE, controls.BLOCKS, controls.CLASSIFIER])
def test_controls_detect_drift_and_blocks_without_evoked_responses(answered, control):
    assert share(answered, "blocks of nothing", control).low > 1 / CLASSES


@pytest.mark.parametrize("control", [controls.TIME, controls.BEFORE, controls.PERMUTED, controls.CLASSIFIER])
def test_controls_stay_at_chance_in_random_order(answered, control):
    """Pseudo-blocks do: they are the block design, made of the same drift, whatever the order of the images was."""
    found = share(answered, "nothing", control)
    assert found.low < 1 / CLASSES < found.high


def test_only_the_classifier_of_the_trial_finds_evoked_responses(answered):
    assert share(answered, "evoked", controls.CLASSIFIER).low > 0.6
    for control in (controls.TIME, controls.BEFORE, controls.PERMUTED):
        assert abs(share(answered, "evoked", control).estimate - 1 / CLASSES) < 0.12, control


def test_the_class_prior_is_the_commonest_class_of_training(answered):
    own, given = answered["evoked"]
    count = np.bincount(own.classes(own.train))
    assert set(given[controls.PRIOR].classes.tolist()) == {int(count.argmax())}


def test_windows_of_the_signal_before_are_those_of_the_same_trials(studies):
    """Matched by recording and onset: the same trial in both folders."""
    own = asked(studies["evoked"])
    _windows, told, onset = controls._other(own.data, [str(studies["evoked"] / "before")])
    place = controls._matched(own.test, told, onset)
    assert (place >= 0).mean() > 0.9
    for trial in np.flatnonzero(place >= 0):
        assert told[place[trial]]["stimulus"] == own.test.images[own.test.image[trial]].name
        assert told[place[trial]]["recording"] == own.test.recording[trial]


def test_free_windows_hold_no_image(studies):
    own = asked(studies["evoked"])
    _windows, told, start = controls._other(own.data, [str(studies["evoked"] / "free")], around_events=False)
    free = controls._free(own, told, start)
    assert len(free) > 4 * 25
    onsets = {}
    for found in (own.train, own.val, own.test):
        for recording, at in zip(found.recording, found.start, strict=True):
            onsets.setdefault(recording, []).append(at)
    for i in free:
        later = [at for at in onsets[told[i]["recording"]] if start[i] - 1 < at < start[i] + 1]
        assert not later


def test_missing_controls_have_a_reason(studies, monkeypatch):
    own = asked(studies["evoked"])
    monkeypatch.setattr(records, "impossible", lambda path: {"block": "a block is a class"})
    given = {a.name: a for a in controls.answers(own, ControlData())}
    assert given[controls.BEFORE].classes is None
    assert "--before FOLDER" in given[controls.BEFORE].why
    assert given[controls.BLOCKS].why == "a block is a class"
    nameless = dataclasses.replace(own, names=("shown",))
    assert {a.why for a in controls.answers(nameless, ControlData())} == {"the trials have no classes"}
    with pytest.raises(UserError, match="reach beyond the onset"):
        controls.answers(own, ControlData(before=(str(studies["evoked"] / "shards"),)))
    with pytest.raises(UserError, match="holds continuous signal, not trials"):
        controls.check(ControlData(before=(str(studies["evoked"] / "free"),)))
    with pytest.raises(UserError, match="holds trials, not continuous signal"):
        controls.check(ControlData(free=(str(studies["evoked"] / "before"),)))
