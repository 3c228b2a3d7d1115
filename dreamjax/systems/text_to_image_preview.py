"""The image of a U-Net's training run: held-out images, above what the U-Net makes of their captions."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from dreamjax.diffusion import sampling
from dreamjax.runs.latent_diffusion import LatentDiffusion
from dreamjax.systems import image_rows
from dreamjax.training.task import Batch, PyTree
from dreamjax.weights.loaded import ComponentSource, LoadedNetwork

SAMPLER, STEPS, GUIDANCE = "ddim", 30, 3.0
Painter = Callable[[PyTree, Batch], Float[Array, "2 B H W 3"]]  # (U-Net's parameters, rows) → images in [0, 1]


def painter(folders: ComponentSource, unet: LoadedNetwork, mesh: Mesh) -> Painter:
    """A program for a whole run: rows of `mean` and `context` → [decoded latents, images from their captions].

    Row i begins with the noise of (seed 0, i), so that images of later steps show the progress and nothing else. The
    autoencoder stays on the devices; `unet` lends its network, not its parameters. Every process of a run gets all.
    """
    dtype, attention = unet.arguments["dtype"], unet.arguments["attention"]
    opened = LatentDiffusion.open(folders, mesh, dtype=dtype, attention=attention, unet=unet)
    given = {"seed": jnp.uint32(0), "scale": jnp.float32(GUIDANCE), "rescale": jnp.float32(0)}
    given["unconditional"] = {"context": opened.context([""])}
    model = dataclasses.replace(opened, text=None, tokenizer=None)  # no longer needed
    plan = sampling.plan(SAMPLER, model.schedule, STEPS)

    def paint(params: PyTree, given: PyTree, batch: Batch) -> Array:
        rows = {"index": jnp.arange(len(batch["context"]), dtype=jnp.uint32), "context": batch["context"]}
        made, _ = model.sample(params, plan, rows, given, size=batch["mean"].shape[1:3], rescales=False)
        true = model.vae.bound(params["vae"]).decode(batch["mean"])
        return jnp.stack([jnp.clip(true / 2 + 0.5, 0, 1), made])

    program = jax.jit(paint, out_shardings=NamedSharding(mesh, P()))

    def painted(params: PyTree, batch: Batch) -> Array:
        with jax.set_mesh(mesh):
            rows = {name: batch[name] for name in ("mean", "context")}
            return program({"unet": params, "vae": model.vae.params}, given, rows)

    return painted


def figure(paint: Painter, params: PyTree, batch: Batch) -> Any:
    """A matplotlib figure; None for all processes but the first, although every one takes part."""
    true, made = np.round(255 * np.asarray(paint(params, batch))).astype(np.uint8)
    return image_rows.figure({"held out": true, "from its caption": made})
