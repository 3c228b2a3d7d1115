"""The base of systems that train the U-Net of latent diffusion (Rombach et al. 2022, arXiv 2112.10752) or parts of it.

Loss, with z the scaled latents of an image, c its condition, t ~ U{0 … T - 1}:

    E ‖ target(z, ε, t) - unet(a_t z + s_t ε, t, c) ‖² · w(t)      w: 1, or min-SNR (Hang et al. 2023, arXiv 2303.09556)
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from dreamjax.diffusion import prediction
from dreamjax.diffusion.schedule import NoiseSchedule
from dreamjax.errors import UserError
from dreamjax.models.autoencoder_kl import sample as draw_posterior
from dreamjax.objectives.masking import example_keys
from dreamjax.parallel.tree_paths import named_leaves, nested
from dreamjax.runs import latent_diffusion
from dreamjax.runs.components import Components
from dreamjax.runs.latent_diffusion import LatentDiffusion
from dreamjax.systems.base import GradientSystem, Loss, Run
from dreamjax.systems.exchange import Component, FileContent, Format
from dreamjax.training.task import Batch, PyTree, WeightSource
from dreamjax.typing import JsonDict
from dreamjax.weights import loaded
from dreamjax.weights.loaded import LoadedNetwork
from dreamjax.weights.pipeline_folder import CONFIGS, INDEX
from dreamjax.weights.table import keep

# the trainable parts of a U-Net by name: regular expressions over its parameters' paths
TRAINABLE = {
    "cross_attention": r"(.*/)?attn2/.*",
    "cross_attention_and_norm": r"(.*/)?(attn2|blocks/norm2)/.*",
    "all": r".*",
    "none": r"(?!)",
}
CLASSES = {
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
}
COMPARED = 32  # side of the latents that an export is compared on, at most


@dataclass(frozen=True)
class DiffusionLossConfig:
    """The weights of the diffusion loss."""

    drop_condition: float = 0.1  # share of examples that see the empty caption
    min_snr_gamma: float | None = None  # None: all time steps alike

    def __post_init__(self) -> None:
        if not 0 <= self.drop_condition <= 1:
            raise ValueError(f"loss.drop_condition is {self.drop_condition}, but it is a share from 0 to 1")
        if self.min_snr_gamma is not None and not self.min_snr_gamma > 0:
            raise ValueError(f"loss.min_snr_gamma is {self.min_snr_gamma}, but it must be positive (none: no weights)")


def diffusion_loss(
    schedule: NoiseSchedule, unet: Any, batch: Batch, seed: Array | int, scale: float, gamma: float | None
) -> Loss:
    """Return `(sum, weight, metrics)` of a batch of `mean`, `log_variance` (B, h, w, Z), `context` (B, S, D), `weight`.

    Noise and time steps are keyed by (seed, batch["index"]).
    """
    mean, weight = batch["mean"], batch["weight"]
    keys = example_keys(seed, "diffusion", batch["index"])
    draw = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:], jnp.float32))
    of_latents, of_noise, of_time = (jax.vmap(functools.partial(jax.random.fold_in, data=i))(keys) for i in range(3))
    z = scale * draw_posterior(mean, batch["log_variance"], draw(of_latents))
    t = jax.vmap(lambda key: jax.random.randint(key, (), 0, schedule.num_train_timesteps))(of_time)
    noise = draw(of_noise)
    output = unet(prediction.add_noise(schedule, z, noise, t), t, batch["context"])
    error = jnp.square(output - prediction.target(schedule, z, noise, t)).mean((1, 2, 3))
    weighed = error if gamma is None else error * prediction.min_snr_weight(schedule, t, gamma)
    return (weighed * weight).sum(), weight.sum(), {"mse": ((error * weight).sum(), weight.sum())}


@dataclass(frozen=True)
class DiffusionSystem(GradientSystem):
    """A system with a U-Net; its config's `model` has `path`, `variant`, `architecture` and `trainable`."""

    formats: ClassVar[tuple[Format, ...]] = ("diffusers",)

    @functools.cached_property
    def parts(self) -> Components:
        """Return where the networks come from. Raise UserError for missing ones."""
        m = self.config.model
        if not m.path and not m.architecture:
            raise UserError(
                "model.path is empty; name a Stable Diffusion folder, such as a run's export (or model.architecture)"
            )
        folders = {name: getattr(m, name, "") for name in ("vae", "text_encoder", "tokenizer")}
        return Components.of(m.path, variant=m.variant, architecture=m.architecture, parts=folders)

    @functools.cached_property
    def unet(self) -> LoadedNetwork:
        """Return the U-Net with only the shapes of its parameters."""
        config = {"_class_name": "UNet2DConditionModel", **self.parts.config("unet")}
        return self.config.model.network(config, self.parts.source("unet"))

    @functools.cached_property
    def schedule(self) -> NoiseSchedule:
        return latent_diffusion.schedule_of(self.parts.config("scheduler"), self.parts.source("scheduler"))

    @functools.cached_property
    def scale(self) -> float:
        return latent_diffusion.scale_of(self.parts)

    @property
    def guided(self) -> bool:
        """Return whether the model has an unconditional prediction: that of the empty caption."""
        return True

    @property
    def context_shape(self) -> tuple[int, int]:
        """Return (tokens, width) of the text states."""
        text = self.parts.config("text_encoder")
        return int(text.get("max_position_embeddings", 77)), self.unet.arguments["context_dim"]

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """Return (h, w, Z) of the latents of square images."""
        vae = self.parts.config("vae")
        side = resolution // 2 ** (len(vae["block_out_channels"]) - 1)
        return side, side, int(vae.get("latent_channels", 4))

    # ------------------------------------------------------------------------------------------ what of it is trained
    def unet_of(self, params: PyTree) -> PyTree:
        """Return the U-Net's part of all trained parameters."""
        return params

    def split_unet(self, params: PyTree) -> tuple[PyTree, PyTree]:
        """Return (trained, frozen) parameters of a U-Net."""
        pattern = TRAINABLE[self.config.model.trainable]
        return keep(params, pattern), keep(params, pattern, but=True)

    @property
    def groups(self) -> list[str]:
        """Return the parts of the state that are initialised from the weights."""
        return ["params", *(["ema"] if self.config.optim.ema_decay is not None else [])]

    def unet_weights(self) -> WeightSource:
        """Return the source of the U-Net's weights."""
        tensors, path = self.parts.tensors("unet"), str(self.parts.path("unet"))
        return loaded.source(self.unet.network.table, tensors, path, whole=self.unet.params)

    def whole_unet(self, params: PyTree, mesh: jax.sharding.Mesh) -> PyTree:
        """Return all parameters of the U-Net on `mesh`: the trained ones of the run and the frozen ones."""
        trained, frozen = self.split_unet(loaded.placed(self.unet.params, mesh))
        params = jax.tree.map(lambda x, place: jax.device_put(x, place.sharding), self.unet_of(params), trained)
        return merged(params, self.unet_weights()(frozen)) if frozen else params

    def pipeline(self, run: Run, mesh: jax.sharding.Mesh, *, dtype: str, attention: str) -> LatentDiffusion:
        """Return the run's U-Net with the frozen networks that it was trained with."""
        arguments = {**self.unet.arguments, "dtype": jnp.dtype(dtype), "attention": attention, "remat": "none"}
        unet = LoadedNetwork(self.unet.network, arguments, self.whole_unet(run.params, mesh))
        return LatentDiffusion.open(
            self.parts, mesh, dtype=jnp.dtype(dtype), attention=attention, unet=unet, text=self.guided
        )

    # ----------------------------------------------------------------------------------------------------- exports
    def unet_component(self, params: PyTree, **new: object) -> Component:
        """Return a U-Net with trained tensors in float32 and frozen ones with their original type and bytes.

        `params`: all parameters. `new`: fields of its config that differ from the source's; without any the source's
        file is copied.
        """
        table, parts = self.unet.network.table, self.parts
        tensors: dict[str, Any] = dict(table.to_torch(params))
        trained = table.slots(self.split_unet(params)[0])
        if len(trained) < len(tensors):
            original = table.named(parts.tensors("unet"))
            tensors = {name: tensor if name in trained else original[name] for name, tensor in tensors.items()}
        if parts.has("unet") and not new:
            return Component(parts.path("unet") / "config.json", tensors)
        return Component({"_class_name": "UNet2DConditionModel", **parts.config("unet"), **new}, tensors)

    def unchanged_parts(self) -> dict[str, FileContent]:
        """Return the folders of a pipeline except its U-Net, and its index."""
        parts, pipeline = self.parts, self.parts.pipeline
        scheduler = parts.config("scheduler")
        files: dict[str, FileContent] = {INDEX: index_of(scheduler["_class_name"], CLASSES)}
        names = [name for name in (*CLASSES, "scheduler") if parts.has(name)]
        if pipeline is not None:
            files = {INDEX: pipeline.folder / INDEX}
            names += [*pipeline.components, *pipeline.kept]
        files |= {name: parts.path(name) for name in names if name != "unet"}
        if not parts.has("scheduler"):
            files[f"scheduler/{CONFIGS['scheduler']}"] = scheduler
        return files


def index_of(scheduler: str, classes: Mapping[str, list[str]]) -> JsonDict:
    """Return model_index.json of a Stable Diffusion pipeline. `classes`: component → [library, class]."""
    absent = {name: [None, None] for name in (*CLASSES, "feature_extractor", "image_encoder", "safety_checker")}
    index = {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False, **absent, **classes}
    return index | {"scheduler": ["diffusers", scheduler]}


def merged(params: PyTree, frozen: PyTree) -> PyTree:
    """Return one tree of trained and frozen parameters."""
    return nested(named_leaves(params) | named_leaves(frozen)) if frozen else params
