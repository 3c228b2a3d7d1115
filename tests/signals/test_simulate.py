"""`dreamjax simulate`: what the ground truth says is in the files, and nothing else is."""

import itertools
import json
import warnings

import numpy as np
import pytest
from scipy.signal import welch

from dreamjax.errors import UserError
from dreamjax.signals.simulation import head, sources, stimuli
from dreamjax.signals.simulation import simulate as sim

mne = pytest.importorskip("mne")

QUIET = {  # nothing but what a test looks at
    "background_uv": 1e-9,
    "alpha_uv": 0.0,
    "blink_uv": 0.0,
    "line_uv": 0.0,
    "drift_uv": 0.0,
    "noise_uv": 0.0,
}


def one_subject(subject: int = 0, **settings):
    chosen = sim.SimulationSettings(**{"minutes": 1.0, **settings})
    return sim.simulate_subject(chosen, subject, sim.image_set(chosen.classes, chosen.images_per_class, chosen.seed))


# ------------------------------------------------------------------------------------------------------- forward model
def test_the_sphere_gives_what_mne_gives():
    """MNE fits the series by three dipoles (Berg & Scherg): 0.1 to 0.2 % off ours; nine dipoles, 74 electrodes."""
    names = mne.channels.make_standard_montage("easycap-M1").ch_names
    unit = mne.channels.make_standard_montage("easycap-M1").get_positions()["ch_pos"]
    electrodes = np.array([unit[n] / np.linalg.norm(unit[n]) for n in names])
    radius = 0.09
    info = mne.create_info(names, 250.0, "eeg")
    info.set_montage(
        mne.channels.make_dig_montage(dict(zip(names, electrodes * radius, strict=True)), coord_frame="head")
    )
    model = mne.make_sphere_model((0, 0, 0), radius, verbose="error")
    places = np.array([[0, -0.05, 0.02], [0.03, 0.01, 0.04], [-0.06, -0.03, 0.01]])
    grid = {"rr": places, "nn": np.tile([0, 0, 1.0], (3, 1))}
    space = mne.setup_volume_source_space(pos=grid, sphere=model, verbose="error")
    forward = mne.make_forward_solution(info, None, space, model, meg=False, eeg=True, verbose="error")
    theirs = forward["sol"]["data"]
    own = head.leadfield(electrodes, np.repeat(places / radius, 3, 0), np.tile(np.eye(3), (3, 1)), radius)
    theirs, own = theirs - theirs.mean(0), own - own.mean(0)
    np.testing.assert_array_less(np.linalg.norm(own - theirs, axis=0), 0.005 * np.linalg.norm(theirs, axis=0))


def test_a_homogeneous_head_has_the_closed_form():
    """A dipole at the centre of a homogeneous conducting sphere: V = 3 q cos(angle) / (4 pi sigma R²)."""
    radius, sigma, moment = 0.08, 0.33, np.array([[1e-8, 2e-8, -3e-8]])
    electrodes = np.array([[0, 0, 1.0], [1.0, 0, 0], [0, 0.6, 0.8]])
    got = head.leadfield(electrodes, np.zeros((1, 3)), moment, radius, (0.9, 1.0), (sigma, sigma))
    expected = 3 * electrodes @ moment.T / (4 * np.pi * sigma * radius**2)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_a_homogeneous_head_has_the_closed_form_for_radial_dipoles_off_centre():
    """Brody 1973, radial dipole at b (R = 1): V = q/(4πσ) · [2(c-b)/d³ + (1/b)(1/d - 1)], d² = 1 + b² - 2bc."""
    b, sigma = 0.6, 1.0
    angle = np.linspace(0.1, 3.0, 7)
    electrodes = np.stack([np.sin(angle), 0 * angle, np.cos(angle)], 1)
    got = head.leadfield(electrodes, np.array([[0, 0, b]]), np.array([[0, 0, 1.0]]), 1.0, (0.9, 1.0), (sigma, sigma))
    c = np.cos(angle)
    d = np.sqrt(1 + b**2 - 2 * b * c)
    expected = (2 * (c - b) / d**3 + (1 / d - 1) / b) / (4 * np.pi * sigma)
    np.testing.assert_allclose(got[:, 0], expected, rtol=1e-10)


