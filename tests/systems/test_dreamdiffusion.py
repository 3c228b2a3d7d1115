"""DreamDiffusion: which trials are held out, what is trained and what is not, what is aligned."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from dreamjax.errors import UserError
from dreamjax.generation.from_trials import TrialRequest
from dreamjax.parallel.tree_paths import named_leaves
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.systems import opening
from dreamjax.systems.dreamdiffusion import AlignedLossConfig, DreamDiffusion, EncoderConfig
from dreamjax.systems.dreamdiffusion_presets import PRESETS
from dreamjax.targets import trials
from dreamjax.targets.features import EmbeddingConfig
from dreamjax.targets.trials import TargetConfig
from tests import parity, pipelines
from tests.systems.conftest import COUNT, SAMPLES


# ------------------------------------------------------------------------------------------------------------- trials
def test_no_image_is_in_two_splits_and_every_trial_is_in_one(config):
    task = DreamDiffusion(config)
    found = {s: trials.trials(task.encoder.data, config.target, s, seed=0, training=False) for s in trials.SPLITS}
    seen = {split: set(f.image.tolist()) for split, f in found.items()}
    assert set.union(*seen.values()) == set(range(COUNT))
    assert sum(map(len, seen.values())) == COUNT
    assert sum(map(len, found.values())) == 3 * COUNT
    apart = dataclasses.replace(config.target, people="apart")
    alone = trials.trials(task.encoder.data, apart, "test", seed=0, training=False)
    assert set(alone.image.tolist()) == seen["test"]
    assert len(alone) == len(seen["test"])  # of one person


def test_a_trial_comes_with_what_was_seen_in_it(config, sd, vision, images):
    """Latents and embeddings are diffusers' and transformers' of the image whose signal the window holds."""
    stream = DreamDiffusion(config).data("val").stream
    rows = next(iter(stream.batches(start=0, batch_size=4)))
    evoked = np.stack([np.random.default_rng(i).normal(size=19) for i in range(COUNT)])
    evoked -= evoked.mean(1, keepdims=True)
    for k in range(4):
        strength = rows["signal"][k] @ np.sin(np.arange(SAMPLES) / 4)
        assert np.argmax([np.corrcoef(strength, e)[0, 1] for e in evoked]) == rows["image"][k]
    name = images / f"{rows['image'][0]:02d}.png"
    x = torch.from_numpy(np.asarray(Image.open(name)).astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    model = transformers.CLIPVisionModelWithProjection.from_pretrained(vision)
    pixels = transformers.CLIPImageProcessor.from_pretrained(vision)(Image.open(name), return_tensors="pt").pixel_values
    with torch.no_grad():
        mean = pipelines.theirs(sd).vae.encode(x).latent_dist.mean[0].permute(1, 2, 0)
        embedding = model(pixels).image_embeds[0]
    assert parity.difference(rows["mean"][0], mean) < 1e-4
    assert parity.difference(rows["embedding"][0], embedding) < 1e-4
    assert {name: (array.shape[1:], array.dtype) for name, array in rows.items()} == {
        name: (leaf.shape, leaf.dtype) for name, leaf in stream.element().items()
    }


def test_what_the_encoder_saw_before_is_counted(config, shards):
    """It was pretrained on the first person, who saw every image once."""
    found = DreamDiffusion(config).encoder
    held_out = trials.trials(found.data, config.target, "test", seed=0, training=False)
    assert trials.pretrained_on(held_out, [shards]) == len(set(held_out.image.tolist())) == len(held_out) / 3
    assert trials.pretrained_on(held_out, []) == 0


def test_what_the_encoder_saw_of_the_same_recordings_prepared_otherwise_is_counted_too(config, shards, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(shards, again)
    data = DreamDiffusion(config).encoder.data
    held_out = trials.trials(data, config.target, "test", seed=0, training=False)
    assert trials.pretrained_on(held_out, [str(again)]) == trials.pretrained_on(held_out, [shards])
    shutil.rmtree(again)  # nobody keeps everything: what is not there cannot be counted, and stops nothing
    assert trials.pretrained_on(held_out, [str(again)]) == 0


def test_rejects_data_without_trials(config, tmp_path):
    data = DreamDiffusion(config).encoder.data
    Image.new("RGB", (8, 8)).save(tmp_path / "another.png")
    elsewhere = dataclasses.replace(config.target, folder=str(tmp_path))
    with pytest.raises(UserError, match="no window was recorded at an image of"):
        trials.trials(data, elsewhere, "train", seed=0, training=True)
    with pytest.raises(UserError, match="folder is empty"):
        trials.trials(data, TargetConfig(), "train", seed=0, training=True)


def test_two_images_of_one_file_name_are_never_mistaken_for_each_other():
    """A stimulus is told by its path; its file's name alone is enough where only one image has it."""
    names, stimuli = ["a/x.png", "b/x.png", "b/y.png"], ["b/x.png", "a/x.png", "y.png", "shown/y.png", "z.png", ""]
    assert trials.image_numbers(stimuli, names, "stimuli").tolist() == [1, 0, 2, 2, -1, -1]
    with pytest.raises(UserError, match=r"has 2 images called x\.png"):
        trials.image_numbers(["x.png"], names, "stimuli")


