"""The autoencoder of latent diffusion trained on images (Rombach et al. 2022, arXiv 2112.10752, section 3.1).

AutoencoderKL of an architecture, by reconstruction and a little Kullback-Leibler divergence; without the published
perceptual and adversarial losses, which small flat images do not need. What the diffusion model multiplies latents
with, `scaling_factor` = 1 / their standard deviation over the training images, is measured by `finish`.
"""

import functools
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from dreamjax import config as configs
from dreamjax.models import flops
from dreamjax.models.autoencoder_kl import sample
from dreamjax.objectives.masking import example_keys
from dreamjax.objectives.variational import VariationalConfig, psnr, variational
from dreamjax.runs import shapes
from dreamjax.systems import image_export, opening, preview
from dreamjax.systems.base import Card, Component, Exported, Exports, Format, GradientSystem, Loss, Run
from dreamjax.systems.compute import ComputeConfig
from dreamjax.targets import images
from dreamjax.targets.images import ImageConfig, ImageExamples, scaled, unscaled
from dreamjax.training.checkpoints import CheckpointConfig
from dreamjax.training.held_out import averaged, summed
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.task import Batch, BatchSpec, PyTree, State, replace
from dreamjax.training.train_config import TrainConfig
from dreamjax.typing import JsonDict
from dreamjax.weights import networks

MEASURED = 4096  # images, evenly chosen, that the latents' scale is measured on
CHECK = """
from diffusers import AutoencoderKL
vae = AutoencoderKL.from_pretrained(".", torch_dtype=torch.float32)
latents = vae.encode(p["images"]).latent_dist.mode()
decoded = vae.decode(p["latents"]).sample
differences = {"latents": difference(latents, "latents"), "decoded": difference(decoded, "decoded")}
"""
USAGE = """from diffusers import AutoencoderKL

vae = AutoencoderKL.from_pretrained("FOLDER")
latents = vae.encode(images).latent_dist.sample() * vae.config.scaling_factor     # images in [-1, 1]"""


@dataclass(frozen=True)
class AutoencoderModelConfig(ComputeConfig):
    """Which autoencoder, and how it is computed."""

    architecture: str = "shapes"  # see runs/shapes.py


