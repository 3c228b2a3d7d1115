"""Folders of drawn images, and what tests of the image systems share."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from dreamjax import config as configs
from dreamjax.objectives.variational import VariationalConfig
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel import sharding
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.systems import registry
from dreamjax.systems.autoencoder import AutoencoderConfig, AutoencoderModelConfig
from dreamjax.systems.classifier import ClassifierConfig, ClassifierModelConfig
from dreamjax.systems.clip import ClipConfig, ClipModelConfig
from dreamjax.targets.images import ImageConfig
from dreamjax.training import loop
from dreamjax.training.checkpoints import CheckpointConfig
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.train_config import TrainConfig

COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220)}


def folder(path, count=48, size=16):
    """Plain squares in one of three colours, on the left or on the right, with captions; labels are colours."""
    path.mkdir(parents=True)
    lines = []
    for i in range(count):
        name, side = list(COLOURS)[i % 3], ("left", "right")[i // 3 % 2]
        image = np.full((size, size, 3), 128, np.uint8)
        place = slice(0, size // 2) if side == "left" else slice(size // 2, size)
        image[size // 4 : size, place] = COLOURS[name]
        image[0, :] += np.uint8(i)  # no two are equal
        Image.fromarray(image).save(path / f"{i:03d}.png")
        lines.append(json.dumps({"file_name": f"{i:03d}.png", "text": f"{name} on the {side}", "label": name}))
    (path / "metadata.jsonl").write_text("\n".join(lines))
    return str(path)


def _training(batch_size):
    return TrainConfig(
        steps=40, batch_size=batch_size, eval_every=40, image_every=0, checkpoint=CheckpointConfig(every=40)
    )


TINY = (
    AutoencoderConfig(
        data=ImageConfig(resolution=16),
        model=AutoencoderModelConfig("tiny"),
        loss=VariationalConfig(kind="mse"),
        optim=OptimConfig(learning_rate=1e-2, warmup_steps=5, weight_decay=0.0, ema_decay=0.9),
        train=_training(8),
    ),
    ClassifierConfig(
        data=ImageConfig(resolution=16),
        model=ClassifierModelConfig(dim=16, depth=1, heads=2),
        optim=OptimConfig(learning_rate=3e-3, warmup_steps=5, weight_decay=0.0),
        train=_training(16),
    ),
    ClipConfig(
        data=ImageConfig(resolution=16),
        model=ClipModelConfig("tiny"),
        optim=OptimConfig(learning_rate=3e-3, warmup_steps=5, weight_decay=0.0),
        train=_training(16),
    ),
)


def load(schema, **overrides):
    """The small config of a system with dotted keys ("train__steps" for train.steps) set."""
    (found,) = (configs.to_config_dict(config) for config in TINY if isinstance(config, schema))
    for key, value in overrides.items():
        configs.override(schema, found, key.replace("__", "."), str(value))
    return configs.to_dataclass(schema, found)


def train(config, workdir):
    """`runs.train` on one of the tests' eight devices."""
    task = registry.build(config)
    told = loop.train(
        task,
        config.train,
        workdir,
        seed=config.seed,
        config_json=configs.to_json(config),
        defaults_json=configs.to_json(type(config)()),
        devices=jax.devices()[:1],
        claim=lambda: getattr(task, "keep", lambda _: None)(workdir),
    )
    return told, workdir


def random_params(shapes, scale=0.3):
    """NumPy's random parameters: compiling JAX's takes longer than a test."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: (rng.normal(size=s.shape) * scale + (s.ndim == 1)).astype(np.float32), shapes)


def gradients_on(count, gradient, params, batch):
    """`jax.grad` compiled for `count` devices, the batch dealt out among them."""
    mesh = meshes.make(MeshConfig(), jax.devices()[:count])
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    with jax.set_mesh(mesh):
        compiled = jax.jit(gradient, in_shardings=(whole, sharding.batch_sharding(mesh)), out_shardings=whole)
        return jax.tree.map(np.asarray, compiled(params, batch))


def assert_close(found, expected, tolerance=1e-4):
    """Leaf by leaf, relative to the largest gradient of all."""
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    assert largest > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance * largest), found, expected)


@pytest.fixture(autouse=True, scope="module")
def quick_compiles():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
