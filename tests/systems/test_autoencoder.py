"""Training an autoencoder: it learns, its noise belongs to examples, the latents' scale is measured; mistakes."""

import jax
import numpy as np
import pytest

from dreamjax.cli.main import main
from dreamjax.errors import UserError
from dreamjax.systems import opening
from dreamjax.systems.autoencoder import Autoencoder, AutoencoderConfig
from dreamjax.targets import images
from tests.systems import small_images
from tests.systems.small_images import quick_compiles  # noqa: F401 - a fixture of every test here


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_images.folder(tmp_path_factory.mktemp("data") / "images")


def config(folder="", **overrides):
    return small_images.load(AutoencoderConfig, data__folder=folder, **overrides)


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """A run, and what the command said of it."""
    workdir = tmp_path_factory.mktemp("runs") / "autoencoder"
    return small_images.train(config(folder, train__steps=60, train__image_every=60), workdir)


def test_a_run_learns_to_draw_what_it_saw(trained):
    """Held-out images are redrawn 3 dB closer than the mean of the training images is."""
    told, workdir = trained
    seen, held = (
        images.scaled(images.load_all([e.path for e in images.split(opening.config_of(workdir).data, name)], 16))
        for name in ("train", "val")
    )
    mean = 10 * np.log10(4 / np.square(held - seen.mean(0)).mean((1, 2, 3))).mean()
    assert told["val"]["psnr"] > mean + 3
    assert set(told["val"]) == {"loss", "reconstruction", "kl", "psnr"}
    assert any(path.suffix == ".png" for path in workdir.rglob("*"))


def test_the_scale_is_that_of_latents_drawn_from_the_posterior(trained, folder):
    """1 / standard deviation of m + s ε, by NumPy over every training image."""
    run = opening.open_run(trained[1])
    x = images.load_all([e.path for e in images.split(run.config.data, "train")], 16)
    mean, log_variance = jax.jit(lambda p, x: run.task.vae.bound(p).moments(images.scaled(x)))(run.params, x)
    noise = np.random.default_rng(0).standard_normal(mean.shape)
    drawn = np.asarray(mean) + np.exp(np.asarray(log_variance) / 2) * noise
    factor = float(opening.extra(run)["scaling_factor"])
    assert factor == pytest.approx(1 / drawn.std(), rel=0.02)
    assert run.task.scaling_factor(run.params) == pytest.approx(factor, rel=1e-4)


def test_noise_belongs_to_the_example_and_not_to_its_row(folder):
    """A batch turned round, and one on eight devices, have the same gradient."""
    task = Autoencoder(config(folder))
    rng = np.random.default_rng(0)
    params = small_images.random_params(task.vae.params)
    batch = {
        "image": rng.integers(0, 255, (8, 16, 16, 3), np.uint8),
        "index": np.stack([np.zeros(8), np.arange(8)], 1).astype(np.uint32),
        "weight": np.array([1, 1, 1, 1, 1, 1, 1, 0], np.float32),
    }

    def gradient(params, batch):
        return jax.grad(lambda p: task.loss(p, {}, batch, 0, training=True)[0])(params)

    first = small_images.gradients_on(1, gradient, params, batch)
    turned = {name: rows[::-1] for name, rows in batch.items()}
    small_images.assert_close(small_images.gradients_on(1, gradient, params, turned), first)
    small_images.assert_close(small_images.gradients_on(8, gradient, params, batch), first)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"data__resolution": 15}, "data.resolution is 15, but it must divide by 2"),
        ({"model__architecture": "shape"}, "unknown architecture 'shape'; did you mean shapes"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_config_that_cannot_be_is_refused(overrides, says):
    with pytest.raises(UserError, match=says):
        config(**overrides)


def test_rejects_impossible_data_settings(folder, tmp_path, capsys):
    with pytest.raises(UserError, match=r"train\.batch_size is 64, but .* has \d\d images to train on"):
        Autoencoder(config(folder, train__batch_size=64)).data("train")
    words = ["train", "--config", "configs/image/autoencoder_shapes.py", "--workdir", str(tmp_path / "run")]
    assert main([*words, f"--config.data.folder={tmp_path / 'nowhere'}"]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
