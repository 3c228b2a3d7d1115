"""Channels of a recording → channels of the model, against MNE and closed forms."""

import numpy as np
import pytest

from dreamjax.signals.datasets import mapping
from dreamjax.signals.recordings import montage
from tests import support

NAMES_32, XYZ_32 = montage.template("1010-32")
NAMES_19, XYZ_19 = montage.template("1020-19")


def matrices(names, usable=None, target="1020-19", xyz=None):
    wanted, _ = montage.template(target)
    directions = mapping.directions(wanted, np.full((len(wanted), 3), np.nan))
    chart = mapping.channel_map(names, montage.standard_positions(names) if xyz is None else xyz, wanted, directions)
    matrix, real = chart.matrices(np.ones((1, len(names)), bool) if usable is None else usable)
    return matrix, real


def test_the_spline_is_mnes():
    """MNE's `interpolate_bads` with the same centre fills three bad channels of a 32-channel cap alike."""
    mne = pytest.importorskip("mne")
    rng = np.random.default_rng(0)
    data = rng.normal(0, 1e-5, (32, 50))
    info = mne.create_info(list(NAMES_32), 256.0, "eeg")
    raw = mne.io.RawArray(data.copy(), info, verbose="error")
    centre = mapping.standard_centre()
    positions = dict(zip(NAMES_32, XYZ_32, strict=True))
    raw.set_montage(mne.channels.make_dig_montage(positions, coord_frame="head"), verbose="error")
    raw.info["bads"] = [NAMES_32[i] for i in (3, 14, 31)]
    raw.interpolate_bads(origin=tuple(centre), verbose="error")
    good = np.array([i not in (3, 14, 31) for i in range(32)])
    ours = mapping.spline_matrix(XYZ_32[good] - centre, XYZ_32[~good] - centre) @ data[good]
    np.testing.assert_allclose(ours, raw.get_data()[~good], rtol=1e-6, atol=1e-12)


def test_a_constant_potential_stays_constant():
    """Equation 2 of Perrin 1989 (Σ c = 0): rows of the matrix sum to one, wherever the electrodes are."""
    matrix = mapping.spline_matrix(XYZ_19 - mapping.standard_centre(), support.sphere_points(40) - [0, 0, 0.04])
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-9)


def test_a_smooth_field_is_recovered_between_the_electrodes():
    """Spherical harmonics of degree 1 and 2, sampled at 32 electrodes, read where 32 others would be."""

    def field(xyz):
        x, y, z = (xyz / np.linalg.norm(xyz, axis=1, keepdims=True)).T
        return 3 * z + x * y + 0.5 * (x**2 - y**2)

    centre = mapping.standard_centre()
    names_64, xyz_64 = montage.template("1010-64")
    rest = [i for i, name in enumerate(names_64) if name not in NAMES_32]
    have, want = XYZ_32 - centre, xyz_64[rest] - centre
    error = mapping.spline_matrix(have, want) @ field(have) - field(want)
    assert np.abs(error).max() < 0.05 * np.ptp(field(want))


def test_electrodes_that_the_template_has_are_copied_exactly():
    """32 → 19 channels: a permutation matrix, and every channel real."""
    matrix, real = matrices(NAMES_32)
    assert real.all()
    assert set(np.unique(matrix)) == {0.0, 1.0}
    np.testing.assert_array_equal(matrix[0].argmax(axis=1), [NAMES_32.index(name) for name in NAMES_19])


def test_a_bad_electrode_is_filled_from_the_usable_ones_only():
    usable = np.ones((2, 32), bool)
    usable[0, NAMES_32.index("Cz")] = False
    usable[1, [NAMES_32.index(n) for n in ("Cz", "Fz", "O1")]] = False
    matrix, real = matrices(NAMES_32, usable)
    cz = NAMES_19.index("Cz")
    assert [NAMES_19[i] for i in np.flatnonzero(~real[0])] == ["Cz"]
    assert [NAMES_19[i] for i in np.flatnonzero(~real[1])] == ["Fz", "Cz", "O1"]
    for row in (0, 1):
        assert (matrix[row][:, ~usable[row]] == 0).all()
        alone = mapping.spline_matrix(
            XYZ_32[usable[row]] - mapping.standard_centre(), XYZ_19[[cz]] - mapping.standard_centre()
        )
        np.testing.assert_allclose(matrix[row][cz, usable[row]], alone[0], atol=1e-5)


def test_an_unnamed_cap_is_read_by_its_positions():
    """The same electrodes called E1 …, on a head 10 % larger and shifted by 1 cm: a smooth field maps alike."""
    unnamed = tuple(f"E{i + 1}" for i in range(32))
    by_name, _ = matrices(NAMES_32, target="1010-64")
    by_place, real = matrices(unnamed, target="1010-64", xyz=(XYZ_32 - mapping.standard_centre()) * 1.1 + [0.01, 0, 0])
    assert not real.any()
    field = XYZ_32 @ [0.5, 0.2, 1.0]
    np.testing.assert_allclose(by_place[0] @ field, by_name[0] @ field, atol=0.05 * np.ptp(field))


def test_channels_without_a_place_reach_no_channel_of_the_template():
    matrix, real = matrices(("Fpz-Cz", "Pz-Oz"), xyz=np.full((2, 3), np.nan))
    assert not matrix.any()
    assert not real.any()


@pytest.mark.parametrize(
    ("channels", "whole", "rest"),
    [(30, 4, 8), (64, 2, 0), (128, 1, 0), (19, 6, 14), (1, 128, 0)],
)
def test_tiling_is_dreamdiffusions(channels, whole, rest):
    """floor(128 / C) times the whole montage, then its first 128 mod C channels (reference, section 1.1)."""
    rows = mapping.tile_rows(channels)
    expected = [c for _ in range(whole) for c in range(channels)] + list(range(rest))
    assert rows.tolist() == expected
    assert len(rows) == 128


def test_stretching_is_scipys_linear_interpolation():
    """As DreamDiffusion's loader: interp1d over [0, 1] from T samples to 512."""
    from scipy.interpolate import interp1d

    rng = np.random.default_rng(0)
    for time in (440, 100, 2):
        signal = rng.normal(size=(3, time))
        expected = interp1d(np.linspace(0, 1, time), signal)(np.linspace(0, 1, 512))
        np.testing.assert_allclose(mapping.stretch(signal, 512), expected, atol=1e-12)


def test_the_fitted_sphere_is_the_sphere():
    centre, radius = mapping.fit_sphere(support.sphere_points(40))
    np.testing.assert_allclose(centre, [0, 0, 0.04], atol=1e-12)
    assert radius == pytest.approx(0.095)
