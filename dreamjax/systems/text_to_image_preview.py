"""The image that a U-Net's run logs while it trains: held-out images, above those made from their captions."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from dreamjax.diffusion import sampling
from dreamjax.runs.latent_diffusion import LatentDiffusion
from dreamjax.systems import preview
from dreamjax.training.task import Batch, PyTree
from dreamjax.weights.loaded import ComponentSource, LoadedNetwork

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLER, STEPS, GUIDANCE = "ddim", 30, 3.0
PreviewProgram = Callable[[PyTree, Batch], Float[Array, "2 B H W 3"]]  # (U-Net's parameters, rows) → images in [0, 1]


def program(folders: ComponentSource, unet: LoadedNetwork, mesh: Mesh) -> PreviewProgram:
    """Return a program for a whole run: rows of `mean` and `context` → [decoded latents, images from their captions].

    Row i begins with the noise of (seed 0, i), so that images of later steps show the progress and nothing else. The
    autoencoder stays on the devices; of `unet` the network is used, not its parameters. Every process of a run gets
    all images.
    """
    dtype, attention = unet.arguments["dtype"], unet.arguments["attention"]
    opened = LatentDiffusion.open(folders, mesh, dtype=dtype, attention=attention, unet=unet)
    common = {"seed": jnp.uint32(0), "scale": jnp.float32(GUIDANCE), "rescale": jnp.float32(0)}
    common["unconditional"] = {"context": opened.context([""])}
    model = dataclasses.replace(opened, text=None, tokenizer=None)  # no longer needed
    plan = sampling.plan(SAMPLER, model.schedule, STEPS)

    def make(params: PyTree, common: Mapping[str, PyTree], batch: Batch) -> Array:
        rows = {"index": jnp.arange(len(batch["context"]), dtype=jnp.uint32), "context": batch["context"]}
        made, _ = model.sample(params, plan, rows, common, size=batch["mean"].shape[1:3], rescales=False)
        true = model.vae.bound(params["vae"]).decode(batch["mean"])
        return jnp.stack([jnp.clip(true / 2 + 0.5, 0, 1), made])

    compiled = jax.jit(make, out_shardings=NamedSharding(mesh, P()))

    def run(params: PyTree, batch: Batch) -> Array:
        with jax.set_mesh(mesh):
            rows = {name: batch[name] for name in ("mean", "context")}
            return compiled({"unet": params, "vae": model.vae.params}, common, rows)

    return run


def figure(run: PreviewProgram, params: PyTree, batch: Batch) -> "Figure | None":
    """Draw the images; None for all processes but the first, although every one takes part."""
    true, made = np.round(255 * np.asarray(run(params, batch))).astype(np.uint8)
    return preview.image_rows({"held out": true, "from its caption": made})
