"""Quality control against signals whose faults are known by construction."""

import argparse

import numpy as np
import pytest
from recorded import noise, recording

from dreamjax.cli import prepare_verb
from dreamjax.errors import UserError
from dreamjax.signals.preparation import quality
from dreamjax.signals.preparation.quality import EegLimits, FmriLimits, MegLimits
from dreamjax.signals.preparation.window_settings import WindowSettings
from dreamjax.signals.preparation.windows import RecordingWindows
from dreamjax.signals.recordings import montage
from dreamjax.signals.recordings.identity import Identity
from dreamjax.signals.recordings.readers.recording import Recording

RATE = 256.0
NAMES = ("Fp1", "Fp2", "Cz", "O1")


def measures(**changed) -> dict[str, np.ndarray]:
    """Four healthy channels, but for what is changed."""
    healthy = {"sd": np.full(4, 10.0), "clipped": np.zeros(4), "held": np.zeros(4), "line": np.zeros(4)}
    return healthy | {k: np.asarray(v, float) for k, v in changed.items()}


@pytest.mark.parametrize("mains", [50.0, 60.0])
@pytest.mark.parametrize("sfreq", [125.0, 250.0, 1000.0])
def test_the_line_is_found_in_noise(mains, sfreq):
    rng = np.random.default_rng(0)
    if mains + 1 >= sfreq / 2:
        pytest.skip("the line lies beyond Nyquist")
    t = np.arange(round(20 * sfreq)) / sfreq
    x = rng.normal(size=(5, len(t))) * 10 + 5 * np.sin(2 * np.pi * mains * t)
    assert quality.mains_frequency([x], sfreq) == mains


def test_no_line_is_found_where_there_is_none():
    """White noise: the largest of 5 bins over the median of its neighbours stays below 3 in the median channel."""
    rng = np.random.default_rng(1)
    assert quality.mains_frequency([rng.normal(size=(8, 20 * 256))], RATE) is None
    assert quality.mains_frequency([], RATE) is None
    assert quality.mains_frequency([rng.normal(size=(8, 50))], RATE) is None


@pytest.mark.parametrize("amplitude", [0.0, 1.0, 40.0])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_line_power_is_half_the_squared_amplitude(amplitude, offset):
    """A² / 2 for a sine of amplitude A, whatever its phase and the channel's offset."""
    t = np.arange(512) / RATE
    x = amplitude * np.sin(2 * np.pi * 50 * t + 0.7) + offset
    found = quality.line_power(x[None, None], RATE, 50.0)[0, 0]
    assert found == pytest.approx(amplitude**2 / 2, abs=1e-6)


def test_plateaus_are_runs_of_equal_samples():
    x = np.arange(40.0)[None].repeat(3, axis=0)
    x[1, 10:15] = 10.0  # five equal samples: 10 … 14
    x[2, 30:34] = 30.0  # four
    inside = quality.plateaus(x, 5)
    assert np.flatnonzero(inside[1]).tolist() == [10, 11, 12, 13, 14]
    assert not inside[0].any()
    assert not inside[2].any()
    assert quality.plateaus(x[[0]], 5) is None
    for run in (2, 3, 4):  # against the definition, sample by sample
        expected = np.zeros_like(x, bool)
        for c in range(3):
            for i in range(40 - run + 1):
                if len(set(x[c, i : i + run])) == 1:
                    expected[c, i : i + run] = True
        np.testing.assert_array_equal(quality.plateaus(x, run), expected)


def test_clipping_is_a_plateau_at_the_extreme():
    """A sine of 100 cut at 80: asin(0.8) = 53.13°, so 2 · (90 - 53.13) / 180 = 41 % of the samples are clipped."""
    t = np.arange(2000) / 1000
    sine = 100 * np.sin(2 * np.pi * t)
    cut = np.clip(sine, -80, 80)
    x = np.stack([sine, cut, np.where((t > 0.5) & (t < 0.55), 3.0, sine)])
    share = quality.clipped_share(x, quality.plateaus(x, 10))
    assert share[0] == 0
    assert share[1] == pytest.approx(2 * np.arccos(0.8) / np.pi, abs=0.01)
    assert share[2] == 0  # held in the middle of its range: not clipped


@pytest.mark.parametrize(
    ("changed", "flag"),
    [
        ({"sd": [10, 0.05, 10, 10]}, "flat:Fp2"),
        ({"sd": [10, 10, 300, 10]}, "amplitude:Cz"),
        ({"clipped": [0.1, 0, 0, 0]}, "clipped:Fp1"),
        ({"held": [0, 0, 0, 0.5]}, "held:O1"),
        ({"line": [0, 0, 0, 1e5]}, "line:O1"),
    ],
)
def test_one_bad_channel_is_flagged_and_the_window_kept(changed, flag):
    ok, flags, reason = quality.judge(NAMES, EegLimits(), **measures(**changed))
    assert flags == (flag,)
    assert reason == ""
    assert [n for n, good in zip(NAMES, ok, strict=True) if not good] == [flag.split(":")[1]]


