"""A complete latent diffusion model: text → context → latents → images (Stable Diffusion).

Rombach et al. 2022, arXiv 2112.10752. The networks, the schedule and the samplers are dreamjax's; their weights and
configs come from folders of diffusers. Everything from noise to images is one compiled program.

Shape letters: B images, H/W pixels, h = H / f and w = W / f of the latents, Z latent channels, S tokens, D width.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from dreamjax.diffusion import guidance, pipeline_config, sampling
from dreamjax.diffusion.samplers import SamplingPlan
from dreamjax.diffusion.schedule import NoiseSchedule
from dreamjax.errors import UserError
from dreamjax.models.autoencoder_kl import AutoencoderKL
from dreamjax.models.autoencoder_kl import sample as draw_posterior
from dreamjax.parallel import sharding
from dreamjax.targets.tokens import Tokenizer
from dreamjax.weights import loaded
from dreamjax.weights.config_json import Config
from dreamjax.weights.loaded import ComponentSource, LoadedNetwork
from dreamjax.weights.table import PyTree

LATENT_SCALE = 0.18215  # of Stable Diffusion 1 and 2, where a config does not say
MOST_PIXELS = 16384  # along a side


@dataclass(frozen=True)
class LatentDiffusion:
    """U-Net, autoencoder and text encoder on a mesh. The U-Net sees `scale` times the autoencoder's latents."""

    unet: LoadedNetwork
    vae: LoadedNetwork
    text: LoadedNetwork | None
    tokenizer: Tokenizer | None
    schedule: NoiseSchedule
    scale: float
    mesh: Mesh
    sample_size: tuple[int, int] = (64, 64)  # (h, w) of the latents, by default

    @classmethod
    def open(
        cls,
        folders: ComponentSource,
        mesh: Mesh,
        *,
        dtype: DTypeLike = jnp.float32,
        attention: str = "auto",
        unet: LoadedNetwork | None = None,
        text: bool = True,
        weights: bool = True,
    ) -> "LatentDiffusion":
        """Open the components of `folders`, weights streamed onto `mesh`; computed, and matrices kept, in `dtype`.

        `unet`: replaces that of the folders. `text`: whether to open the text encoder. `weights`: see
        `loaded.load_network`. Raise UserError for components that are missing, damaged or not supported.
        """
        check_channels(folders)
        load = functools.partial(
            loaded.load_network, folders, mesh=mesh, dtype=dtype, attention=attention, weights=weights
        )
        return cls(
            unet or load("unet"),
            load("vae"),
            load("text_encoder") if text else None,
            Tokenizer.open(folders.path("tokenizer")) if text else None,
            schedule_of(folders.config("scheduler"), folders.source("scheduler")),
            scale_of(folders),
            mesh,
            sample_size_of(folders),
        )

    # ------------------------------------------------------------------------------------------------------- geometry
    @property
    def factor(self) -> int:
        """Return the pixels per latent pixel, along each side."""
        return 2 ** (len(self.vae.arguments["widths"]) - 1)

    @property
    def latent_channels(self) -> int:
        """Return the number of channels of the latents."""
        return self.vae.arguments["latent_channels"]

    @property
    def inpaints(self) -> bool:
        """Return whether the U-Net takes a mask and a masked image as further channels."""
        return self.unet.arguments["in_channels"] == 2 * self.latent_channels + 1

    def latent_size(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Return (h, w) of images of that size, by default the one that the U-Net was trained at."""
        default = [side * self.factor for side in self.sample_size]
        H, W = height or default[0], width or default[1]
        if max(H, W) > MOST_PIXELS:
            raise UserError(f"images of {H} x {W} cannot be generated: a side has at most {MOST_PIXELS} pixels")
        if H % self.factor or W % self.factor:
            sides = f"height and width must be multiples of {self.factor}"
            raise UserError(f"images of {H} x {W} cannot be generated: {sides}")
        return H // self.factor, W // self.factor

    # ------------------------------------------------------------------------------------------------------- programs
    def context(self, texts: Sequence[str], skip: int = 0) -> Float[Array, "B S D"]:
        """Return the text encoder's last hidden state of texts, or (normed) the one `skip` blocks before it."""
        if self.text is None or self.tokenizer is None:
            raise UserError("this model was opened without its text encoder, so it cannot encode texts")
        ids = self.tokenizer(texts)
        with jax.set_mesh(self.mesh):
            return self.text_program(self.text.params, ids, skip=skip)

    @functools.cached_property
    def text_program(self) -> jax.stages.Wrapped:
        """Return the compiled program from token ids to the U-Net's context."""
        text = self.text
        assert text is not None  # see `context`

        def encode(params: PyTree, ids_BxS: Int[Array, "B S"], *, skip: int) -> Array:
            model = text.bound(params)
            if skip == 0:
                return model(ids_BxS).last_hidden_state.astype(jnp.float32)
            return model.norm(model.hidden_state(ids_BxS, -1 - skip)).astype(jnp.float32)

        return jax.jit(encode, static_argnames="skip")

    def generate(
        self,
        plan: SamplingPlan,
        rows: Mapping[str, np.ndarray],
        *,
        seed: int,
        size: tuple[int, int],
        unconditional: Mapping[str, Array] | Float[Array, "1 S D"] | None = None,
        scale: float = 1.0,
        rescale: float = 0.0,
    ) -> tuple[Float[Array, "B H W 3"], Float[Array, "B h w Z"]]:
        """Return (images in [0, 1], latents as the U-Net sees them) of a batch.

        Args:
            plan: of the sampler.
            rows: by image `index` (of its noise), `context`, and optionally `time_offset` (see `models.unet`), `noise`
                (h, w, Z) to start from, `image` (H, W, 3) in [-1, 1] to change, `mask` (H, W), 1 where to generate. The
                batch size must divide by the mesh's data × fsdp.
            seed: of the noise.
            size: (h, w) of the latents.
            unconditional: the unconditional context of guidance, or a dict of it and a time offset; without it guidance
                is off.
            scale: of guidance.
            rescale: of guided outputs, see `guidance.guided`.

        Only new shapes, kinds of rows and numbers of steps compile again.
        """
        if self.inpaints and "mask" not in rows:
            raise UserError("this U-Net was trained to inpaint: give an image and a mask (--init-image, --mask-image)")
        batch = sharding.to_devices(rows, self.mesh, len(rows["index"]))
        given = {"seed": jnp.uint32(seed), "scale": jnp.float32(scale), "rescale": jnp.float32(rescale)}
        if unconditional is not None:
            both = unconditional if isinstance(unconditional, Mapping) else {"context": unconditional}
            given["unconditional"] = dict(both)
        with jax.set_mesh(self.mesh):
            params = {"unet": self.unet.params, "vae": self.vae.params}
            return self.program(params, plan, batch, given, size=size, rescales=rescale > 0)

    @functools.cached_property
    def program(self) -> jax.stages.Wrapped:
        """Return the compiled program from noise to images; see `generate`."""
        return jax.jit(self.sample, static_argnames=("size", "rescales"))

    def sample(
        self, params: PyTree, plan: SamplingPlan, batch: PyTree, given: PyTree, *, size: tuple[int, int], rescales: bool
    ) -> tuple[Array, Array]:
        """Compute `generate` within a program. `params`: of "unet" and "vae"; `given`: what all images share."""
        vae, seed, index = self.vae.bound(params["vae"]), given["seed"], batch["index"]
        noise_Bxhxw = batch.get("noise", sampling.draw_noise(seed, index, "start", (*size, self.latent_channels)))
        predict, start, project, condition = self._task(params, plan, batch, seed, noise_Bxhxw)
        step: Callable[[Array, Array], Array] = functools.partial(predict, condition=condition)
        if "unconditional" in given:
            empty = given["unconditional"]
            without = (empty, *condition[1:]) if isinstance(condition, tuple) else empty
            rescale = given["rescale"] if rescales else None
            step = guidance.guided(predict, condition, without, given["scale"], rescale)
        latents = sampling.sample(step, start, plan, seed=seed, index=index, project=project)
        return jnp.clip(vae.decode(latents / self.scale) / 2 + 0.5, 0.0, 1.0), latents

    def _task(self, params: PyTree, plan: SamplingPlan, batch: PyTree, seed: Array, noise_Bxhxw: Array) -> tuple:
        """Return (network, x to start from, projection after each step, the network's condition)."""
        unet, vae = self.unet.bound(params["unet"]), self.vae.bound(params["vae"])
        context = {name: batch[name] for name in ("context", "time_offset") if name in batch}

        def predict(x: Array, t: Array, condition: Mapping[str, Array]) -> Array:
            return unet(x, jnp.full((len(x),), t), condition["context"], time_offset_BxE=condition.get("time_offset"))

        if "image" not in batch:
            return predict, sampling.starts(plan, noise_Bxhxw), None, context
        known = self._latents(vae, batch["image"], seed, batch["index"], "picture")  # the name is part of the key
        if "mask" not in batch:
            return predict, sampling.starts_from(plan, known, noise_Bxhxw), None, context
        start = sampling.starts_around(plan, known, noise_Bxhxw)
        mask = sampling.mask_of_latents(batch["mask"], self.factor)
        if not self.inpaints:
            return predict, start, sampling.keeps(mask, known, noise_Bxhxw), context
        hidden = batch["image"] * (batch["mask"] < 0.5)[..., None]
        masked = self._latents(vae, hidden, seed, batch["index"], "masked image")
        return sampling.nine_channels(predict), start, None, (context, mask, masked)

    def _latents(self, vae: AutoencoderKL, images: Array, seed: Array, index: Array, purpose: str) -> Array:
        mean, log_variance = vae.moments(images)
        return self.scale * draw_posterior(
            mean, log_variance, sampling.draw_noise(seed, index, purpose, mean.shape[1:])
        )


def scale_of(folders: ComponentSource) -> float:
    """Return the autoencoder's scaling_factor. Raise UserError for an invalid one."""
    scale = folders.config("vae").get("scaling_factor", LATENT_SCALE)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise UserError(f"{folders.source('vae')}: scaling_factor is {scale!r}, but it must be a positive number")
    return float(scale)


def sample_size_of(folders: ComponentSource) -> tuple[int, int]:
    """Return (h, w) of the latents that the U-Net was trained at. Raise UserError for an invalid size."""
    size = folders.config("unet").get("sample_size")
    size = 64 if size is None else size
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides):
        raise UserError(f"{folders.source('unet')}: sample_size is {size!r}, but it must be one whole number, or two")
    return sides[0], sides[1]


def schedule_of(config: Config, source: str) -> NoiseSchedule:
    """Return the schedule of a scheduler_config.json as StableDiffusionPipeline uses it.

    Latents are never clipped, and timesteps begin at 1 where the file does not say.
    """
    try:
        schedule = pipeline_config.from_json(config)
    except UserError as problem:
        raise UserError(f"{source}: {problem}") from problem
    offset = 1 if "steps_offset" in config else schedule.steps_offset
    return dataclasses.replace(schedule, clip_sample=False, steps_offset=offset)


def check_channels(folder: ComponentSource) -> None:
    """Raise UserError for a U-Net that neither generates images nor inpaints them."""
    wanted = int(folder.config("vae").get("latent_channels", 4))
    channels = folder.config("unet").get("in_channels", 4)
    if channels not in (wanted, 2 * wanted + 1):
        raise UserError(
            f"{folder.source('unet')}: a U-Net of {channels} channels does not fit latents of {wanted}; it must have "
            f"{wanted} (text to image) or {2 * wanted + 1} (inpainting)"
        )
