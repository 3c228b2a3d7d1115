"""CLIP trained on captioned images (Radford et al. 2021, arXiv 2103.00020): a text and an image encoder, one space.

What it is for here: the text encoder that conditions a small latent diffusion model, and the image embeddings that a
brain encoder is aligned with, from the same data as everything else. Negatives come from the whole global batch.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
from etils import epath
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from dreamjax import config as configs
from dreamjax.errors import UserError
from dreamjax.objectives.contrastive import ContrastiveConfig, contrastive
from dreamjax.parallel import processes
from dreamjax.runs import shapes
from dreamjax.targets import images, tokens
from dreamjax.targets.images import ImageConfig, scaled
from dreamjax.targets.tokens import Tokenizer
from dreamjax.training import optimiser
from dreamjax.training.checkpoints import CheckpointConfig
from dreamjax.training.held_out import averaged, summed
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.task import Batch, BatchSpec, Metrics, PyTree, State, Stream, WeightSource
from dreamjax.training.train_config import TrainConfig
from dreamjax.training.update import gradient_update
from dreamjax.weights import hub, networks

PARTS = {"text": "text_encoder", "vision": "image_encoder"}  # of the parameters → of the architecture
TOKENIZER = "tokenizer"  # folder within the run's


@dataclass(frozen=True)
class ModelConfig:
    """Which encoders, which tokenizer, and how they are computed."""

    architecture: str = "shapes"  # see runs/shapes.py
    tokenizer: str = ""  # folder or hub id; empty: one is learned from the captions, and kept with the run
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation; parameters are float32
    attention: Literal["auto", "xla", "cudnn", "saved"] = "auto"  # see models/attention.py
    scan_layers: bool = True
    remat: Literal["none", "full", "dots"] = "none"


@dataclass(frozen=True)
class ClipConfig:
    """A run of training CLIP."""

    system: Literal["clip"] = "clip"
    seed: int = 0  # of parameters and data order
    data: ImageConfig = field(default_factory=lambda: ImageConfig(resolution=32))
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        configs.check_seed("seed", self.seed)
        if (self.train.microbatches or 1) > 1:
            raise ValueError(
                f"train.microbatches is {self.train.microbatches}, but a contrastive loss needs its whole batch at once"
            )
        if self.data.flip:
            raise ValueError(f"data.flip is {self.data.flip}, but the captions would then be those of another image")
        parts = shapes.get(self.model.architecture)
        if "image_encoder" not in parts:
            raise ValueError(f"model.architecture {self.model.architecture} has no image_encoder")
        if (size := parts["image_encoder"]["image_size"]) != self.data.resolution:
            raise ValueError(f"data.resolution is {self.data.resolution}, but the image_encoder sees {size} pixels")

    def part(self, name: str) -> dict[str, Any]:
        """The config.json of "text" or "vision", each with its projection."""
        config = shapes.get(self.model.architecture)[PARTS[name]]
        return config | {"architectures": [f"CLIP{name.capitalize()}ModelWithProjection"]}


_SHAPES = ClipConfig(
    data=ImageConfig(resolution=32),
    optim=OptimConfig(learning_rate=2e-3, warmup_steps=20, weight_decay=0.1, beta2=0.98, clip=1.0),
    train=TrainConfig(steps=200, batch_size=64, eval_every=200, checkpoint=CheckpointConfig(every=200)),
)
_TINY = ClipConfig(
    data=ImageConfig(resolution=16),
    model=ModelConfig("tiny"),
    optim=OptimConfig(learning_rate=3e-3, warmup_steps=5, weight_decay=0.0),
    train=TrainConfig(steps=40, batch_size=16, eval_every=40, checkpoint=CheckpointConfig(every=40)),
)
PRESETS = {"shapes": _SHAPES, "tiny": _TINY}


def preset(name: str) -> ConfigDict:
    """The config of a shipped setting, to change and to load. Raises UserError for an unknown name."""
    return configs.preset(name, PRESETS)


# --------------------------------------------------------------------------------------------------- pure functions
@functools.lru_cache(maxsize=16)
def _network(config: ClipConfig, name: str) -> tuple[networks.Network, tuple[tuple[str, Any], ...]]:
    m, described = config.model, config.part(name)
    network = networks.of(described, m.architecture)
    computed = {"dtype": jnp.dtype(m.dtype), **{k: getattr(m, k) for k in ("attention", "scan_layers", "remat")}}
    return network, tuple((network.arguments(described, m.architecture) | computed).items())


def init_params(config: ClipConfig, rng: Array) -> PyTree:
    """Fresh parameters: a nested dict of float32 arrays."""
    params: dict[str, Any] = {"logit_scale": jnp.asarray(math.log(1 / config.loss.temperature), jnp.float32)}
    for name, key in zip(PARTS, jax.random.split(rng, len(PARTS)), strict=True):
        network, arguments = _network(config, name)
        params[name] = network.init(dict(arguments), key)
    return params


def bind(config: ClipConfig, params: PyTree, name: str) -> Any:
    """The `models.clip` encoder "text" or "vision" around given parameters; free of cost, also under jit."""
    network, arguments = _network(config, name)
    return network.bind(dict(arguments), params[name])


def text_features(config: ClipConfig, params: PyTree, ids: Int[Array, "B T"]) -> Float[Array, "B P"]:
    """Embeddings of texts in the common space, as the projection gives them."""
    return bind(config, params, "text")(ids).projected


def image_features(config: ClipConfig, params: PyTree, x: Float[Array, "B H W 3"]) -> Float[Array, "B P"]:
    """Embeddings of images in [-1, 1] in the common space, as the projection gives them."""
    return bind(config, params, "vision")(x).projected


def clip_loss(config: ClipConfig, params: PyTree, batch: Batch) -> tuple[Array, Array, dict[str, tuple[Array, Array]]]:
    """`(sum, weight, metrics)`; equal captions of a batch are not each other's negatives."""
    u = image_features(config, params, scaled(batch["image"]))
    v = text_features(config, params, batch["tokens"])
    return contrastive(u, v, params["logit_scale"], batch["caption"], batch["weight"])


