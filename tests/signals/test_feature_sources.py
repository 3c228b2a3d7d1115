"""Sources of simulated trials: the field of a dipole in a sphere, and people who are alike and differ."""

import numpy as np
import pytest

from dreamjax.signals.simulation import feature_sources, head

PLACES = np.array([[0.0, 0.02, 0.12], [0.08, -0.06, 0.07], [-0.11, 0.01, 0.03]])


def test_field_equals_that_of_mne() -> None:
    mne = pytest.importorskip("mne")
    sphere = mne.make_sphere_model((0.0, 0.0, 0.0), head_radius=None, verbose="ERROR")
    at, moment = np.array([[0.02, -0.05, 0.04]]), np.array([[1.0, 0.3, -0.2]])
    info = mne.create_info(len(PLACES), 100.0, "mag")
    axes = np.eye(3)
    for i, place in enumerate(PLACES):
        info["chs"][i]["coil_type"] = 2000  # FIFF's point magnetometer
        info["chs"][i]["loc"][:] = np.concatenate([place, axes.ravel()])  # measures along z
    info["dev_head_t"] = mne.transforms.Transform("meg", "head")
    source = {"rr": at, "nn": moment / np.linalg.norm(moment)}
    space = mne.setup_volume_source_space(pos=source, verbose="ERROR")
    solution = mne.make_forward_solution(info, None, space, sphere, meg=True, eeg=False, mindist=0, verbose="ERROR")
    theirs = solution["sol"]["data"] @ moment[0]
    ours = feature_sources.magnetic_field(PLACES, at, moment)[:, 0, 2]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_radial_dipole_has_no_field() -> None:
    at = np.array([[0.03, -0.04, 0.05]])
    field = feature_sources.magnetic_field(PLACES, at, at)
    across = feature_sources.magnetic_field(PLACES, at, np.array([[0.04, 0.03, 0.0]]))
    assert np.abs(field).max() < 1e-9 * np.abs(across).max()


def test_people_have_similar_topographies() -> None:
    average = feature_sources.average_dipoles(np.random.default_rng(0), 30)
    people = [feature_sources.of_person(np.random.default_rng(seed), average) for seed in (1, 2)]
    first, second = (feature_sources.of_electrodes(head.NAMES, one) for one in people)
    alike = np.mean([np.corrcoef(first[:, k], second[:, k])[0, 1] for k in range(30)])
    other = np.mean([np.corrcoef(first[:, k], second[:, k - 1])[0, 1] for k in range(30)])
    assert 0.5 < alike < 0.98
    assert abs(other) < 0.3