def test_a_dipole_outside_the_brain_is_refused():
    with pytest.raises(ValueError, match="outside the brain"):
        head.leadfield(np.eye(3), np.array([[0, 0, 0.95]]), np.eye(3)[:1])


# --------------------------------------------------------------------------------------------------- what is not evoked
def test_background_power_falls_with_the_set_exponent():
    for exponent in (0.8, 1.5):
        quiet = {k: v for k, v in QUIET.items() if k != "background_uv"}
        signal = one_subject(minutes=3, strength=0, exponent=exponent, seed=4, channels=19, **quiet).signal
        hz, power = welch(signal, 250, nperseg=1000)
        band = (hz >= 2) & (hz <= 60)
        slope = np.polyfit(np.log(hz[band]), np.log(power.mean(0)[band]), 1)[0]
        assert slope == pytest.approx(-exponent, abs=0.05)


def test_background_level_is_as_set():
    quiet = {k: v for k, v in QUIET.items() if k != "background_uv"}
    levels = [
        np.sqrt(np.mean(one_subject(s, strength=0, background_uv=12.0, channels=19, **quiet).signal ** 2))
        for s in range(12)
    ]
    assert np.median(levels) == pytest.approx(12.0, rel=0.12)  # log-normal over subjects, 15 %


def test_alpha_peaks_at_the_subjects_frequency_over_the_back_of_the_head_with_eyes_closed():
    simulated = one_subject(minutes=4, alpha_hz=9.0, seed=2, rest_fraction=0.5, strength=0)
    hz, closed = welch(simulated.signal[:, : 250 * 119], 250, nperseg=2500)
    _, opened = welch(simulated.signal[:, 250 * 121 :], 250, nperseg=2500)
    names = list(simulated.ch_names)
    back = [names.index(n) for n in ("O1", "O2", "Oz", "POz")]
    band = (hz >= 6) & (hz <= 14)
    peak = hz[band][np.argmax((closed[back].mean(0) * hz)[band])]
    assert peak == pytest.approx(simulated.truth["alpha_hz"], abs=0.5)
    near = abs(hz - simulated.truth["alpha_hz"]) < 0.8
    assert closed[back][:, near].mean() > 3 * opened[back][:, near].mean()


def test_alpha_amplitude_is_as_set():
    quiet = {k: v for k, v in QUIET.items() if k != "alpha_uv"}
    simulated = one_subject(minutes=4, strength=0, rest_fraction=0.9, **quiet)
    rms = simulated.signal[:, : 250 * 200].std(1)
    assert rms.max() == pytest.approx(simulated.truth["alpha_uv"], rel=0.15)
    assert simulated.ch_names[int(np.argmax(rms))] in ("O1", "O2", "Oz", "POz", "PO7", "PO8")


def test_blinks_are_where_the_truth_says_and_frontal():
    quiet = {k: v for k, v in QUIET.items() if k != "blink_uv"}
    simulated = one_subject(strength=0, **quiet)
    onsets = simulated.truth["blink_onsets_s"]
    assert 4 <= len(onsets) <= 20
    frontal = simulated.signal[simulated.ch_names.index("Fp1")]
    for onset in onsets:
        around = frontal[int(onset * 250) : int((onset + 0.35) * 250)]
        assert np.argmax(np.abs(around)) / 250 == pytest.approx(0.1, abs=0.02)
    occipital = simulated.signal[simulated.ch_names.index("O1")]
    assert np.abs(frontal).max() > 3 * np.abs(occipital).max()
    assert np.abs(frontal[: int(0.15 * 60 * 250)]).max() < 1e-6  # closed eyes do not blink


def test_mains_and_drift_are_as_set():
    line = one_subject(strength=0, **{**QUIET, "line_uv": 3.0, "line_hz": 60.0}).signal
    hz, power = welch(line, 250, nperseg=500)
    assert hz[np.argmax(power.mean(0))] == 60.0
    drift = one_subject(strength=0, **{**QUIET, "drift_uv": 25.0}, minutes=5).signal
    assert np.sqrt(np.mean(drift**2)) == pytest.approx(25.0, rel=0.25)
    spectrum = np.abs(np.fft.rfft(drift * np.hanning(drift.shape[1]), axis=1)) ** 2
    share = spectrum[:, np.fft.rfftfreq(drift.shape[1], 1 / 250) > 0.5].sum() / spectrum.sum()
    assert share < 1e-3


