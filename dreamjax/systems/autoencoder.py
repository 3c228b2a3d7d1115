"""The autoencoder of latent diffusion trained on images (Rombach et al. 2022, arXiv 2112.10752, section 3.1).

It trains the AutoencoderKL of an architecture with a reconstruction loss and a small Kullback-Leibler term, without the
published perceptual and adversarial losses, which small flat images do not need. `finish` measures `scaling_factor`,
by which the diffusion model multiplies latents: 1 / their standard deviation over the training images.
"""

import functools
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from dreamjax import config as configs
from dreamjax.models import flops
from dreamjax.models.autoencoder_kl import sample
from dreamjax.objectives.masking import example_keys
from dreamjax.objectives.variational import VariationalConfig, psnr, variational
from dreamjax.runs import shapes
from dreamjax.systems import image_export, opening, preview
from dreamjax.systems.base import GradientSystem, Loss, Run
from dreamjax.systems.compute import ComputeConfig, GradientConfig
from dreamjax.systems.exchange import Component, Exported, Exports, Format
from dreamjax.targets import images
from dreamjax.targets.images import ImageConfig, ImageExamples, scaled, unscaled
from dreamjax.training.checkpoints import CheckpointConfig
from dreamjax.training.held_out import averaged, summed
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.task import Batch, BatchSpec, PyTree, State, replace
from dreamjax.training.train_config import TrainConfig
from dreamjax.typing import JsonDict
from dreamjax.weights.loaded import LoadedNetwork

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
    """The architecture of the autoencoder, and how it is computed."""

    architecture: str = "shapes"  # see runs/shapes.py


