"""A small DreamDiffusion: what its trials saw, its encoder, its config, a run of it."""

import dataclasses

import jax
import numpy as np
import pytest
import transformers
from PIL import Image

from dreamjax.signals.datasets import records
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.systems import masked_pretraining, opening
from dreamjax.systems.dreamdiffusion import (
    AlignedLossConfig,
    ConditionedModelConfig,
    DreamDiffusionConfig,
    EncoderConfig,
)
from dreamjax.systems.masked_pretraining import MaskedPretrainingConfig
from dreamjax.targets.features import EmbeddingConfig
from dreamjax.targets.trials import TargetConfig
from dreamjax.training.checkpoints import CheckpointConfig
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.train_config import TrainConfig
from tests import parity, pipelines
from tests.support import make_windows

COUNT, SAMPLES = 24, 64  # images, samples of a window
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
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seen") / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        pixels = np.kron(rng.integers(0, 255, (2, 2, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Three people who saw every image once, in an order of their own: the signal says which."""
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
        model=masked_pretraining.MaskedModelConfig(**SIZES),
        train=TrainConfig(steps=2, batch_size=8, tensorboard=False),
    )
    opening.train(config, workdir, jax.devices()[:1])
    return workdir


@pytest.fixture(scope="module")
def config(sd, vision, images, shards, encoder, tmp_path_factory):
    return DreamDiffusionConfig(
        data=DataConfig(path=(shards,)),
        target=TargetConfig(
            folder=str(images),
            resolution=16,
            bank=str(tmp_path_factory.mktemp("bank")),
            val_share=0.2,
            test_share=0.2,
            embedding=EmbeddingConfig(str(vision)),
        ),
        encoder=EncoderConfig(str(encoder)),
        model=ConditionedModelConfig(path=str(sd), hidden=8, time_condition=True),
        loss=AlignedLossConfig(drop_condition=0.5),
        optim=OptimConfig(learning_rate=3e-3, warmup_steps=2, ema_decay=0.9),
        train=TrainConfig(
            steps=30, batch_size=8, eval_every=30, tensorboard=False, checkpoint=CheckpointConfig(every=30)
        ),
    )


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "run"
    return opening.train(config, workdir, jax.devices()[:1]), workdir