def test_shaped_noise_has_unit_variance():
    rng = np.random.default_rng(0)
    assert sources.background(rng, 50, 20_000, 250, 1.0).std() == pytest.approx(1, abs=0.03)
    assert sources.rhythm(rng, 50, 20_000, 250, 10.0, 0.6).std() == pytest.approx(1, abs=0.03)


# --------------------------------------------------------------------------------------------------------------- evoked
def test_the_stated_microvolts_are_the_largest_of_the_average_head():
    parts = sources.components(("circle", "bar"), 0)
    positions, moments = np.array([c.position for c in parts]), np.array([c.moment for c in parts])
    wanted = np.array([c.amplitude_uv for c in parts])
    scales = head.moment_scales(positions, moments, wanted)
    field = head.average_head(head.NAMES).topography(positions, moments) * scales
    np.testing.assert_allclose(np.abs(field).max(0), np.abs(wanted))


@pytest.mark.parametrize("strength", [1.0, 2.5])
def test_the_average_of_trials_recovers_the_set_response(tmp_path, strength):
    """From the file, through MNE: the average over a class's trials equals the mean expected response within noise."""
    settings = sim.SimulationSettings(
        subjects=1, minutes=5, channels=19, classes=2, strength=strength, rest_fraction=0, blink_uv=0, drift_uv=0
    )
    sim.simulate(tmp_path / "set", settings)
    truth = json.loads((tmp_path / "set" / "truth.json").read_text())
    raw = mne.io.read_raw_edf(tmp_path / "set" / truth["subjects"][0]["file"], preload=True, verbose="error")
    signal = raw.filter(1, 40, verbose="error").get_data() * 1e6
    seconds = np.arange(150) / 250
    for label in ("circle", "bar"):
        mine = [(s, p) for s, p in truth["subjects"][0]["trials"] if truth["images"][p]["shape"] == label]
        measured = np.mean([signal[:, s : s + 150] for s, _ in mine], 0)
        expected = np.mean([sim.expected_response(truth, 0, p, seconds) for _, p in mine], 0)
        error = np.sqrt(np.mean((measured - expected) ** 2))
        assert error < 3 * 10 / np.sqrt(len(mine))  # background of 10 µV and alpha of about 5, over that many trials
        assert np.corrcoef(measured.ravel(), expected.ravel())[0, 1] > (0.9 if strength > 2 else 0.6)


def test_without_noise_the_signal_is_the_expected_response():
    """Exact: the recording minus every trial's expected response is nothing (background of 1e-9 µV)."""
    settings = sim.SimulationSettings(subjects=1, minutes=0.5, channels=12, classes=3, **QUIET)
    set_of_images = sim.image_set(3, 12, 0)
    simulated = sim.simulate_subject(settings, 0, set_of_images)
    truth = {
        "components": [vars(c) for c in sources.components(("circle", "bar", "pillar"), 0)],
        "images": [vars(p) for p in set_of_images],
        "subjects": [simulated.truth],
    }
    rest = simulated.signal.copy()
    for trial in simulated.trials:
        rest[:, trial.sample : trial.sample + 200] -= sim.expected_response(truth, 0, trial.image, np.arange(200) / 250)
    assert np.abs(simulated.signal).max() > 4
    assert np.abs(rest).max() < 1e-3  # the patterns in the truth are rounded to 1e-5 µV


def test_place_size_and_colour_change_the_response_within_a_class():
    settings = sim.SimulationSettings(subjects=1, minutes=0.5, **QUIET)
    simulated = sim.simulate_subject(settings, 0, sim.image_set(4, 12, 0))
    base = {"file": "", "shape": "circle", "x": 0.0, "y": 0.0, "size": 0.0, "hue": 0.0}
    changed = ({"x": 1.0}, {"y": 1.0}, {"size": 1.0}, {"hue": 0.5}, {"shape": "bar"})
    truth = {
        "components": [vars(c) for c in sources.components(("circle", "bar", "pillar", "cross"), 0)],
        "images": [base, *({**base, **c} for c in changed)],
        "subjects": [simulated.truth],
    }
    seconds = np.arange(200) / 250
    responses = [sim.expected_response(truth, 0, i, seconds) for i in range(6)]
    for other in responses[1:]:
        assert np.abs(other - responses[0]).max() > 1.0  # µV
    left, right = (simulated.ch_names.index(n) for n in ("PO7", "PO8"))
    moved = responses[1] - responses[0]  # the image to the right: the left hemisphere gains
    p1 = int(0.11 * 250)
    assert moved[left, p1] - moved[right, p1] > 1.0