def test_rejects_settings_that_do_not_fit(config, sd):
    with pytest.raises(ValueError, match="what was seen was not mirrored"):
        dataclasses.replace(config.target, flip=0.5)
    alone = dataclasses.replace(config, encoder=EncoderConfig(), data=DataConfig(samples=510))
    with pytest.raises(UserError, match=r"samples is 510, but it must divide by model.patch"):
        DreamDiffusion(alone).check()
    with pytest.raises(UserError, match="--samples from 1 to 4095"):
        TrialRequest(samples=4096)


# ------------------------------------------------------------------------------------------------------------ training
def test_exactly_the_intended_parts_are_trained(config):
    """Frozen parts have neither gradient nor optimiser state."""
    task = DreamDiffusion(config)
    state = jax.eval_shape(task.init, jax.random.key(0))
    assert set(state.params) == {"encoder", "conditioner", "unet"}
    assert all("attn2/" in path for path in named_leaves(state.params["unet"]))
    assert not any("attn2/" in path for path in named_leaves(state.frozen["unet"]))
    moments = sum(leaf.size for leaf in jax.tree.leaves(state.opt) if leaf.ndim)
    assert moments == 2 * sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert not any("decoder" in path for path in named_leaves(state.params["encoder"]))


def test_all_of_the_unet_can_be_trained(config):
    """Then nothing of it is frozen, and every weight of it comes from the pipeline's folder."""
    task = DreamDiffusion(dataclasses.replace(config, model=dataclasses.replace(config.model, trainable="all")))
    state = jax.eval_shape(task.init, jax.random.key(0))
    assert set(state.frozen) == {"nothing"}
    assert set(named_leaves(state.params["unet"])) == set(named_leaves(task.unet.params))
    assert "frozen/unet" not in task.weights()
    loss = jax.eval_shape(
        lambda p, f, b: task.loss(p, f, b, 0, training=True)[0],
        state.params,
        state.frozen,
        {name: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype) for name, leaf in task.example().items()},
    )
    assert loss.shape == ()


def test_the_unet_can_be_left_as_it_was(config):
    """Then all of it is frozen and comes from the pipeline's folder once; the encoder's gradient goes through it."""
    task = DreamDiffusion(dataclasses.replace(config, model=dataclasses.replace(config.model, trainable="none")))
    state = jax.eval_shape(task.init, jax.random.key(0))
    assert set(state.params) == {"encoder", "conditioner"}
    assert set(named_leaves(state.frozen["unet"])) == set(named_leaves(task.unet.params))
    assert {name for name in task.weights() if name.endswith("/unet")} == {"frozen/unet"}
    gradient = jax.eval_shape(
        jax.grad(lambda p, f, b: task.loss(p, f, b, 0, training=True)[0]),
        state.params,
        state.frozen,
        {name: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype) for name, leaf in task.example().items()},
    )
    assert set(gradient) == {"encoder", "conditioner"}


def test_published_sizes_of_the_maps():
    """13,261 and 787,200 to the context, 787,329 to CLIP's space, 987,323 to the time embedding."""
    from flax import nnx

    from dreamjax.models.conditioner import Conditioner

    shapes = nnx.to_pure_dict(
        nnx.state(
            nnx.eval_shape(
                lambda: Conditioner(
                    tokens=128,
                    dim=1024,
                    context_tokens=77,
                    context_dim=768,
                    embedding_dim=768,
                    time_dim=1280,
                    rngs=nnx.Rngs(0),
                )
            ),
            nnx.Param,
        )
    )

    def count(*names):
        return sum(leaf.size for name in names for leaf in jax.tree.leaves(shapes[name]))

    assert count("token_in", "token_out") == 13_261
    assert count("dim_map") == 787_200
    assert count("embed_tokens", "embed_map") == 787_329
    assert count("time_in", "time_out", "time_map") == 987_323