# ------------------------------------------------------------------------------------------------------------ the task
@dataclass(frozen=True)
class Clip:
    """The Task of a `ClipConfig`."""

    config: ClipConfig

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The one that the config names, or one learned from the captions of training.

        Raises UserError for one whose ids are not those that the text encoder reads.
        """
        text, model = self.config.part("text"), self.config.model
        length, size = text["max_position_embeddings"], text["vocab_size"]
        if not model.tokenizer:
            return tokens.train((entry.caption for entry in images.split(self.config.data, "train")), size, length)
        found = Tokenizer.open(hub.resolve(model.tokenizer), length)
        if found.vocabulary > size or (text["eos_token_id"] not in (2, found.end)):
            raise UserError(
                f"{model.tokenizer} has {found.vocabulary} ids and ends texts with {found.end}, but the text encoder "
                f"of {model.architecture} has {size} and waits for {text['eos_token_id']}; name another model.tokenizer"
            )
        return found

    def keep(self, workdir: epath.PathLike) -> None:
        """Keep the tokenizer in the run's folder. Raises UserError where it is another than when the run began."""
        folder = epath.Path(workdir) / TOKENIZER
        same = True
        if processes.is_first():
            if folder.exists():
                same = Tokenizer.open(folder).encoder.to_str() == self.tokenizer.encoder.to_str()
            else:
                self.tokenizer.write(folder)
        if not processes.agree("tokenizer", same):
            raise UserError(
                f"{folder} is not the tokenizer of these captions, which have changed; train in a new folder"
            )

    def init(self, rng: Array) -> State:
        params = init_params(self.config, rng)
        return optimiser.fresh(params, self.config.optim, self.config.train.steps)

    def weights(self) -> Mapping[str, WeightSource]:
        return {}

    def data(self, split: str) -> BatchSpec:
        training = split == "train"
        stream = images.open_stream(
            self.config.data, split, seed=self.config.seed, training=training, encode=self.tokenizer
        )
        stream.check_batch(self.config.train.batch_size)
        return BatchSpec(stream, self.config.train.batch_size)

    def update(self, state: State, batch: Batch, rng: Array) -> tuple[State, Mapping[str, Any]]:
        def loss(params: PyTree, frozen: PyTree, whole: Batch, rng: Array) -> tuple[Array, Array, dict]:
            return clip_loss(self.config, params, whole)

        return gradient_update(loss, optimiser.build(), microbatches=1)(state, batch, rng)

    def finish(self, state: State) -> State:
        return state

    def evaluate(self, state: State, source: Stream) -> Metrics:
        """Loss and retrieval within held-out batches, with the share that guessing would get."""
        return summed(self._held_out, averaged(state), BatchSpec(source, self.config.train.batch_size))

    @functools.cached_property
    def _held_out(self) -> Any:
        def metrics(params: PyTree, batch: Batch) -> dict[str, tuple[Array, Array]]:
            total, weight, found = clip_loss(self.config, params, batch)
            return found | {"loss": (total, weight)}

        return jax.jit(metrics)
