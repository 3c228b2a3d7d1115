"""Training a U-Net: the loss, what is trained and what is not, the bank it is fed from, the way back to diffusers."""

import contextlib
import dataclasses
import json
import pathlib

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image

from dreamjax.diffusion import prediction, sampling
from dreamjax.diffusion.schedule import NoiseSchedule
from dreamjax.errors import UserError
from dreamjax.generation import from_prompts
from dreamjax.parallel.tree_paths import named_leaves
from dreamjax.systems import opening
from dreamjax.systems.diffusion_base import DiffusionLossConfig, diffusion_loss
from dreamjax.systems.text_to_image import TextToImage, TextToImageConfig, UNetModelConfig
from dreamjax.targets.latents import LatentConfig
from dreamjax.training.checkpoints import CheckpointConfig
from dreamjax.training.held_out import mesh_of
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.train_config import TrainConfig
from tests import parity, pipelines

SCHEDULE = NoiseSchedule(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


# ----------------------------------------------------------------------------------------------------------- the loss
def batch(rows=64, weight=None):
    rng = np.random.default_rng(0)
    return {
        "mean": jnp.asarray(rng.standard_normal((rows, 4, 4, 4)), jnp.float32),
        "log_variance": jnp.full((rows, 4, 4, 4), -30.0),
        "context": jnp.zeros((rows, 3, 8)),
        "index": jnp.stack([jnp.zeros(rows, jnp.uint32), jnp.arange(rows, dtype=jnp.uint32)], axis=1),
        "weight": jnp.ones(rows) if weight is None else jnp.asarray(weight, jnp.float32),
    }


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_network_that_knows_the_answer_has_no_loss(kind):
    """It sees x_t, and knows z: from both follow the noise and so every target."""
    schedule, given = dataclasses.replace(SCHEDULE, prediction_type=kind), batch()
    z = 0.5 * given["mean"]

    def knowing(x_t, t, context):
        a, s = (jnp.asarray(f(schedule.alphas_cumprod), jnp.float32)[t][:, None, None, None] for f in (np.sqrt, rest))
        return prediction.target(schedule, z, (x_t - a * z) / s, t)

    def rest(alphas):
        return np.sqrt(1 - alphas)

    total, weight, _ = diffusion_loss(schedule, knowing, given, seed=0, scale=0.5, gamma=None)
    assert weight == 64
    assert total / weight < 1e-4


def test_a_network_that_answers_zero_is_off_by_the_noise():
    """E ε² = 1; time steps spread over the whole schedule; padding counts nothing."""
    seen = []

    def silent(x_t, t, context):
        seen.append(t)
        return jnp.zeros_like(x_t)

    total, weight, metrics = diffusion_loss(SCHEDULE, silent, batch(512), seed=0, scale=1.0, gamma=None)
    assert abs(total / weight - 1) < 0.05
    assert metrics["mse"][0] == total
    assert (np.histogram(seen[0], 4, (0, 1000))[0] > 90).all()
    half = np.arange(512) < 256
    total, weight, _ = diffusion_loss(SCHEDULE, silent, batch(512, half), seed=0, scale=1.0, gamma=None)
    assert weight == 256
    assert abs(total / weight - 1) < 0.1


def test_min_snr_weights_are_those_of_the_paper():
    """min(SNR, 5) / SNR for a network that predicts the noise."""
    steps = []

    def silent(x_t, t, context):
        steps.append(t)
        return jnp.zeros_like(x_t)

    (plain, _, _), (weighed, _, metrics) = (
        diffusion_loss(SCHEDULE, silent, batch(512), seed=0, scale=1.0, gamma=gamma) for gamma in (None, 5.0)
    )
    alphas = SCHEDULE.alphas_cumprod[np.asarray(steps[0])]
    snr = alphas / (1 - alphas)
    assert metrics["mse"][0] == plain
    assert abs(weighed / 512 - np.mean(np.minimum(snr, 5) / snr)) < 0.05


def test_noise_belongs_to_the_example_and_not_to_its_row():
    given, order = batch(8), np.array([3, 1, 7, 0, 2, 6, 5, 4])
    shuffled = {name: value[order] for name, value in given.items()}

    def inputs(rows):
        seen = []
        diffusion_loss(SCHEDULE, lambda x, t, c: seen.append((x, t)) or x, rows, seed=3, scale=1.0, gamma=None)
        return seen[0]

    for a, b in zip(inputs(given), inputs(shuffled), strict=True):
        np.testing.assert_array_equal(np.asarray(a)[order], b)


# ---------------------------------------------------------------------------------------------------------- a dataset
@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return pipelines.write(tmp_path_factory.mktemp("pipeline"), widths=(32,))


def draw_images(folder, count=12):
    folder.mkdir()
    rng, lines = np.random.default_rng(0), []
    for i in range(count):
        pixels = np.kron(rng.integers(0, 255, (4, 4, 3), np.uint8), np.ones((5, 5, 1), np.uint8))
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
        lines.append(json.dumps({"file_name": f"{i:02d}.png", "text": pipelines.PROMPTS[i % 2]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("images") / "drawn")


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    return tmp_path_factory.mktemp("bank")


def config(folder, images, bank, **model):
    return TextToImageConfig(
        data=LatentConfig(folder=str(images), resolution=16, bank=str(bank), flip=0.5, val_share=0.3),
        model=UNetModelConfig(path=str(folder), **model),
        loss=DiffusionLossConfig(drop_condition=0.3),
        optim=OptimConfig(learning_rate=1e-2, ema_decay=0.5),
        train=TrainConfig(
            steps=2, batch_size=8, eval_every=2, image_every=0, tensorboard=False, checkpoint=CheckpointConfig(every=1)
        ),
    )


def test_a_bank_holds_what_the_frozen_networks_make_of_each_image(folder, images, bank, monkeypatch):
    """Moments and text states are diffusers' and transformers'; it is made once; another image makes another."""
    task = TextToImage(config(folder, images, bank))
    stream = task.data("val").stream
    rows = next(iter(stream.batches(start=0, batch_size=8)))
    pipe = pipelines.theirs(folder)
    names = [entry.name for entry in sorted(images.glob("*.png"))]
    name = names[stream.keys[0]]
    square = Image.open(images / name).resize((16, 16), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(square).astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    with torch.no_grad():
        moments = pipe.vae.encode(pixels).latent_dist
        caption = pipelines.PROMPTS[names.index(name) % 2]
        ids = pipe.tokenizer([caption], padding="max_length", truncation=True, max_length=16, return_tensors="pt")
        states = pipe.text_encoder(ids.input_ids)[0]
    assert parity.difference(rows["mean"][0], moments.mean[0].permute(1, 2, 0)) < 1e-4
    assert parity.difference(rows["log_variance"][0], moments.logvar[0].permute(1, 2, 0)) < 1e-4
    assert parity.difference(rows["context"][0], states[0]) < 1e-4
    assert {name: (array.shape[1:], array.dtype) for name, array in rows.items()} == {
        name: (leaf.shape, leaf.dtype) for name, leaf in task.example().items()
    }

    from dreamjax.targets import features

    monkeypatch.setattr(features, "_write", lambda *_: pytest.fail("the bank was there"))
    assert len(task.data("train").stream) + len(stream) == 12


def test_mirrored_images_and_empty_captions_come_as_often_as_asked(folder, images, bank):
    stream = TextToImage(config(folder, images, bank)).data("train").stream
    rows = next(iter(stream.batches(start=0, batch_size=512)))
    found = stream
    empty = (rows["context"] == found.text[0]).all((1, 2))
    mirrored = [(row == found.moments[1, ..., :4]).all((1, 2, 3)).any() for row in rows["mean"]]
    assert abs(empty.mean() - 0.3) < 0.06
    assert abs(np.mean(mirrored) - 0.5) < 0.07


def test_a_damaged_image_is_named_before_anything_is_written(folder, tmp_path):
    images = draw_images(tmp_path / "drawn")
    (images / "03.png").write_bytes((images / "03.png").read_bytes()[:40])
    with pytest.raises(UserError, match=r"03\.png"):
        TextToImage(config(folder, images, tmp_path / "bank")).data("train")
    assert not list((tmp_path / "bank").glob("*/bank.json"))


def test_rejects_missing_held_out_split_before_making_a_bank(folder, images, tmp_path):
    asked = config(folder, images, tmp_path / "bank")
    asked = dataclasses.replace(asked, data=dataclasses.replace(asked.data, val_share=1e-9))
    with pytest.raises(UserError, match="val"):
        opening.train(asked, tmp_path / "run")
    assert not (tmp_path / "bank").exists()


# ----------------------------------------------------------------------------------------------------------- training
@pytest.fixture(scope="module")
def trained(folder, images, bank, tmp_path_factory):
    """A run that trained the cross-attention alone; its pipeline was named relative to where it began."""
    workdir = tmp_path_factory.mktemp("run") / "run"
    asked = config(folder.name, images, bank, trainable="cross_attention")
    asked = dataclasses.replace(asked, train=dataclasses.replace(asked.train, image_every=2))
    with contextlib.chdir(folder.parent):
        result = opening.train(asked, workdir)
    assert result["step"] == 2
    assert np.isfinite(result["val"]["loss"])
    return workdir


def test_frozen_parts_have_neither_gradient_nor_optimiser_state(folder, images, bank):
    task = TextToImage(config(folder, images, bank, trainable="cross_attention"))
    state = jax.eval_shape(task.init, jax.random.key(0))
    assert all("/attn2/" in path for path in named_leaves(state.params))
    assert not any("/attn2/" in path for path in named_leaves(state.frozen["unet"]))
    moments = sum(leaf.size for leaf in jax.tree.leaves(state.opt) if leaf.ndim)
    assert moments == 2 * sum(leaf.size for leaf in jax.tree.leaves(state.params))
    whole = jax.eval_shape(TextToImage(config(folder, images, bank)).init, jax.random.key(0))
    assert not jax.tree.leaves(whole.frozen)
    trained, frozen = named_leaves(state.params), named_leaves(state.frozen["unet"])
    assert named_leaves(whole.params).keys() == trained.keys() | frozen.keys()


def test_the_average_begins_at_the_weights_and_not_at_random_ones(folder, trained):
    run = opening.open_run(trained, step=1)
    assert run.averaged
    task = run.task
    before = task.unet.network.table.to_dreamjax(task.parts.tensors("unet"), task.unet.params)
    for path, leaf in named_leaves(run.params).items():  # after one step of warm-up, half of a step of at most 1e-2
        assert np.abs(np.asarray(leaf) - named_leaves(before)[path]).max() <= 0.011, path


def test_the_export_opens_in_diffusers_and_differs_in_what_was_trained_alone(folder, trained, tmp_path):
    from dreamjax.export import driver

    result = driver.export(trained, tmp_path / "exported", to="diffusers")
    assert result.differences["unet"] <= 1e-4
    (theirs, _), (ours, _) = ((files(path / "unet"), None) for path in (folder, tmp_path / "exported"))
    assert theirs.keys() == ours.keys()
    for name, tensor in theirs.items():
        assert (tensor.tobytes() == ours[name].tobytes()) == (".attn2." not in name), name
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        for file in (folder / part).iterdir():
            assert file.read_bytes() == (tmp_path / "exported" / part / file.name).read_bytes()
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "exported")
    assert isinstance(pipe.unet, diffusers.UNet2DConditionModel)


def files(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "diffusion_pytorch_model.safetensors")


def test_a_run_makes_images_by_itself(trained, tmp_path, monkeypatch):
    """`generate --model RUN`, from any folder: the trained cross-attention in the U-Net that it was trained in."""
    monkeypatch.chdir(tmp_path)
    run = opening.open_run(trained)
    model = from_prompts.open_model(trained, "float32")
    whole = run.task.whole_unet(run.params, mesh_of(model.unet.params))
    for path, leaf in named_leaves(whole).items():
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(named_leaves(model.unet.params)[path]))


def test_a_run_shows_held_out_images_above_what_their_captions_become(trained):
    """As diffusers decodes the latents, and as `generate` makes images of the captions."""
    assert [file.name for file in (trained / "images").iterdir()] == ["00000002.png"]
    run, model = opening.open_run(trained), from_prompts.open_model(trained, "float32")
    rows = next(iter(run.task.data("val").stream.batches(start=0, batch_size=4)))
    true, made = run.task.preview_program(run.task.whole_unet(run.params, mesh_of(model.unet.params)), rows)
    with torch.no_grad():
        decoded = pipelines.theirs(pathlib.Path(run.config.model.path)).vae.decode(
            torch.from_numpy(rows["mean"]).permute(0, 3, 1, 2)
        )
    np.testing.assert_allclose(true, (decoded.sample.permute(0, 2, 3, 1) / 2 + 0.5).clip(0, 1), atol=1e-4)
    twice = np.tile(np.arange(4, dtype=np.uint32), 2)  # as many rows as devices
    given = {"index": twice, "context": rows["context"][twice]}
    plan = sampling.plan("ddim", model.schedule, 30)
    empty = model.context([""])
    again, _ = model.generate(plan, given, seed=0, size=rows["mean"].shape[1:3], unconditional=empty, scale=3.0)
    np.testing.assert_allclose(made, again[:4], atol=1e-4)


# ------------------------------------------------------------------------------------------------------------- mistakes
@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({}, "model.path is empty"),
        ({"architecture": "sd155", "start": "random"}, "unknown architecture 'sd155'; did you mean sd15?"),
        ({"architecture": "tiny"}, "model.start is weights, but model.path is empty"),
        (
            {"architecture": "tiny", "start": "random", "trainable": "cross_attention"},
            "model.trainable is cross_attention, but with model.start=random there are no weights to keep",
        ),
        ({"path": "/nowhere/at/all"}, "no such folder"),
    ],
    ids=str,
)
def test_reports_missing_model(model, said):
    with pytest.raises(UserError) as problem:
        TextToImage(TextToImageConfig(model=UNetModelConfig(**model))).check()
    assert said in str(problem.value)
    assert "\n" not in str(problem.value)
