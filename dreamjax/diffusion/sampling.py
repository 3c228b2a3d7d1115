"""Sampling: a plan computed on the host, what it starts from, and the loop that follows it, one scan in a program.

img2img (SDEdit: Meng et al., arXiv 2108.01073) takes the last ⌊n · strength⌋ steps from the image with noise:
`plan(..., strength=...)` and `starts_from`. Inpainting depends on what the network was trained on:

    9 channels   mask and the masked image are further channels of the input: `nine_channels`
    4 channels   after every step, what the mask keeps is replaced by the image at that noise level: `keeps`
                 (RePaint without resampling: Lugmayr et al., arXiv 2201.09865, equation 8)

A mask is 1 where the image is to be generated. "Image" means the network's input, here the latents.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from dreamjax.diffusion import samplers
from dreamjax.diffusion.samplers import LinearCarry, MultistepCarry, SamplingPlan
from dreamjax.diffusion.schedule import NoiseSchedule, first_step
from dreamjax.errors import UserError, nearest
from dreamjax.parallel.tree_paths import PyTree

Carry = LinearCarry | MultistepCarry  # the state of a sampler between two calls
# predict(x, t) → the network's output for x at timestep t, a float32 scalar that Euler does not keep whole
Predict = Callable[[Float[Array, "B ..."], Float[Array, ""]], Float[Array, "B ..."]]
# predict(x, t, condition) → output; the condition is a pytree whose leaves have the images as leading axis
ConditionalPredict = Callable[[Float[Array, "B ..."], Float[Array, ""], PyTree], Float[Array, "B ..."]]
# project(x, signal, sigma) → x, where x is signal · x_0 + sigma · ε: applied to x after every step
Project = Callable[[Float[Array, "B ..."], Float[Array, ""], Float[Array, ""]], Float[Array, "B ..."]]


SAMPLERS: dict[str, Callable[..., SamplingPlan]] = {  # of (schedule, steps, first, and the options)
    "ddim": samplers.ddim,
    "ddpm": samplers.ddpm,
    "plms": samplers.plms,
    "dpmpp_2m": samplers.dpmpp_2m,
    "euler": samplers.euler,
    "euler_ancestral": functools.partial(samplers.euler, ancestral=True),
}
OPTIONS = {"eta": ("ddim",), "karras": ("dpmpp_2m", "euler")}  # option → the samplers that have it


def check(name: str, *, eta: float = 0.0, karras: bool | None = None) -> None:
    """Raise UserError for an unknown sampler, and for an option that it does not have."""
    if name not in SAMPLERS:
        near = nearest(name, list(SAMPLERS))
        hint = f"did you mean {near}?" if near else f"choose from {', '.join(SAMPLERS)}"
        raise UserError(f"unknown sampler {name}; {hint}")
    if not 0 <= eta <= 1:
        raise UserError(f"eta is {eta}, but it must lie from 0 to 1")
    for option, given in (("eta", eta > 0), ("karras", bool(karras))):
        able = OPTIONS[option]
        if given and name not in able:
            raise UserError(f"{name} has no option {option}; {' and '.join(able)} {'have' if able[1:] else 'has'} it")


def plan(
    name: str | None,
    schedule: NoiseSchedule,
    steps: int,
    *,
    eta: float = 0.0,
    karras: bool | None = None,
    strength: float = 1.0,
) -> SamplingPlan:
    """Return the plan of sampler `name` (None: the schedule's default) for `steps` steps.

    `eta`: DDIM's noise, from 0 (none) to 1 (as much as DDPM). `karras`: Karras's noise levels, for euler and dpmpp_2m
    (None: as the schedule says). `strength`: only the last ⌊steps · strength⌋ steps are taken, to change an image.
    Raises UserError for an unknown sampler and for invalid options.
    """
    name = name or schedule.sampler
    check(name, eta=eta, karras=karras)
    if not 1 <= steps <= schedule.num_train_timesteps:
        raise UserError(
            f"steps is {steps}, but it must lie from 1 to the schedule's {schedule.num_train_timesteps} timesteps"
        )
    options = {"eta": eta, "karras": schedule.use_karras_sigmas if karras is None else karras}
    chosen = {option: value for option, value in options.items() if name in OPTIONS[option]}
    table = SAMPLERS[name](schedule, steps, first_step(steps, strength), **chosen)

    def rows(values: ArrayLike) -> np.ndarray:
        values = np.asarray(values, np.float32)
        return values if values.ndim else np.full(table.calls, values)

    table = dataclasses.replace(table, coefficients=jax.tree.map(rows, table.coefficients))
    return jax.tree.map(lambda values: np.asarray(values, np.float32), table)


def sample(
    predict: Predict,
    x: Float[Array, "B ..."],
    plan: SamplingPlan,
    *,
    seed: int | Int[Array, ""] | None = None,
    index: Int[Array, "B"] | None = None,
    project: Project | None = None,
) -> Float[Array, "B ..."]:
    """Return x_0, float32, from x at the first noise level of the plan (see `starts`, `starts_from`).

    Call it inside `jax.jit`; `predict` is traced once, not per step. The plan can be an argument of the compiled
    program, which depends on its sampler and number of calls, not on its values. `seed` and `index` of the images are
    needed where the plan is stochastic.
    """
    if plan.stochastic and (seed is None or index is None):
        raise ValueError(f"{plan.sampler} adds noise at every step: give the seed and the index of each image")

    def call(carry: Carry, row: tuple) -> tuple[Carry, None]:
        step, t, scale, coefficients, signal, sigma = row
        output = predict(scale * carry.x, t).astype(jnp.float32)
        drawn: Array | float = 0.0
        if plan.stochastic and seed is not None and index is not None:
            drawn = draw_noise(seed, index, "step", carry.x.shape[1:], step)
        carry = coefficients.step(carry, output, drawn)
        return carry if project is None else carry._replace(x=project(carry.x, signal, sigma)), None

    rows = (jnp.arange(plan.calls), plan.timesteps, plan.scale, plan.coefficients, plan.signal[1:], plan.sigma[1:])
    return jax.lax.scan(call, plan.coefficients.start(x.astype(jnp.float32)), rows)[0].x


def draw_noise(
    seed: int | Int[Array, ""],
    index: Int[Array, "B"],
    purpose: str,
    shape: Sequence[int],
    step: int | Int[Array, ""] = 0,
) -> Float[Array, "B ..."]:
    """Return standard normal float32 of `shape`, a function of (seed, image's index, purpose, step) alone.

    Image 7 of seed 0 is the same alone and among a thousand, on any devices. `purpose`: "start", or "step" of a
    stochastic sampler. The generator is named (threefry), because the faster ones that an environment may choose as
    default mix the rows of a batch.
    """
    key = jax.random.key(seed, impl="threefry2x32")
    key = jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(purpose.encode())), step)

    def one(image: Int[Array, ""]) -> Float[Array, "..."]:
        return jax.random.normal(jax.random.fold_in(key, image), tuple(shape), jnp.float32)

    return jax.vmap(one)(jnp.asarray(index))


# ------------------------------------------------------ starts from noise, from an image, or from an image with a mask
def starts(plan: SamplingPlan, noise: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """Return x of a plan that starts from noise."""
    return plan.start_sigma * noise


def starts_from(
    plan: SamplingPlan, image: Float[Array, "B ..."], noise: Float[Array, "B ..."]
) -> Float[Array, "B ..."]:
    """Return x of a plan that starts from images: the images with the noise of its first call, also at strength 1."""
    return plan.signal[0] * image + plan.sigma[0] * noise


def starts_around(
    plan: SamplingPlan, image: Float[Array, "B ..."], noise: Float[Array, "B ..."]
) -> Float[Array, "B ..."]:
    """Return x of a plan that inpaints: noise only at strength 1, as in diffusers' inpainting."""
    return starts(plan, noise) if plan.whole else starts_from(plan, image, noise)


def nine_channels(predict: ConditionalPredict, axis: int = -1) -> ConditionalPredict:
    """Return `predict` of an inpainting network, whose input is (x, mask, masked image) along the channel axis.

    The condition becomes (the network's own condition, mask_BxHxWx1, masked_BxHxWx4), so that guidance doubles all
    three alike: guided(nine_channels(predict), (text, mask, masked), (empty, mask, masked), scale).
    """

    def with_mask(
        x: Float[Array, "B ..."], t: Float[Array, ""], condition: tuple[object, Array, Array]
    ) -> Float[Array, "B ..."]:
        inner, mask, masked = condition
        return predict(jnp.concatenate([x, mask.astype(x.dtype), masked.astype(x.dtype)], axis=axis), t, inner)

    return with_mask


def keeps(mask: Float[Array, "B ..."], image: Float[Array, "B ..."], noise: Float[Array, "B ..."]) -> Project:
    """Return the projection after a step to the noise level (signal, sigma).

    x ← mask · x + (1 - mask) · (signal · image + sigma · noise).

    At the end that is the image itself. `noise` is the noise that sampling started from.
    """

    def project(x: Array, signal: Array, sigma: Array) -> Array:
        return (1.0 - mask) * (signal * image + sigma * noise) + mask * x

    return project


def mask_of_latents(mask: Float[Array, "B H W"], factor: int = 8) -> Float[Array, "B H/f W/f 1"]:
    """Return a mask over pixels as a mask over latents: every `factor`-th pixel, as diffusers (nearest neighbour)."""
    return mask[:, ::factor, ::factor, None]
