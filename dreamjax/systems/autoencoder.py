"""The autoencoder of latent diffusion trained on images (Rombach et al. 2022, arXiv 2112.10752, section 3.1).

AutoencoderKL of an architecture, by reconstruction and a little Kullback-Leibler divergence; without the published
perceptual and adversarial losses, which small flat images do not need. What the diffusion model multiplies latents
with, `scaling_factor` = 1 / their standard deviation over the training images, is measured by `finish`.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from dreamjax import config as configs
from dreamjax.models.autoencoder_kl import sample
from dreamjax.objectives.masking import example_keys
from dreamjax.objectives.variational import VariationalConfig, psnr, variational
from dreamjax.runs import shapes
from dreamjax.targets import images
from dreamjax.targets.images import ImageConfig, ImageStream, scaled, unscaled
from dreamjax.training import optimiser
from dreamjax.training.checkpoints import CheckpointConfig
from dreamjax.training.held_out import averaged, summed
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.task import Batch, BatchSpec, Metrics, PyTree, State, Stream, WeightSource, replace
from dreamjax.training.train_config import TrainConfig
from dreamjax.training.update import gradient_update
from dreamjax.weights import networks

MEASURED = 4096  # images, evenly chosen, that the latents' scale is measured on


@dataclass(frozen=True)
class ModelConfig:
    """Which autoencoder, and how it is computed."""

    architecture: str = "shapes"  # see runs/shapes.py
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation; parameters are float32
    attention: Literal["auto", "xla", "cudnn", "saved"] = "auto"  # see models/attention.py
    remat: Literal["none", "full"] = "none"


@dataclass(frozen=True)
class AutoencoderConfig:
    """A run of training an autoencoder."""

    system: Literal["autoencoder"] = "autoencoder"
    seed: int = 0  # of parameters, data order and the latents' noise
    data: ImageConfig = field(default_factory=lambda: ImageConfig(resolution=32))
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: VariationalConfig = field(default_factory=VariationalConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        configs.check_seed("seed", self.seed)
        factor = 2 ** (len(self.vae["block_out_channels"]) - 1)
        if self.data.resolution % factor:
            raise ValueError(f"data.resolution is {self.data.resolution}, but it must divide by {factor}")

    @property
    def vae(self) -> dict[str, Any]:
        """The config.json of its autoencoder."""
        return shapes.get(self.model.architecture)["vae"]


# one image after another teaches more than many at once: 500 steps of 8 come further than 300 of 32
_SHAPES = AutoencoderConfig(
    data=ImageConfig(resolution=32),
    loss=VariationalConfig(kind="mse"),
    optim=OptimConfig(learning_rate=4e-3, warmup_steps=20, weight_decay=0.0, beta2=0.99, clip=1.0, ema_decay=0.98),
    train=TrainConfig(steps=600, batch_size=8, eval_every=600, checkpoint=CheckpointConfig(every=600)),
)
_TINY = AutoencoderConfig(
    data=ImageConfig(resolution=16),
    model=ModelConfig("tiny"),
    loss=VariationalConfig(kind="mse"),
    optim=OptimConfig(learning_rate=1e-2, warmup_steps=5, weight_decay=0.0, ema_decay=0.9),
    train=TrainConfig(steps=40, batch_size=8, eval_every=40, checkpoint=CheckpointConfig(every=40)),
)
PRESETS = {"shapes": _SHAPES, "tiny": _TINY}


def preset(name: str) -> ConfigDict:
    """The config of a shipped setting, to change and to load. Raises UserError for an unknown name."""
    return configs.preset(name, PRESETS)


# --------------------------------------------------------------------------------------------------- pure functions
@functools.lru_cache(maxsize=16)
def _network(model: ModelConfig) -> tuple[networks.Network, tuple[tuple[str, Any], ...]]:
    config = shapes.get(model.architecture)["vae"]
    network = networks.of(config, model.architecture)
    computed = {"dtype": jnp.dtype(model.dtype), "attention": model.attention, "remat": model.remat}
    return network, tuple((network.arguments(config, model.architecture) | computed).items())


def init_params(config: AutoencoderConfig, rng: Array) -> PyTree:
    """Fresh parameters: a nested dict of float32 arrays."""
    network, arguments = _network(config.model)
    return network.init(dict(arguments), rng)


def bind(config: AutoencoderConfig, params: PyTree) -> Any:
    """The `models.AutoencoderKL` around given parameters; free of cost, also under jit."""
    network, arguments = _network(config.model)
    return network.bind(dict(arguments), params)


def reconstruct(config: AutoencoderConfig, params: PyTree, x: Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
    """Images in [-1, 1] decoded from the middle of their posterior."""
    vae = bind(config, params)
    return vae.decode(vae.moments(x)[0])


def autoencoder_loss(
    config: AutoencoderConfig, params: PyTree, batch: Batch
) -> tuple[Array, Array, dict[str, tuple[Array, Array]]]:
    """`(sum, weight, metrics)`; the latents' noise is keyed by (seed, batch["index"])."""
    vae, x = bind(config, params), scaled(batch["image"])
    mean, log_variance = vae.moments(x)
    keys = example_keys(config.seed, "posterior", batch["index"])
    noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:], jnp.float32))(keys)
    decoded = vae.decode(sample(mean, log_variance, noise))
    return variational(config.loss, x, decoded, mean, log_variance, batch["weight"])