def test_strength_zero_is_a_null_set():
    """The recording is the same, sample for sample, whatever is shown: only the evoked part differs by strength."""
    null, real = one_subject(strength=0, channels=8), one_subject(strength=1, channels=8)
    other_images = one_subject(strength=0, channels=8, images_per_class=3)
    np.testing.assert_array_equal(null.signal, other_images.signal)
    assert [t.sample for t in null.trials] == [t.sample for t in real.trials]
    assert np.abs(real.signal - null.signal).max() > 3
    assert np.all(np.array(null.truth["patterns_uv"]) == 0)


# ------------------------------------------------------------------------------------------------------------ the files
@pytest.mark.parametrize("file_format", ["edf", "brainvision"])
@pytest.mark.parametrize("sfreq", [250.0, 256.0])
def test_markers_and_voltages_survive_the_file(tmp_path, file_format, sfreq):
    settings = sim.SimulationSettings(subjects=1, minutes=0.5, channels=8, classes=3, format=file_format, sfreq=sfreq)
    sim.simulate(tmp_path / "set", settings)
    truth = json.loads((tmp_path / "set" / "truth.json").read_text())["subjects"][0]
    simulated = sim.simulate_subject(settings, 0, sim.image_set(3, 12, 0))
    path = tmp_path / "set" / truth["file"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a reader's warning is a defect of the file
        reader = mne.io.read_raw_edf if file_format == "edf" else mne.io.read_raw_brainvision
        raw = reader(path, preload=True, verbose="error")
    assert raw.ch_names == truth["ch_names"]
    assert raw.info["sfreq"] == sfreq
    step = 2 * np.ceil(np.abs(simulated.signal).max()) / 65535 if file_format == "edf" else 0.05
    np.testing.assert_allclose(raw.get_data() * 1e6, simulated.signal, atol=0.51 * step)
    notes = [a for a in raw.annotations if "New Segment" not in a["description"]]
    samples = [a["onset"] * sfreq for a in notes]
    np.testing.assert_allclose(samples, [s for s, _ in truth["trials"]], atol=1e-6)  # exact to the sample
    labels = [sim.image_set(3, 12, 0)[p].shape for _, p in truth["trials"]]
    codes = {"circle": "Stimulus/S  1", "bar": "Stimulus/S  2", "pillar": "Stimulus/S  3"}
    assert [a["description"] for a in notes] == (labels if file_format == "edf" else [codes[n] for n in labels])


def test_events_name_images_that_exist(tmp_path):
    sim.simulate(tmp_path / "set", sim.SimulationSettings(subjects=2, minutes=0.5, channels=8))
    table = (tmp_path / "set/sub-02/eeg/sub-02_task-images_events.tsv").read_text().splitlines()
    assert table[0].split("\t") == ["onset", "duration", "trial_type", "stim_file", "sample"]
    for row in table[1:]:
        onset, duration, kind, image, sample = row.split("\t")
        assert float(onset) == pytest.approx(int(sample) / 250, abs=1e-9)
        assert duration == "0.5"
        assert image.startswith(kind)
        assert (tmp_path / "set/stimuli" / image).is_file()


def test_mne_bids_reads_the_set(tmp_path):
    mne_bids = pytest.importorskip("mne_bids")
    sim.simulate(tmp_path / "set", sim.SimulationSettings(subjects=1, minutes=0.5, channels=8))
    path = mne_bids.BIDSPath("01", task="images", root=tmp_path / "set", datatype="eeg", suffix="eeg")
    raw = mne_bids.read_raw_bids(path, verbose="error")
    assert set(raw.annotations.description) <= {"circle", "bar", "pillar", "cross"}
    assert raw.info["line_freq"] == 50


def test_every_subject_is_the_same_in_any_set(tmp_path):
    """Deterministic in (seed, subject): bytes of subject 2 in a set of two and in a set of three."""
    for count in (2, 3):
        sim.simulate(tmp_path / str(count), sim.SimulationSettings(subjects=count, minutes=0.25, channels=8))
    file = "sub-02/eeg/sub-02_task-images_eeg.edf"
    assert (tmp_path / "2" / file).read_bytes() == (tmp_path / "3" / file).read_bytes()
    first = (tmp_path / "2" / file.replace("02", "01")).read_bytes()
    assert first != (tmp_path / "2" / file).read_bytes()
    assert not np.array_equal(one_subject(seed=1, channels=8).signal, one_subject(seed=2, channels=8).signal)


def test_subjects_and_caps_differ():
    people = [one_subject(s, channels=19, missing_channels=3, minutes=0.25) for s in range(5)]
    assert len({p.truth["alpha_hz"] for p in people}) == 5
    assert len({p.truth["head_radius_m"] for p in people}) == 5
    assert all(len(p.ch_names) == 16 for p in people)
    assert len({p.ch_names for p in people}) > 1
    places = np.array(people[0].truth["electrodes"])
    nominal = head.nominal_positions(people[0].ch_names)
    off = np.rad2deg(np.arccos(np.clip((places * nominal).sum(1), -1, 1)))
    assert 0.5 < off.mean() < 15


@pytest.mark.parametrize("order", ["random", "block"])
def test_order_of_the_classes(order):
    simulated = one_subject(minutes=3, order=order, channels=4)
    kinds = [t.image // 12 for t in simulated.trials]
    changes = sum(a != b for a, b in itertools.pairwise(kinds))
    counts = np.bincount(kinds, minlength=4)
    assert counts.max() - counts.min() <= 1
    assert changes == 3 if order == "block" else changes > len(kinds) / 2


def test_images_show_their_attributes():
    grey, base = 128, {"file": "", "shape": "circle", "x": 0.0, "y": 0.0, "size": 0.0, "hue": 0.0}

    def mask(**change):
        image = stimuli.draw(stimuli.Stimulus(**{**base, **change})).astype(int)
        return np.abs(image - grey).sum(2) > 30, image

    centre, image = mask()
    middle = np.mean(np.argwhere(centre), 0)
    np.testing.assert_allclose(middle, 31.5, atol=0.5)
    assert np.mean(np.argwhere(mask(x=1.0)[0]), 0)[1] > middle[1] + 10
    assert np.mean(np.argwhere(mask(y=1.0)[0]), 0)[0] < middle[0] - 10
    large = mask(size=1.0)[0].sum()
    assert large == pytest.approx(2**0.6 * centre.sum(), rel=0.05)
    assert mask(size=1.0, x=1.0, y=-1.0)[0].sum() == pytest.approx(large, rel=0.01)  # nothing is cut off
    assert centre.sum() == pytest.approx(np.pi * (0.58 * 32) ** 2, rel=0.1)
    red, _, blue = image[32, 32]
    assert red > 200 > blue
    seen = {stimuli.draw(stimuli.Stimulus(**{**base, "shape": s})).tobytes() for s in stimuli.SHAPES}
    assert len(seen) == len(stimuli.SHAPES)


def test_rejects_wrong_simulation_settings(tmp_path):
    for wrong, words in (
        ({"classes": 99}, "classes is 99"),
        ({"channels": 500}, "channels is 500"),
        ({"minutes": 0.01}, "minutes"),
        ({"strength": -1}, "strength is -1"),
        ({"strength": np.inf}, "strength is inf"),
        ({"minutes": np.inf}, "minutes is inf"),
        ({"alpha_hz": 40}, "alpha_hz is 40, but must be 7.5 to 13 Hz"),
    ):
        with pytest.raises(UserError, match=words):
            sim.SimulationSettings(**wrong)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="not empty"):
        sim.simulate(tmp_path / "full", sim.SimulationSettings(subjects=1))
    assert (tmp_path / "full" / "mine.txt").read_text() == "keep"


def test_a_failed_set_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sim, "write_subject", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sim.simulate(tmp_path / "set", sim.SimulationSettings(subjects=1, minutes=0.25, channels=4))
    assert list(tmp_path.iterdir()) == []
