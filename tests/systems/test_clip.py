"""Training CLIP: it learns from the whole global batch, keeps its tokenizer, and says what does not fit."""

import jax
import numpy as np
import pytest

from dreamjax.errors import UserError
from dreamjax.systems import clip, opening
from dreamjax.systems.clip import Clip, ClipConfig
from dreamjax.targets import tokens
from dreamjax.targets.tokens import Tokenizer
from tests.systems import small_images
from tests.systems.small_images import quick_compiles  # noqa: F401 - a fixture of every test here


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_images.folder(tmp_path_factory.mktemp("data") / "images")


def config(folder="", **overrides):
    return small_images.load(ClipConfig, data__folder=folder, **overrides)


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "clip"
    return small_images.train(config(folder, data__val_share=0.25), workdir)


def test_a_run_learns_which_caption_belongs_to_which_image(trained):
    """Six captions, each several times among the held-out images: guessing gets the share told as chance."""
    found = trained[0]["val"]
    assert 0.1 < found["chance"] < 0.35
    assert found["image_to_text"] > 0.8
    assert found["text_to_image"] > 0.8


def test_the_tokenizer_is_kept_with_the_run_and_another_is_refused(trained, folder):
    workdir = trained[1]
    task = Clip(opening.config_of(workdir))
    kept = Tokenizer.open(workdir / clip.TOKENIZER)
    np.testing.assert_array_equal(kept(["red on the left"]), task.tokenizer(["red on the left"]))
    assert kept(["red on the left"])[0].tolist().index(kept.end) == 5
    task.keep(workdir)
    tokens.train(["something else"], 560, 12).write(workdir / clip.TOKENIZER)
    with pytest.raises(UserError, match="not the tokenizer of these captions"):
        task.keep(workdir)
    task.tokenizer.write(workdir / clip.TOKENIZER)


def test_negatives_come_from_all_devices(folder):
    """The gradient on eight devices of two rows each is that on one device of sixteen rows."""
    task = Clip(config(folder))
    params = small_images.random_params(jax.eval_shape(task.init, jax.random.key(0)).params)
    batch = next(iter(task.data("train").stream.batches(start=0, batch_size=16)))
    batch["weight"][3] = 0

    def gradient(params, batch):
        return jax.grad(lambda p: task.loss(p, {}, batch, 0, training=True)[0])(params)

    one, eight = (small_images.gradients_on(count, gradient, params, batch) for count in (1, 8))
    small_images.assert_close(eight, one)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"train__microbatches": 2}, "a contrastive loss needs its whole batch at once"),
        ({"data__flip": 0.5}, "captions would then be those of another image"),
        ({"data__resolution": 32}, "data.resolution is 32, but the image_encoder sees 16 pixels"),
        ({"model__architecture": "sd21"}, "sd21 has no image_encoder"),
        ({"loss__temperature": 0.001}, r"loss.temperature is 0\.001"),
    ],
)
def test_a_config_that_cannot_be_is_refused(overrides, says):
    with pytest.raises(UserError, match=says):
        config(**overrides)


def test_a_tokenizer_whose_ids_are_others_is_refused(folder, tmp_path):
    tokens.train(["red on the left"], 600, 12).write(tmp_path / "other")
    with pytest.raises(UserError, match="has 600 ids and ends texts with 599, but the text encoder of tiny takes 560"):
        Clip(config(folder, model__tokenizer=tmp_path / "other")).data("train")
    tokens.train(["red on the left"], 560, 12).write(tmp_path / "same")
    assert Clip(config(folder, model__tokenizer=tmp_path / "same")).tokenizer.end == 559
