"""Low-level features of images: numbers of scikit-image 0.26, closed forms, and their banks."""

from pathlib import Path

import numpy as np
import pytest

from dreamjax.errors import UserError
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.storage import image_files
from dreamjax.targets import low_level
from dreamjax.targets.banks import BankConfig, open_bank

Y, X = np.mgrid[:24, :32]
IMAGE = np.stack([7 * Y + X, Y * X % 256, (X * X + 3 * Y) % 256], axis=-1).astype(np.uint8)
GREY = np.full((16, 24, 3), 93, np.uint8)
SIZES = {"colour_histogram": 24, "lbp": 10, "hog": 27 * 27 * 32, "fft": 224 * 113, "fft_log_psd": 2 * 224 * 113}


def test_oriented_gradients_are_those_of_scikit_image() -> None:
    """hog(IMAGE, 8, (8, 8), (2, 2), channel_axis=-1)[::16]."""
    expected = [0.3305, 0.39479, 0.32565, 0.32565, 0.305, 0.305, 0.34512, 0.36016, 0.30207, 0.30207, 0.28132, 0.28132]
    features = low_level.hog(IMAGE)
    assert features.shape == (192,)
    np.testing.assert_allclose(features[::16], expected, atol=1e-5)


def test_binary_patterns_are_those_of_scikit_image() -> None:
    """local_binary_pattern(grey, 8, 1, "uniform"), counted; a constant has eight points as bright but at the border."""
    expected = np.array([27, 16, 78, 23, 491, 21, 41, 12, 21, 38]) / 768
    np.testing.assert_allclose(low_level.lbp(IMAGE), expected)
    assert low_level.lbp(GREY)[8] == 14 * 22 / (16 * 24)


def test_a_histogram_has_the_share_of_each_eighth_of_a_colour() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0] = 31, 32, 255
    histogram = low_level.colour_histogram(image).reshape(3, 8)
    np.testing.assert_array_equal(histogram[0], [1, 0, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(histogram[1], [0.75, 0.25, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(histogram[2], [0.75, 0, 0, 0, 0, 0, 0, 0.25])


def test_the_spectrum_of_a_grating_is_one_frequency() -> None:
    wave = 128 + 100 * np.cos(2 * np.pi * 3 * np.arange(32) / 32)
    image = np.repeat(np.rint(np.broadcast_to(wave, (32, 32)))[:, :, None], 3, axis=2).astype(np.uint8)
    real = low_level.fft(image).reshape(32, 17)
    assert real[0, 3] == pytest.approx(100 * 32 / 2, rel=0.01)
    assert real[0, 0] == pytest.approx(image[:, :, 0].mean() * 32)
    power, angle = np.split(low_level.fft_log_psd(image), 2)
    assert np.argsort(power)[::-1][:2].tolist() == [0, 3]
    assert np.abs(angle).max() <= np.pi


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name, image in (("one.png", IMAGE), ("two.png", GREY)):
        image_files.write_png(folder / name, image)
    return folder


@pytest.mark.parametrize("name", sorted(SIZES))
def test_each_feature_has_a_bank_and_views_have_others(name: str, images: Path, tmp_path: Path) -> None:
    mesh = meshes.make(MeshConfig())
    vectors = open_bank(BankConfig(path=name, images=str(images), bank=str(tmp_path)), ("two.png", "one.png"), mesh)
    assert vectors.vectors.shape == (2, SIZES[name])
    assert vectors.vectors.dtype == np.float32
    resized = np.asarray(image_files.open_image(images / "one.png").convert("RGB").resize((224, 224), resample=2))
    np.testing.assert_allclose(vectors.vectors[1], low_level.FEATURES[name](resized), rtol=1e-5, atol=1e-5)
    open_bank(BankConfig(path=name, images=str(images), bank=str(tmp_path), view="mosaic"), ("one.png",), mesh)
    assert len(list(tmp_path.glob(f"{name}-*"))) == 2


@pytest.mark.parametrize("options", [{"layer": 2}, {"pooling": "cls"}])
def test_refuses_layers_of_a_low_level_feature(options: dict, images: Path, tmp_path: Path) -> None:
    config = BankConfig(path="hog", images=str(images), bank=str(tmp_path), **options)
    with pytest.raises(UserError, match="hog, which has no layers"):
        open_bank(config, ("one.png",), meshes.make(MeshConfig()))