def test_a_window_of_mostly_bad_channels_is_rejected_with_the_reason():
    _, _, reason = quality.judge(NAMES, EegLimits(), **measures(sd=[0, 0, 0, 10]))
    assert reason == "only 1 of 4 channels are good (mostly flat)"


def test_healthy_windows_have_no_flags():
    ok, flags, reason = quality.judge(NAMES, EegLimits(), **measures())
    assert ok.all()
    assert (flags, reason) == ((), "")


@pytest.mark.parametrize(("sd", "plausible"), [(0.9, False), (1.0, True), (15.0, True), (100.0, True), (101.0, False)])
def test_amplitudes_outside_1_to_100_microvolts_are_implausible(sd, plausible):
    reason = quality.implausible(sd, EegLimits())
    assert (reason == "") == plausible
    assert plausible or "--unit-scale" in reason


def test_an_average_reference_needs_a_well_spread_cap():
    """The 10-20 system is; its left half, sixteen occipital electrodes, or fifteen of it are not."""
    names, xyz = montage.template("1020-19")
    assert quality.well_spread(xyz)
    left = xyz[[i for i, n in enumerate(names) if n[-1] in "13579z"]]
    assert not quality.well_spread(np.concatenate([left, left + 0.001]))
    dense = montage.template("1010-64")[1]
    assert quality.well_spread(dense)
    assert not quality.well_spread(dense[np.argsort(dense[:, 1])[:24]])  # all at the back
    assert not quality.well_spread(xyz[:15])
    unknown = xyz.copy()
    unknown[:4] = np.nan
    assert not quality.well_spread(unknown)


def meg(scale: float) -> Recording:
    """Magnetometers of noise of that SD in fT, with one EEG channel between them."""
    kinds = ("mag", "mag", "eeg", "grad")
    return recording(noise(4, 8, scale=scale), sensor_kind=kinds, modality="meg", unit="fT")


def test_a_meg_recording_is_judged_in_femtotesla():
    """300 fT would be implausible for EEG in µV; the average reference is EEG's alone."""
    made = RecordingWindows(meg(300.0), WindowSettings(notch="off", reference="average"), Identity("", "", ""))
    assert [w.ch_names for w in made] == [("Fp1", "Fp2", "F3")] * 4
    assert made.plan.limits == MegLimits()
    assert made.plan.reference == "unknown"
    assert made.plan.as_json()["unit"] == "fT"
    with pytest.raises(UserError, match=r"the median SD is .* fT, outside 5-2000 fT"):
        RecordingWindows(meg(1e-3), WindowSettings(notch="off"), Identity("", "", ""))


def test_limits_of_another_modality_keep_the_policy_for_implausible_amplitudes():
    assert quality.limits_for("meg", EegLimits(implausible="flag")) == MegLimits(implausible="flag")
    assert quality.limits_for("eeg", EegLimits(noisy_uv=50)) == EegLimits(noisy_uv=50)
    with pytest.raises(UserError, match="unknown modality 'nirs'; there are quality limits for eeg, meg, fmri"):
        quality.limits_for("nirs", EegLimits())


def test_of_fmri_only_flat_voxels_are_flagged():
    wild = measures(sd=[1.0, 1e6, 0.0, 1.0], clipped=[1.0] * 4, held=[1.0] * 4, line=[1e9] * 4)
    _, flags, _ = quality.judge(NAMES, FmriLimits(), **wild)
    assert flags == ("flat:Cz",)
    assert quality.implausible(1e6, FmriLimits()) == ""


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"noisy_uv": -1}, "noisy_uv is -1"),
        ({"clip_share": 1.5}, "clip_share is 1.5, but it is a share"),
        ({"min_good": float("nan")}, "min_good is nan"),
        ({"plausible_low_uv": 100, "plausible_high_uv": 1}, "the plausible amplitudes 100 to 1 are not a range"),
    ],
)
def test_refuses_limits_that_judge_nothing(fields, words):
    with pytest.raises(ValueError, match=words):
        EegLimits(**fields)


def test_every_limit_has_an_option_with_its_default():
    parser = argparse.ArgumentParser()
    prepare_verb.configure(parser)
    args = parser.parse_args(["study", "--out", "shards"])
    assert prepare_verb._window_settings(args).limits == EegLimits()
    changed = parser.parse_args(["study", "--line-ratio", "25", "--plausible-uv", "0.5", "300", "--min-good", "0"])
    limits = prepare_verb._window_settings(changed).limits
    assert limits == EegLimits(line_ratio=25, plausible_low_uv=0.5, plausible_high_uv=300, min_good=0)
