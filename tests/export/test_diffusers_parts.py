"""The autoencoder and CLIP in the libraries' own classes, checked here and by the command; refusals."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from dreamjax.cli.main import main
from dreamjax.systems import clip, opening, registry
from dreamjax.systems.autoencoder import Autoencoder, AutoencoderConfig
from dreamjax.systems.clip import Clip, ClipConfig
from dreamjax.targets import images
from dreamjax.training import checkpoints
from dreamjax.training.checkpoints import CheckpointConfig
from dreamjax.training.task import replace
from tests.systems import small_images

from .support import make_run as make_masked_run
from .support import tiny_config


def make_run(workdir, config, **extra):
    """A run of one step with random parameters, as training would leave it."""
    from dreamjax import config as configs

    task = registry.build(config)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    state = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    params = jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s.shape) * 0.2 + (s.ndim == 1), jnp.float32), shapes.params
    )
    average = jax.tree.map(lambda x: x * 0.9, params) if jax.tree.leaves(shapes.ema) else {}
    state = replace(state, params=params, ema=average, extra=state.extra | extra if extra else state.extra)
    workdir.mkdir(parents=True)
    text = configs.to_json(config)
    (workdir / "config.json").write_text(text)
    saver = checkpoints.Saver(workdir / "checkpoints", CheckpointConfig(), text)
    saver.save(1, state, {"examples": 8, "window": {}, "score": None, "best": None, "finished": True})
    saver.wait()
    saver.close()
    if keep := getattr(task, "keep", None):
        keep(workdir)
    return average or params


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_images.folder(tmp_path_factory.mktemp("data") / "images", 24)


def test_diffusers_opens_an_autoencoder_and_computes_the_same(folder, tmp_path, capsys):
    config = small_images.load(AutoencoderConfig, data__folder=folder)
    params = make_run(tmp_path / "run", config, scaling_factor=jnp.float32(0.4321))
    assert main(["export", str(tmp_path / "run"), "--to", "diffusers", "--out", str(tmp_path / "vae"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert max(told["differences"].values()) < 1e-4
    vae = AutoencoderKL.from_pretrained(str(tmp_path / "vae"))
    assert vae.config.scaling_factor == pytest.approx(0.4321)
    x = np.random.default_rng(1).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    ours = jax.jit(Autoencoder(config).reconstruct)(params, x)
    with torch.no_grad():
        latents = vae.encode(torch.from_numpy(x.transpose(0, 3, 1, 2))).latent_dist.mode()
        theirs = vae.decode(latents).sample.numpy().transpose(0, 2, 3, 1)
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


def test_transformers_opens_both_encoders_and_the_tokenizer(folder, tmp_path):
    config = small_images.load(ClipConfig, data__folder=folder)
    params = make_run(tmp_path / "run", config)
    out = tmp_path / "clip"
    assert main(["export", str(tmp_path / "run"), "--to", "diffusers", "--out", str(out)]) == 0
    texts = ["red on the left", "something new, 12!"]
    ids = CLIPTokenizer.from_pretrained(out / "tokenizer")(
        texts, padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    with_projection = CLIPTextModelWithProjection.from_pretrained(out / "text_encoder")
    x = np.random.default_rng(1).integers(0, 255, (2, 16, 16, 3), np.uint8)
    pixels = CLIPImageProcessor.from_pretrained(out / "image_encoder")(list(x), return_tensors="pt").pixel_values
    with torch.no_grad():
        text = with_projection(ids)
        states = CLIPTextModel.from_pretrained(out / "text_encoder")(ids).last_hidden_state
        image = CLIPVisionModelWithProjection.from_pretrained(out / "image_encoder")(pixels).image_embeds
    assert torch.equal(states, text.last_hidden_state)
    ours = jax.jit(lambda p, i: Clip(config).encode(p, "text", i).projected)(params, ids.numpy().astype(np.int32))
    np.testing.assert_allclose(ours, text.text_embeds, rtol=1e-4, atol=1e-4 * np.abs(text.text_embeds).max())
    ours = jax.jit(lambda p, x: Clip(config).encode(p, "vision", images.scaled(x)).projected)(params, x)
    np.testing.assert_allclose(ours, image, rtol=1e-4, atol=1e-4 * np.abs(image).max())


def test_reports_what_cannot_be_exported(folder, tmp_path, capsys):
    make_masked_run(tmp_path / "masked", tiny_config())
    make_run(tmp_path / "clip", small_images.load(ClipConfig, data__folder=folder))
    for entry in (tmp_path / "clip" / clip.TOKENIZER).iterdir():
        entry.unlink()
    (tmp_path / "clip" / clip.TOKENIZER).rmdir()
    for words, says in (
        (
            [str(tmp_path / "masked"), "--to", "diffusers"],
            "masked_pretraining cannot be exported to diffusers; it can be exported to: t",
        ),
        (
            [str(tmp_path / "clip"), "--to", "torch"],
            "it can be exported to: diffusers",
        ),
        ([str(tmp_path / "clip"), "--to", "diffusers"], "tokenizer is missing"),
        (
            [str(tmp_path / "clip"), "--to", "diffusers", "--licence", "mit"],
            "--licence would have no effect with --to",
        ),
        ([str(tmp_path / "nowhere"), "--to", "diffusers"], "holds no run"),
    ):
        assert main(["export", *words, "--out", str(tmp_path / "out")]) == 2
        assert says in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_an_earlier_step_measures_its_scale_when_it_is_exported(folder, tmp_path, uncompared):
    config = small_images.load(AutoencoderConfig, data__folder=folder)
    make_run(tmp_path / "run", config)
    run = opening.open_run(tmp_path / "run")
    assert float(opening.extra(run)["scaling_factor"]) == 0
    assert main(["export", str(tmp_path / "run"), "--to", "diffusers", "--out", str(tmp_path / "vae")]) == 0
    told = json.loads((tmp_path / "vae" / "config.json").read_text())["scaling_factor"]
    assert told == pytest.approx(run.task.scaling_factor(run.params), rel=1e-4)
