"""Sampling: a plan computed on the host, and the loop that follows it, one scan in a compiled program."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from dreamjax.diffusion import noise, timesteps
from dreamjax.diffusion.samplers import ancestral, dpm_solver, euler, plms
from dreamjax.diffusion.samplers.plms import MultistepCarry
from dreamjax.diffusion.samplers.table import LinearCarry, SamplingPlan, linear_start, linear_step
from dreamjax.diffusion.schedule import NoiseSchedule
from dreamjax.errors import UserError, nearest

Carry = LinearCarry | MultistepCarry  # the state of a sampler between two calls
# predict(x, t) → the network's output for x at timestep t, a float32 scalar that Euler does not keep whole
Predict = Callable[[Float[Array, "B ..."], Float[Array, ""]], Float[Array, "B ..."]]
# project(x, signal, sigma) → x, where x is signal · x_0 + sigma · ε: applied to x after every step
Project = Callable[[Float[Array, "B ..."], Float[Array, ""], Float[Array, ""]], Float[Array, "B ..."]]


@dataclass(frozen=True)
class Sampler:
    """The function that makes a sampler's table, and the step that reads it."""

    table: Callable[..., SamplingPlan]  # (schedule, steps, first, and the options)
    options: tuple[str, ...] = ()
    start: Callable[[Array], Carry] = linear_start
    step: Callable[[Any, Any, Array, Array | float], Carry] = linear_step


SAMPLERS = {
    "ddim": Sampler(ancestral.ddim, ("eta",)),
    "ddpm": Sampler(ancestral.ddpm),
    "plms": Sampler(plms.plms, (), plms.multistep_start, plms.multistep_step),
    "dpmpp_2m": Sampler(dpm_solver.dpmpp_2m, ("karras",)),
    "euler": Sampler(euler.euler, ("karras",)),
    "euler_ancestral": Sampler(euler.euler_ancestral),
}


def check(name: str, *, eta: float = 0.0, karras: bool | None = None) -> None:
    """Raise UserError for an unknown sampler, and for an option that it does not have."""
    if name not in SAMPLERS:
        near = nearest(name, list(SAMPLERS))
        hint = f"did you mean {near}?" if near else f"choose from {', '.join(SAMPLERS)}"
        raise UserError(f"unknown sampler {name}; {hint}")
    if not 0 <= eta <= 1:
        raise UserError(f"eta is {eta}, but it must lie from 0 to 1")
    for option, given in (("eta", eta > 0), ("karras", bool(karras))):
        if given and option not in SAMPLERS[name].options:
            able = [other for other in SAMPLERS if option in SAMPLERS[other].options]
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
    sampler = SAMPLERS[name]
    options = {"eta": eta, "karras": schedule.use_karras_sigmas if karras is None else karras}
    table = sampler.table(
        schedule,
        steps,
        timesteps.first_step(steps, strength),
        **{option: options[option] for option in sampler.options},
    )

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
    """Return x_0, float32, from x at the first noise level of the plan (`editing.starts`, `editing.starts_from`).

    Call it inside `jax.jit`; `predict` is traced once, not per step. The plan can be an argument of the compiled
    program, which depends on its sampler and number of calls, not on its values. `seed` and `index` of the images are
    needed where the plan is stochastic.
    """
    if plan.stochastic and (seed is None or index is None):
        raise ValueError(f"{plan.sampler} adds noise at every step: give the seed and the index of each image")
    sampler = SAMPLERS[plan.sampler]

    def call(carry: Carry, row: tuple) -> tuple[Carry, None]:
        step, t, scale, coefficients, signal, sigma = row
        output = predict(scale * carry.x, t).astype(jnp.float32)
        drawn: Array | float = 0.0
        if plan.stochastic and seed is not None and index is not None:
            drawn = noise.draw(seed, index, "step", carry.x.shape[1:], step)
        carry = sampler.step(carry, coefficients, output, drawn)
        return carry if project is None else carry._replace(x=project(carry.x, signal, sigma)), None

    rows = (jnp.arange(plan.calls), plan.timesteps, plan.scale, plan.coefficients, plan.signal[1:], plan.sigma[1:])
    return jax.lax.scan(call, sampler.start(x.astype(jnp.float32)), rows)[0].x
