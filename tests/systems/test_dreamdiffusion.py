"""DreamDiffusion: what is trained and what is not, which trials are held out, what is aligned, what is made."""

import dataclasses
import json
import shutil

import jax
import mne
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from dreamjax.errors import UserError
from dreamjax.signals import records
from dreamjax.signals.pipeline import DataConfig
from dreamjax.systems import dreams, masked_pretraining, moments, picture_sources, runs
from dreamjax.systems.dreamdiffusion import DreamDiffusion, DreamDiffusionConfig, EncoderConfig, LossConfig, ModelConfig
from dreamjax.systems.dreamdiffusion_presets import PRESETS
from dreamjax.systems.eeg_to_image import Dreamer, Request
from dreamjax.systems.masked_pretraining import MaskedPretrainingConfig
from dreamjax.targets import trials
from dreamjax.targets.features import EmbeddingConfig
from dreamjax.targets.trials import TargetConfig
from dreamjax.training.checkpoints import CheckpointConfig
from dreamjax.training.config import TrainConfig
from dreamjax.training.optimiser import OptimConfig
from dreamjax.weights.table import flatten
from tests import parity, pipelines
from tests.support import make_windows

COUNT, SAMPLES = 24, 64  # pictures, samples of a window
SIZES = {"dim": 16, "depth": 1, "heads": 2, "decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 2, "patch": 8}


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return pipelines.write(tmp_path_factory.mktemp("pipeline"), widths=(32,))


@pytest.fixture(scope="module")
def vision(tmp_path_factory):
    """A CLIP vision model with its preprocessor, as transformers writes it."""
    folder = tmp_path_factory.mktemp("vision")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPVisionConfig(**sizes, image_size=16, patch_size=8, projection_dim=12)
    parity.randomise(transformers.CLIPVisionModelWithProjection(config)).save_pretrained(folder)
    transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seen") / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        pixels = np.kron(rng.integers(0, 255, (2, 2, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Three people who saw every picture once, in an order of their own: the signal says which."""
    folder = tmp_path_factory.mktemp("trials")
    splits = {}
    for subject, split in enumerate(("train", "val", "test")):
        order, windows = np.random.default_rng(subject).permutation(COUNT), []
        for shown, window in zip(order, make_windows(subject, windows=COUNT, samples=SAMPLES), strict=True):
            evoked = np.random.default_rng(shown).normal(size=(19, 1)) * np.sin(np.arange(SAMPLES) / 4)
            signal = window.signal + 30 * evoked
            windows.append(
                dataclasses.replace(
                    window, signal=signal, stimulus=f"{shown:02d}.png", label=("odd", "even")[shown % 2]
                )
            )
        splits[split] = records.write_split(folder, "trials", split, windows)
    records.finish(folder, "trials", splits)
    return str(folder)


@pytest.fixture(scope="module")
def encoder(shards, tmp_path_factory):
    """A run of masked pretraining of two steps."""
    workdir = tmp_path_factory.mktemp("encoder") / "run"
    config = MaskedPretrainingConfig(
        data=DataConfig(path=(shards,), samples=SAMPLES),
        model=masked_pretraining.ModelConfig(**SIZES),
        train=TrainConfig(steps=2, batch_size=8, tensorboard=False),
    )
    runs.train(config, workdir, jax.devices()[:1])
    return workdir


@pytest.fixture(scope="module")
def config(sd, vision, pictures, shards, encoder, tmp_path_factory):
    return DreamDiffusionConfig(
        data=DataConfig(path=(shards,)),
        target=TargetConfig(
            folder=str(pictures),
            resolution=16,
            bank=str(tmp_path_factory.mktemp("bank")),
            val_share=0.2,
            test_share=0.2,
            embedding=EmbeddingConfig(str(vision)),
        ),
        encoder=EncoderConfig(str(encoder)),
        model=ModelConfig(path=str(sd), hidden=8, time_condition=True),
        loss=LossConfig(drop_condition=0.5),
        optim=OptimConfig(learning_rate=3e-3, warmup_steps=2, ema_decay=0.9),
        train=TrainConfig(
            steps=30, batch_size=8, eval_every=30, tensorboard=False, checkpoint=CheckpointConfig(every=30)
        ),
    )


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "run"
    return runs.train(config, workdir, jax.devices()[:1]), workdir


# ------------------------------------------------------------------------------------------------------------- trials
def test_no_picture_is_in_two_splits_and_every_trial_is_in_one(config):
    task = DreamDiffusion(config)
    found = {s: trials.trials(task.encoder.data, config.target, s, seed=0, training=False) for s in trials.SPLITS}
    seen = {split: set(f.picture.tolist()) for split, f in found.items()}
    assert set.union(*seen.values()) == set(range(COUNT))
    assert sum(map(len, seen.values())) == COUNT
    assert sum(map(len, found.values())) == 3 * COUNT
    apart = dataclasses.replace(config.target, people="apart")
    alone = trials.trials(task.encoder.data, apart, "test", seed=0, training=False)
    assert set(alone.picture.tolist()) == seen["test"]
    assert len(alone) == len(seen["test"])  # of one person


def test_a_trial_comes_with_what_was_seen_in_it(config, sd, vision, pictures):
    """Latents and embeddings are diffusers' and transformers' of the picture whose signal the window holds."""
    stream = DreamDiffusion(config).data("val").stream
    rows = next(iter(stream.batches(start=0, batch_size=4)))
    evoked = np.stack([np.random.default_rng(i).normal(size=19) for i in range(COUNT)])
    evoked -= evoked.mean(1, keepdims=True)
    for k in range(4):
        strength = rows["signal"][k] @ np.sin(np.arange(SAMPLES) / 4)
        assert np.argmax([np.corrcoef(strength, e)[0, 1] for e in evoked]) == rows["picture"][k]
    name = pictures / f"{rows['picture'][0]:02d}.png"
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
    """It was pretrained on the first person, who saw every picture once."""
    found = DreamDiffusion(config).encoder
    held_out = trials.trials(found.data, config.target, "test", seed=0, training=False)
    assert trials.pretrained_on(held_out, [shards]) == len(set(held_out.picture.tolist())) == len(held_out) / 3
    assert trials.pretrained_on(held_out, []) == 0


def test_what_the_encoder_saw_of_the_same_recordings_prepared_otherwise_is_counted_too(config, shards, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(shards, again)
    data = DreamDiffusion(config).encoder.data
    held_out = trials.trials(data, config.target, "test", seed=0, training=False)
    assert trials.pretrained_on(held_out, [str(again)]) == trials.pretrained_on(held_out, [shards])
    shutil.rmtree(again)  # nobody keeps everything: what is not there cannot be counted, and stops nothing
    assert trials.pretrained_on(held_out, [str(again)]) == 0


def test_what_cannot_be_trials_is_one_sentence(config, tmp_path):
    data = DreamDiffusion(config).encoder.data
    Image.new("RGB", (8, 8)).save(tmp_path / "another.png")
    elsewhere = dataclasses.replace(config.target, folder=str(tmp_path))
    with pytest.raises(UserError, match="no window was recorded at a picture of"):
        trials.trials(data, elsewhere, "train", seed=0, training=True)
    with pytest.raises(UserError, match="folder is empty"):
        trials.trials(data, TargetConfig(), "train", seed=0, training=True)


def test_two_pictures_of_one_file_name_are_never_mistaken_for_each_other():
    """A stimulus is told by its path; its file's name alone is enough where only one picture has it."""
    number = trials._numbers(["a/x.png", "b/x.png", "b/y.png"], "stimuli")
    assert [number(name) for name in ("b/x.png", "a/x.png", "y.png", "shown/y.png", "z.png", "")] == [
        1,
        0,
        2,
        2,
        -1,
        -1,
    ]
    with pytest.raises(UserError, match=r"has 2 pictures called x\.png"):
        number("x.png")


def test_settings_that_do_not_fit_are_one_sentence(config, sd):
    with pytest.raises(ValueError, match="what was seen was not mirrored"):
        dataclasses.replace(config.target, flip=0.5)
    alone = dataclasses.replace(config, encoder=EncoderConfig(), data=DataConfig(samples=510))
    with pytest.raises(UserError, match=r"samples is 510, but it must divide by model.patch"):
        DreamDiffusion(alone).check()
    with pytest.raises(UserError, match="--samples from 1 to 4095"):
        Request(samples=4096)


# ------------------------------------------------------------------------------------------------------------ training
def test_exactly_the_intended_parts_are_trained(config):
    """Frozen parts have neither gradient nor optimiser state."""
    task = DreamDiffusion(config)
    state = jax.eval_shape(task.init, jax.random.key(0))
    assert set(state.params) == {"encoder", "conditioner", "unet"}
    assert all("attn2/" in path for path in flatten(state.params["unet"]))
    assert not any("attn2/" in path for path in flatten(state.frozen["unet"]))
    moments = sum(leaf.size for leaf in jax.tree.leaves(state.opt) if leaf.ndim)
    assert moments == 2 * sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert not any("decoder" in path for path in flatten(state.params["encoder"]))


def test_all_of_the_unet_can_be_trained(config):
    """Then nothing of it is frozen, and every weight of it comes from the pipeline's folder."""
    task = DreamDiffusion(dataclasses.replace(config, model=dataclasses.replace(config.model, trainable="all")))
    state = jax.eval_shape(task.init, jax.random.key(0))
    assert set(state.frozen) == {"nothing"}
    network, arguments = task.unet
    assert set(flatten(state.params["unet"])) == set(flatten(network.shapes(arguments)))
    assert "frozen/unet" not in task.weights()
    loss = jax.eval_shape(
        lambda p, f, b: task.loss(p, f, b, 0, 0.5)[0],
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
    network, arguments = task.unet
    assert set(flatten(state.frozen["unet"])) == set(flatten(network.shapes(arguments)))
    assert {name for name in task.weights() if name.endswith("/unet")} == {"frozen/unet"}
    gradient = jax.eval_shape(
        jax.grad(lambda p, f, b: task.loss(p, f, b, 0, 0.5)[0]),
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
    gradient = jax.grad(lambda params, frozen, batch: task.loss(params, frozen, batch, 0, 0.5)[0])
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
    before = flatten(runs.open_run(encoder).params)
    for path, leaf in flatten(state.params["encoder"]).items():
        np.testing.assert_array_equal(leaf, before[path])
    theirs = pipelines.theirs(sd)
    kernel = theirs.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_q.weight.detach().numpy()
    found = {path: leaf for path, leaf in flatten(state.params["unet"]).items() if path.endswith("attn2/q/kernel")}
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
    alone = dataclasses.replace(config, target=target, loss=LossConfig(alignment="none"))
    task = DreamDiffusion(alone)
    rows = next(iter(task.data("val").stream.batches(start=0, batch_size=2)))
    assert rows["embedding"].shape == (2, *task.example()["embedding"].shape)
    assert task.embedding_dim == 0
    with pytest.raises(UserError, match=r"name a CLIP vision model to align with, or set loss\.alignment=none"):
        _ = DreamDiffusion(dataclasses.replace(config, target=target)).embedding_dim


def test_all_of_a_batch_can_be_negatives(config):
    """With infonce, the same picture seen by another is no negative; the temperature is learned."""
    loss = LossConfig(alignment="infonce")
    task = DreamDiffusion(dataclasses.replace(config, loss=loss))
    state = jax.eval_shape(task.init, jax.random.key(0))
    assert state.params["logit_scale"].shape == ()
    with pytest.raises(ValueError, match="infonce needs its whole batch at once"):
        dataclasses.replace(config, loss=loss, train=dataclasses.replace(config.train, microbatches=2))


# ---------------------------------------------------------------------------------------------------------- generating
def test_a_run_makes_pictures_of_trials_that_it_never_saw(trained, config, tmp_path):
    out = tmp_path / "out"
    request = Request(steps=2, sampler="ddim", trials=3, samples=2, guidance=2.0)
    told = dreams.generate(trained[1], request, out)
    assert (told["pictures"], told["trials"], told["size"]) == (6, 3, [16, 16])
    rows = [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]
    task = DreamDiffusion(config)
    held_out = trials.trials(task.encoder.data, config.target, "test", seed=0, training=False)
    names = {held_out.pictures[i].name for i in held_out.picture}
    assert {row["picture"] for row in rows} <= names
    for row in rows:
        assert np.asarray(Image.open(out / row["seen"])).shape == (16, 16, 3)
        assert all((out / file).exists() for file in row["made"])
    assert (out / "grid.png").exists()
    page = (out / "gallery.html").read_text()
    assert "was not evaluated, so nothing is known about how right these pictures are" in page
    assert "not for clinical, forensic or covert use" in page
    assert page.count("<figure") == 9


def test_an_interrupted_folder_goes_on_and_ends_as_if_it_had_not_been(trained, tmp_path, capsys):
    """The pictures that are missing are made, each as before; another command is refused, a whole folder is left."""
    request = Request(steps=2, sampler="ddim", trials=4, samples=2, guidance=2.0, batch=2)
    dreams.generate(trained[1], request, tmp_path / "whole")
    dreams.generate(trained[1], request, tmp_path / "out")
    broken = tmp_path / "out"
    kept = sorted(broken.glob("*-*.png"))
    (broken / "trials.jsonl").unlink()
    (broken / "gallery.html").unlink()
    for file in kept[2:5]:
        file.unlink()
    kept[5].write_bytes(kept[5].read_bytes()[:60])  # a damaged one is made anew
    before = kept[0].stat().st_mtime_ns
    told = dreams.generate(trained[1], request, broken)
    assert told["pictures"] == 8
    assert kept[0].stat().st_mtime_ns == before  # not made again
    for file in (tmp_path / "whole").rglob("*.png"):
        again = np.asarray(Image.open(broken / file.relative_to(tmp_path / "whole")))
        assert np.abs(again.astype(int) - np.asarray(Image.open(file))).max() <= 1  # levels of 255
    assert dreams.generate(trained[1], request, broken) == told
    with pytest.raises(UserError, match=r"holds pictures of another command \(guidance, steps differ\)"):
        dreams.generate(trained[1], dataclasses.replace(request, steps=3, guidance=1.0), broken)
    with pytest.raises(UserError, match=r"\(guidance differs\)"):
        dreams.generate(trained[1], dataclasses.replace(request, guidance=1.0), broken)
    (broken / "request.json").write_text("{")
    with pytest.raises(UserError, match=r"request\.json: .*; choose another --out or delete the folder"):
        dreams.generate(trained[1], request, broken)
    (tmp_path / "theirs").mkdir()
    with pytest.raises(UserError, match="theirs exists already"):
        dreams.generate(trained[1], request, tmp_path / "theirs")


def test_pictures_are_made_of_moments_of_a_recording(config, trained, tmp_path, capsys):
    """Of a file that only the readers can open; what was seen is not known then."""
    from dreamjax.cli import main as cli
    from dreamjax.signals import simulate

    told = simulate.simulate(tmp_path / "study", simulate.Settings(subjects=1, minutes=0.5, channels=19))
    file = str(tmp_path / "study" / told["files"][0])
    words = ["generate", "--checkpoint", str(trained[1]), "--steps", "2", "--sampler", "ddim", "--guidance", "1"]
    out = tmp_path / "out"
    assert cli.main([*words, "--input", file, "--at", "10", "20.5", "--samples", "2", "--out", str(out)]) == 0
    assert "4 pictures of 16 x 16 from 2 of 2 trials, ddim" in capsys.readouterr().out
    rows = [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]
    assert [row["start"] for row in rows] == pytest.approx([10, 20.5], abs=1 / 128)
    assert [row["seen"] for row in rows] == ["", ""]
    assert not (out / "truth").exists()
    nameless = tmp_path / "nameless_raw.fif"
    info = mne.create_info(["Q1", "Q2", "Q3"], 128.0, "eeg")
    noise = np.random.default_rng(0).normal(0, 1e-5, (3, 128 * 30))
    mne.io.RawArray(noise, info, verbose="error").save(nameless, verbose="error")
    assert cli.main([*words, "--input", str(nameless), "--at", "10", "--out", str(tmp_path / "other")]) == 2
    assert "1 of 1 windows have no channel whose position is known" in capsys.readouterr().err
    with moments.prepared([file], DreamDiffusion(config).encoder.data, moments.Moments(at=(10.0,))) as folder:
        elsewhere = Request(input=(folder,), steps=2, sampler="ddim", guidance=1.0)  # trials at pictures of others
        assert dreams.generate(trained[1], elsewhere, tmp_path / "elsewhere")["split"] is None
    first, second = (np.asarray(Image.open(out / row["made"][0])) for row in rows)
    assert (first != second).any()
    for more, said in (
        ([], "a recording wants the moments that pictures are made of: --at SECONDS or --events"),
        (["--at", "10", "--events", "file"], "--at and --events both say when: give one of them"),
        (["--at", "99"], "_eeg.edf: --at 99 is outside the recording of 30 s"),
        (["--at", "10", "--split", "val"], "--split would do nothing beside --at"),
        (["--event-codes", "1"], "--event-codes would do nothing without --events"),
    ):
        assert cli.main([*words, "--input", file, *more, "--out", str(tmp_path / "other")]) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "other").exists()
    assert cli.main([*words, "--input", "nowhere.edf", "--at", "1", "--out", str(tmp_path / "other")]) == 2
    assert "nowhere.edf: no such recording or dataset folder" in capsys.readouterr().err
    assert cli.main([*words, "--at", "1", "--out", str(tmp_path / "other")]) == 2
    assert "--at and --events take a recording" in capsys.readouterr().err


def test_the_table_has_the_model_beside_its_controls_and_what_is_missing(trained, tmp_path, capsys):
    from dreamjax.cli import main as cli

    words = ["evaluate", str(trained[1]), "--trials", "6", "--samples", "2", "--steps", "2", "--sampler", "ddim"]
    assert cli.main([*words, "--guidance", "2", "--out", str(tmp_path / "scores")]) == 0
    said = capsys.readouterr().out
    assert "no N-way accuracy: it takes a trained classifier" in said
    assert "it is not independent" in said
    assert "pretrained on the signals of" in said
    result = json.loads((tmp_path / "scores" / "pictures-test.json").read_text())
    controls = ["class prior", "labels permuted", "time index"]
    nothing = ["model", "another trial's", "empty caption", "random training picture"]
    assert result["sources"] == [*nothing, *controls, "classifier + prompt", "nearest training picture"]
    assert set(result["not_possible"]) == {"before the picture", "pseudo-blocks"}
    assert "no windows before the pictures were given (--before FOLDER)" in said
    assert result["trials"] == 6
    by_name = {entry["metric"]: entry for entry in result["scores"]}
    assert by_name["two-way, pixels"]["chance"] == 0.5
    named = by_name.pop("class, as answered")
    assert set(named["scores"]) == {*controls, "classifier + prompt", "nearest training picture"}
    assert named["chance"] == 0.5
    assert all(set(entry["scores"]) == set(result["sources"]) for entry in by_name.values())
    page = (tmp_path / "scores" / "pictures-test.html").read_text()
    assert "Model minus each, paired" in page
    assert page.count('class="seen"') == 6
    assert "test split is scored for the first time" in said
    assert "two-way within class, pixels: model 0." in said
    assert set(result["of_sources"]) == set(result["sources"]) - {"model"}
    assert cli.main([*words[:2], "--classifier", ""]) == 2
    assert cli.main([*words[:2], "--probe"]) == 2
    assert cli.main([*words[:2], "--windows", "3"]) == 2
    assert cli.main([*words[:2], "--prompt", "a dog"]) == 2
    assert "does not name the class; put {label} where it belongs" in capsys.readouterr().err
    assert cli.main([*words[:2], "--prompt", "a {dog}"]) == 2


@pytest.mark.long
def test_how_often_the_test_split_was_read_is_told(trained, tmp_path, capsys):
    """Never before, once before; and pictures that training showed are no test."""
    from dreamjax.cli import main as cli

    run = shutil.copytree(trained[1], tmp_path / "run")
    (run / "test_reads.jsonl").unlink(missing_ok=True)
    words = ["evaluate", str(run), "--steps", "2", "--sampler", "ddim", "--guidance", "1", "--samples", "1"]
    for name, told in (("first", "scored for the first time"), ("again", "was scored once before")):
        assert cli.main([*words, "--trials", "2", "--out", str(tmp_path / name)]) == 0
        assert told in capsys.readouterr().out
    assert cli.main([*words, "--trials", "1", "--split", "train", "--out", str(tmp_path / "one")]) == 0
    assert "1 picture that it was trained on" in capsys.readouterr().out


def test_the_generate_command_takes_a_run(trained, tmp_path, capsys):
    from dreamjax.cli import main as cli

    words = ["generate", "--checkpoint", str(trained[1]), "--trials", "2", "--steps", "2", "--sampler", "ddim"]
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0
    assert "2 pictures of 16 x 16 from 2 of" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "out" / "trials.jsonl").read_text().splitlines()]
    assert not any(row["trained_on"] for row in rows)
    page = (tmp_path / "out" / "gallery.html").read_text()
    assert "2 of " in page
    assert "drawn at random" in page
    assert cli.main([*words, "--split", "train", "--out", str(tmp_path / "trained")]) == 0
    assert "2 of these trials are of pictures that training showed" in capsys.readouterr().err
    assert ", trained on" in (tmp_path / "trained" / "gallery.html").read_text()
    for more, told in (
        (["--prompt", "a"], "--prompt would do nothing beside --checkpoint"),
        (["--split", "tset"], "invalid choice"),
        (["--height", "8", "--width", "16"], "are not square"),
    ):
        assert cli.main([*words, *more, "--out", str(tmp_path / "other")]) == 2
        assert told in capsys.readouterr().err
    assert cli.main(["generate", "--trials", "2", "--out", str(tmp_path / "other")]) == 2
    assert "--trials would do nothing without --checkpoint" in capsys.readouterr().err


def test_another_trial_is_one_of_another_picture():
    rng = np.random.default_rng(0)
    seen = np.repeat(np.arange(10), 4)
    order = picture_sources.elsewhere(seen, rng)
    assert sorted(order) == list(range(40))
    assert (seen[order] != seen).all()


def test_a_picture_depends_on_its_trial_and_not_on_the_others(trained):
    dreamer = Dreamer.open(runs.open_run(trained[1]))
    found = dreamer.trials("test")
    index = np.arange(4, dtype=np.uint64)
    rows = found.windows.of(found.record[:4], index)
    together = dreamer.read(rows)
    assert set(together) == {"context", "time_offset", "embedding"}
    alone = dreamer.read({name: array[2:3] for name, array in rows.items()})
    assert parity.difference(alone["context"][0], together["context"][2]) < 1e-5
    assert parity.difference(together["context"][1], together["context"][2]) > 1e-3


@pytest.mark.long
def test_a_table_of_one_trial_says_what_it_cannot(trained, tmp_path, capsys):
    from dreamjax.cli import main as cli

    words = ["evaluate", str(trained[1]), "--steps", "1", "--sampler", "ddim", "--guidance", "1", "--trials", "1"]
    assert cli.main([*words, "--out", str(tmp_path / "one")]) == 0
    said = capsys.readouterr()
    assert "Warning" not in said.err
    assert "too few pictures were seen in these trials for two-way, pixels" in said.out
    assert "in all of these trials the same picture was seen" in said.out
    assert "in which 1 person saw 1 picture that training never showed" in said.out


def test_scores_are_not_lost_to_those_of_fewer_trials(trained, tmp_path, capsys):
    """Which is said before anything is made, as is a place that cannot be written."""
    from dreamjax.cli import main as cli

    run = shutil.copytree(trained[1], tmp_path / "run")
    kept = run / "evaluation" / "pictures-test.json"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(json.dumps({"step": runs.open_run(run).step, "trials": 2, "warnings": []}))
    before = kept.read_text()
    (tmp_path / "a_file").write_text("")
    words = ["evaluate", str(run), "--steps", "1", "--sampler", "ddim", "--guidance", "1", "--trials", "1"]
    for more, told in (
        ([], "holds the scores of 2 trials of split test, and these would be of 1: name another folder with --out"),
        (["--out", str(tmp_path / "a_file" / "x")], "a_file is not a folder; name another place"),
    ):
        assert cli.main([*words, *more]) == 2
        assert told in capsys.readouterr().err
    assert kept.read_text() == before