@dataclass(frozen=True)
class AutoencoderConfig(GradientConfig):
    """A run of training an autoencoder."""

    system: Literal["autoencoder"] = "autoencoder"
    data: ImageConfig = field(default_factory=lambda: ImageConfig(resolution=32))
    model: AutoencoderModelConfig = field(default_factory=AutoencoderModelConfig)
    loss: VariationalConfig = field(default_factory=VariationalConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        factor = 2 ** (len(self.vae["block_out_channels"]) - 1)
        if self.data.resolution % factor:
            raise ValueError(f"data.resolution is {self.data.resolution}, but it must divide by {factor}")

    @property
    def vae(self) -> JsonDict:
        """Return the config.json of its autoencoder."""
        return shapes.get(self.model.architecture)["vae"]


# small batches learn more per image: 500 steps of 8 reach a lower loss than 300 of 32
_SHAPES = AutoencoderConfig(
    data=ImageConfig(resolution=32),
    loss=VariationalConfig(kind="mse"),
    optim=OptimConfig(learning_rate=4e-3, warmup_steps=20, weight_decay=0.0, beta2=0.99, clip=1.0, ema_decay=0.98),
    train=TrainConfig(steps=600, batch_size=8, eval_every=600, checkpoint=CheckpointConfig(every=600)),
)
PRESETS = {"shapes": _SHAPES}
preset = functools.partial(configs.preset, presets=PRESETS)  # name → its config, to change and to load


@dataclass(frozen=True)
class Autoencoder(GradientSystem):
    """The system that trains the autoencoder. `state.extra["scaling_factor"]` is 0 until `finish`."""

    config: AutoencoderConfig
    name: ClassVar[str] = "autoencoder"
    Config: ClassVar[type] = AutoencoderConfig
    capabilities: ClassVar[tuple[type, ...]] = (Exports,)
    formats: ClassVar[tuple[Format, ...]] = ("diffusers",)

    @functools.cached_property
    def vae(self) -> LoadedNetwork:
        """Return the network with only the shapes of its parameters."""
        return self.config.model.network(self.config.vae, self.config.model.architecture)

    def reconstruct(self, params: PyTree, x: Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
        """Return images in [-1, 1] decoded from the middle of their posterior."""
        vae = self.vae.bound(params)
        return vae.decode(vae.moments(x)[0])

    def init(self, rng: Array) -> State:
        params = self.vae.network.init(self.vae.arguments, rng)
        return self.fresh(params, extra={"scaling_factor": jnp.zeros((), jnp.float32)})

    def data(self, split: str) -> BatchSpec:
        training = split == "train"
        stream = images.open_stream(self.config.data, split, seed=self.config.seed, training=training, captions=False)
        stream.check_batch(self.config.train.batch_size)
        return self.spec(stream)

    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        return images.element(self.config.data)

    def flops(self) -> float:
        return 3 * flops.autoencoder(self.vae.arguments, *2 * [self.config.data.resolution])

    def loss(self, params: PyTree, frozen: PyTree, batch: Batch, seed: Array | int, training: bool) -> Loss:
        """Return the loss: of sampled latents in training; of the posterior's mean, with PSNR in dB, when held out."""
        vae, x, weight = self.vae.bound(params), scaled(batch["image"]), batch["weight"]
        mean, log_variance = vae.moments(x)
        latents = mean
        if training:
            keys = example_keys(seed, "posterior", batch["index"])
            noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:], jnp.float32))(keys)
            latents = sample(mean, log_variance, noise)
        decoded = vae.decode(latents)
        total, weights, metrics = variational(self.config.loss, x, decoded, mean, log_variance, weight)
        metrics |= {} if training else {"psnr": ((weight * psnr(x, decoded)).sum(), weights)}
        return total, weights, metrics

    def finish(self, state: State) -> State:
        factor = jnp.full((), self.scaling_factor(averaged(state)), jnp.float32)
        return replace(state, extra={"scaling_factor": jax.device_put(factor, state.extra["scaling_factor"].sharding)})

    def scaling_factor(self, params: PyTree) -> float:
        """Return 1 / SD of the latents, sampled from their posterior, over (at most 4096) training images."""
        entries = images.split(self.config.data, "train", captions=False)
        chosen = [entries[i] for i in np.unique(np.linspace(0, len(entries) - 1, MEASURED).astype(int))]
        stream = ImageExamples(self.config.data, chosen, seed=self.config.seed, training=False)

        def moments(params: PyTree, batch: Batch) -> dict[str, tuple[Array, Array]]:
            mean, log_variance = self.vae.bound(params).moments(scaled(batch["image"]))
            weight = batch["weight"][:, None, None, None]
            numbers = (weight * jnp.ones_like(mean)).sum()
            power = jnp.square(mean) + jnp.exp(log_variance)
            return {"mean": ((weight * mean).sum(), numbers), "power": ((weight * power).sum(), numbers)}

        sums = summed(jax.jit(moments), params, BatchSpec(stream, self.config.train.batch_size))
        mean, power = (float(total) / float(numbers) for total, numbers in (sums["mean"], sums["power"]))
        return 1.0 / max(power - mean**2, 1e-12) ** 0.5

    def preview(self, state: State, batch: Batch) -> Any:
        """Return a figure of a few images above their reconstructions."""
        decoded = preview.computed(self.reconstruct, averaged(state), scaled(batch["image"]))
        return preview.image_rows({"image": batch["image"], "reconstruction": unscaled(decoded)})

    def export(self, run: Run, format: Format) -> Exported:
        """Return a folder that `diffusers.AutoencoderKL.from_pretrained` opens, with its measured scaling_factor."""
        data = self.config.data
        # a step from before the end of training has none yet
        factor = float(opening.extra(run)["scaling_factor"]) or self.scaling_factor(run.params)
        config = self.config.vae | {"scaling_factor": round(factor, 6), "sample_size": data.resolution}
        exact, x = image_export.exact(self), image_export.noise(2, data.resolution)

        def both(params: PyTree, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            vae = exact.vae.bound(params)
            latents = vae.moments(x)[0]
            return latents, vae.decode(latents)

        latents, decoded = image_export.computed(both, run.params, x)
        arrays: dict[str, ArrayLike] = {"images": x, "latents": latents, "decoded": decoded}
        return Exported(
            {"": Component(config, self.vae.network.table.to_torch(run.params))},
            {name: image_export.channels_first(array) for name, array in arrays.items()},
            CHECK,
            measured={"scaling_factor": factor},
            title="An autoencoder of latent diffusion, trained with dreamjax",
            usage=USAGE,
            rows={
                "images": image_export.images_in_words(data),
                "scaling_factor": f"{factor:.5f}: 1 / standard deviation of the latents over the training images",
            },
            compared="`images`, their `latents` (the middle of the posterior) and those `decoded` by dreamjax",
        )


SYSTEM = Autoencoder