@dataclass(frozen=True)
class AutoencoderConfig:
    """A run of training an autoencoder."""

    system: Literal["autoencoder"] = "autoencoder"
    seed: int = 0  # of parameters, data order and the latents' noise
    data: ImageConfig = field(default_factory=lambda: ImageConfig(resolution=32))
    model: AutoencoderModelConfig = field(default_factory=AutoencoderModelConfig)
    loss: VariationalConfig = field(default_factory=VariationalConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        configs.check_seed("seed", self.seed)
        factor = 2 ** (len(self.vae["block_out_channels"]) - 1)
        if self.data.resolution % factor:
            raise ValueError(f"data.resolution is {self.data.resolution}, but it must divide by {factor}")

    @property
    def vae(self) -> JsonDict:
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
    model=AutoencoderModelConfig("tiny"),
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
def _network(model: AutoencoderModelConfig) -> tuple[networks.Network, tuple[tuple[str, Any], ...]]:
    config = shapes.get(model.architecture)["vae"]
    network = networks.of(config, model.architecture)
    return network, tuple((network.arguments(config, model.architecture) | model.arguments()).items())


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
class Autoencoder(GradientSystem):
    """Training the autoencoder, as a system. `state.extra["scaling_factor"]` is 0 until `finish`."""

    config: AutoencoderConfig
    name: ClassVar[str] = "autoencoder"
    Config: ClassVar[type] = AutoencoderConfig
    capabilities: ClassVar[tuple[type, ...]] = (Exports,)
    formats: ClassVar[tuple[Format, ...]] = ("diffusers",)

    def init(self, rng: Array) -> State:
        return self.fresh(init_params(self.config, rng), extra={"scaling_factor": jnp.zeros((), jnp.float32)})

    def data(self, split: str) -> BatchSpec:
        training = split == "train"
        stream = images.open_stream(self.config.data, split, seed=self.config.seed, training=training, captions=False)
        stream.check_batch(self.config.train.batch_size)
        return self.spec(stream)

    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        return images.element(self.config.data)

    def flops(self) -> float:
        _, arguments = _network(self.config.model)
        return 3 * flops.autoencoder(dict(arguments), *2 * [self.config.data.resolution])

    def loss(self, params: PyTree, frozen: PyTree, batch: Batch, seed: Array | int, training: bool) -> Loss:
        """Of latents drawn from the posterior in training; of its middle, with the PSNR in dB, on held-out images."""
        if training:
            return autoencoder_loss(self.config, params, batch)
        vae, x, weight = bind(self.config, params), scaled(batch["image"]), batch["weight"]
        mean, log_variance = vae.moments(x)
        decoded = vae.decode(mean)
        total, weights, metrics = variational(self.config.loss, x, decoded, mean, log_variance, weight)
        return total, weights, metrics | {"psnr": ((weight * psnr(x, decoded)).sum(), weights)}

    def finish(self, state: State) -> State:
        factor = jnp.full((), self.scaling_factor(averaged(state)), jnp.float32)
        return replace(state, extra={"scaling_factor": jax.device_put(factor, state.extra["scaling_factor"].sharding)})

    def scaling_factor(self, params: PyTree) -> float:
        """1 / standard deviation of the latents, drawn from their posterior, over (at most 4096) training images."""
        entries = images.split(self.config.data, "train", captions=False)
        chosen = [entries[i] for i in np.unique(np.linspace(0, len(entries) - 1, MEASURED).astype(int))]
        stream = ImageExamples(self.config.data, chosen, seed=self.config.seed, training=False)

        def moments(params: PyTree, batch: Batch) -> dict[str, tuple[Array, Array]]:
            mean, log_variance = bind(self.config, params).moments(scaled(batch["image"]))
            weight = batch["weight"][:, None, None, None]
            numbers = (weight * jnp.ones_like(mean)).sum()
            power = jnp.square(mean) + jnp.exp(log_variance)
            return {"mean": ((weight * mean).sum(), numbers), "power": ((weight * power).sum(), numbers)}

        sums = summed(jax.jit(moments), params, BatchSpec(stream, self.config.train.batch_size))
        mean, power = (float(total) / float(numbers) for total, numbers in (sums["mean"], sums["power"]))
        return 1.0 / max(power - mean**2, 1e-12) ** 0.5

    def preview(self, state: State, batch: Batch) -> Any:
        """Return a figure of a few images above their reconstructions."""
        decoded = preview.computed(functools.partial(reconstruct, self.config), averaged(state), scaled(batch["image"]))
        return preview.image_rows({"image": batch["image"], "reconstruction": unscaled(decoded)})

    def export(self, run: Run, format: Format) -> Exported:
        """Return a folder that `diffusers.AutoencoderKL.from_pretrained` opens, with its measured scaling_factor."""
        data = self.config.data
        # a step from before the end of training has none yet
        factor = float(opening.extra(run)["scaling_factor"]) or self.scaling_factor(run.params)
        config = self.config.vae | {"scaling_factor": round(factor, 6), "sample_size": data.resolution}
        table = networks.of(config, run.workdir).table
        card = Card(
            "An autoencoder of latent diffusion, trained with dreamjax",
            USAGE,
            {
                "images": f"{epath.Path(data.folder).name or 'unknown'}, {data.resolution} x {data.resolution} pixels",
                "scaling_factor": f"{factor:.5f}: 1 / standard deviation of the latents over the training images",
            },
            "`images`, their `latents` (the middle of the posterior) and those `decoded` by dreamjax",
        )
        return Exported(
            {"": Component(config, table.to_torch(run.params))},
            parity(self.config, run.params),
            CHECK,
            card=card,
            measured={"scaling_factor": factor},
        )


def parity(config: AutoencoderConfig, params: PyTree) -> dict[str, np.ndarray]:
    """Return two images of noise in PyTorch's layout, their latents, and those decoded, in float32."""
    exact, x = image_export.in_float32(config), image_export.noise(2, config.data.resolution)

    def both(params: PyTree, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        vae = bind(exact, params)
        latents = vae.moments(x)[0]
        return latents, vae.decode(latents)

    with jax.default_matmul_precision("highest"):
        latents, decoded = jax.jit(both)(params, x)
    arrays = {"images": x, "latents": latents, "decoded": decoded}
    return {name: image_export.channels_first(array) for name, array in arrays.items()}


SYSTEM = Autoencoder