@pytest.mark.parametrize(("name", "encoder"), [("code", 151_768_064), ("paper", 302_836_736)])
def test_the_published_settings_train_what_was_meant(name, encoder):
    """The encoder of 24 blocks of width 1,024 (a hidden layer of 1,024 or 4,096), the maps, and of Stable Diffusion's
    U-Net the cross-attention and the norms before it.
    """
    blocks = 24 * (4 * 1024**2 + 4 * 1024 + 4 * 1024)  # attention with its biases, two norms
    hidden = 1024 if name == "code" else 4096
    assert encoder == blocks + 24 * (2 * 1024 * hidden + hidden + 1024) + 512 * 1024 + 1024 + 2 * 1024
    config = PRESETS[name]
    task = DreamDiffusion(dataclasses.replace(config, model=dataclasses.replace(config.model, architecture="sd15")))
    state = jax.eval_shape(task.init, jax.random.key(0))
    counts = {part: sum(leaf.size for leaf in jax.tree.leaves(tree)) for part, tree in state.params.items()}
    assert counts == {
        "encoder": encoder,
        "conditioner": 13_261 + 787_200 + 787_329 + 987_323,
        "unet": 43_962_560 + 24_960,
    }
    assert sum(leaf.size for leaf in jax.tree.leaves(state.frozen["unet"])) == 859_520_964 - counts["unet"]
    assert task.example()["mean"].shape == (64, 64, 4)
    with pytest.raises(UserError, match="not onto sizes alone"):
        task.check()


def test_bfloat16_has_float32_gradients(config):
    """Traced, not run: XLA on CPU lacks some of its products."""
    task = DreamDiffusion(dataclasses.replace(config, model=dataclasses.replace(config.model, dtype="bfloat16")))
    state = jax.eval_shape(task.init, jax.random.key(0))
    batch = {name: jax.ShapeDtypeStruct((4, *leaf.shape), leaf.dtype) for name, leaf in task.example().items()}
    gradient = jax.grad(lambda params, frozen, batch: task.loss(params, frozen, batch, 0, training=True)[0])
    found = jax.eval_shape(gradient, state.params, state.frozen, batch)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(np.float32)}


def test_it_starts_from_the_pretrained_encoder_and_the_published_unet(config, encoder, sd):
    from dreamjax.parallel import mesh as meshes
    from dreamjax.parallel.mesh import MeshConfig
    from dreamjax.training import program

    task = DreamDiffusion(config)
    mesh = meshes.make(MeshConfig())
    with jax.set_mesh(mesh):
        built = program.build(task, mesh)
        state = program.stream_in(built.init(jax.random.key(0)), task.weights())
    before = named_leaves(opening.open_run(encoder).params)
    for path, leaf in named_leaves(state.params["encoder"]).items():
        np.testing.assert_array_equal(leaf, before[path])
    theirs = pipelines.theirs(sd)
    kernel = theirs.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_q.weight.detach().numpy()
    found = {path: leaf for path, leaf in named_leaves(state.params["unet"]).items() if path.endswith("attn2/q/kernel")}
    np.testing.assert_array_equal(found["down_blocks/0/attentions/0/blocks/attn2/q/kernel"][0], kernel.T)
    ids = theirs.tokenizer([""], padding="max_length", max_length=16, return_tensors="pt").input_ids
    with torch.no_grad():
        assert parity.difference(state.frozen["nothing"], theirs.text_encoder(ids)[0][0]) < 1e-5


def test_a_run_aligns_trials_with_what_was_seen(trained, config):
    told, workdir = trained
    assert {"loss", "diffusion", "cosine", "mse"} <= set(told["val"])
    first = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[0])
    assert told["train"]["cosine"] > first["cosine"]
    assert np.isfinite(told["val"]["loss"])


def test_without_an_alignment_no_vision_model_is_wanted(config):
    """Trials then have an embedding of nothing; an alignment without a model is one sentence."""
    target = dataclasses.replace(config.target, embedding=EmbeddingConfig())
    alone = dataclasses.replace(config, target=target, loss=AlignedLossConfig(alignment="none"))
    task = DreamDiffusion(alone)
    rows = next(iter(task.data("val").stream.batches(start=0, batch_size=2)))
    assert rows["embedding"].shape == (2, *task.example()["embedding"].shape)
    assert task.embedding_dim == 0
    with pytest.raises(UserError, match=r"name a CLIP vision model to align with, or set loss\.alignment=none"):
        _ = DreamDiffusion(dataclasses.replace(config, target=target)).embedding_dim


def test_all_of_a_batch_can_be_negatives(config):
    """With infonce, the same image seen by another is no negative; the temperature is learned."""
    loss = AlignedLossConfig(alignment="infonce")
    task = DreamDiffusion(dataclasses.replace(config, loss=loss))
    state = jax.eval_shape(task.init, jax.random.key(0))
    assert state.params["logit_scale"].shape == ()
    with pytest.raises(ValueError, match="infonce needs its whole batch at once"):
        dataclasses.replace(config, loss=loss, train=dataclasses.replace(config.train, microbatches=2))