# ------------------------------------------------------------------------------------------------------------ the task
@dataclass(frozen=True)
class Autoencoder:
    """The Task of an `AutoencoderConfig`. `state.extra["scaling_factor"]` is 0 until `finish`."""

    config: AutoencoderConfig

    def init(self, rng: Array) -> State:
        params = init_params(self.config, rng)
        return optimiser.fresh(
            params, self.config.optim, self.config.train.steps, extra={"scaling_factor": jnp.zeros((), jnp.float32)}
        )

    def weights(self) -> Mapping[str, WeightSource]:
        return {}

    def data(self, split: str) -> BatchSpec:
        training = split == "train"
        stream = images.open_stream(self.config.data, split, seed=self.config.seed, training=training, captions=False)
        stream.check_batch(self.config.train.batch_size)
        return BatchSpec(stream, self.config.train.batch_size)

    def update(self, state: State, batch: Batch, rng: Array) -> tuple[State, Mapping[str, Any]]:
        def loss(params: PyTree, frozen: PyTree, micro: Batch, rng: Array) -> tuple[Array, Array, dict]:
            return autoencoder_loss(self.config, params, micro)

        step = gradient_update(loss, optimiser.build(), microbatches=self.config.train.microbatches)
        return step(state, batch, rng)

    def finish(self, state: State) -> State:
        factor = jnp.full((), self.scaling_factor(averaged(state)), jnp.float32)
        return replace(state, extra={"scaling_factor": jax.device_put(factor, state.extra["scaling_factor"].sharding)})

    def evaluate(self, state: State, source: Stream) -> Metrics:
        """Loss, and PSNR in dB of images decoded from the middle of their posterior, averaged parameters if kept."""
        return summed(self._held_out, averaged(state), BatchSpec(source, self.config.train.batch_size))

    @functools.cached_property
    def _held_out(self) -> Any:
        def metrics(params: PyTree, batch: Batch) -> dict[str, tuple[Array, Array]]:
            vae, x, weight = bind(self.config, params), scaled(batch["image"]), batch["weight"]
            mean, log_variance = vae.moments(x)
            decoded = vae.decode(mean)
            total, weights, found = variational(self.config.loss, x, decoded, mean, log_variance, weight)
            return found | {"loss": (total, weights), "psnr": ((weight * psnr(x, decoded)).sum(), weights)}

        return jax.jit(metrics)

    def scaling_factor(self, params: PyTree) -> float:
        """1 / standard deviation of the latents, drawn from their posterior, over (at most 4096) training images."""
        entries = images.split(self.config.data, "train", captions=False)
        chosen = [entries[i] for i in np.unique(np.linspace(0, len(entries) - 1, MEASURED).astype(int))]
        stream = ImageStream(self.config.data, chosen, seed=self.config.seed, training=False)

        def moments(params: PyTree, batch: Batch) -> dict[str, tuple[Array, Array]]:
            mean, log_variance = bind(self.config, params).moments(scaled(batch["image"]))
            weight = batch["weight"][:, None, None, None]
            numbers = (weight * jnp.ones_like(mean)).sum()
            power = jnp.square(mean) + jnp.exp(log_variance)
            return {"mean": ((weight * mean).sum(), numbers), "power": ((weight * power).sum(), numbers)}

        found = summed(jax.jit(moments), params, BatchSpec(stream, self.config.train.batch_size))
        mean, power = (float(total) / float(numbers) for total, numbers in (found["mean"], found["power"]))
        return 1.0 / max(power - mean**2, 1e-12) ** 0.5

    def image(self, state: State, batch: Batch) -> Any:
        """A few images above what becomes of them."""
        from dreamjax.systems import image_rows

        decoded = image_rows.computed(
            functools.partial(reconstruct, self.config), averaged(state), scaled(batch["image"])
        )
        return image_rows.figure({"image": batch["image"], "reconstruction": unscaled(decoded)})
