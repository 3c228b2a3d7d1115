"""diffusers' schedulers (torch) as oracle, and a toy network that is the same in both frameworks."""

import contextlib
import functools
import importlib
import inspect

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dreamjax.diffusion import sampling

SHAPE = (4, 5, 3)  # of one image; schedulers do not care for the layout
INDEX = np.array([3, 11])
SEED = 5
STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
CLASSES = {
    "ddim": diffusers.DDIMScheduler,
    "ddpm": diffusers.DDPMScheduler,
    "plms": diffusers.PNDMScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "euler_ancestral": diffusers.EulerAncestralDiscreteScheduler,
}
_random = np.random.default_rng(0)
MIX = _random.normal(size=(3, 3)).astype(np.float32)
BIAS = _random.normal(size=3).astype(np.float32)


def toy(x, t):
    """0.6 x + 0.4 tanh(x M + b sin(t / 200)), nonlinear in both."""
    return 0.6 * x + 0.4 * jnp.tanh(x @ MIX + BIAS * jnp.sin(t / 200))


def torch_toy(x, t):
    return 0.6 * x + 0.4 * torch.tanh(x @ torch.tensor(MIX).to(x) + torch.tensor(BIAS).to(x) * torch.sin(t / 200))


@contextlib.contextmanager
def double_precision():
    """diffusers' schedulers name float32 wherever they compute: here that is float64."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch, "float32", torch.float64)
        patched.setattr(np, "float32", np.float64)
        yield


def scheduler(name, config):
    """diffusers' scheduler with those of the keys that its class has."""
    cls = CLASSES[name]
    known = inspect.signature(cls.__init__).parameters
    extra = {"skip_prk_steps": True} if name == "plms" else {"clip_sample": False} if name in ("ddim", "ddpm") else {}
    return cls(**{key: value for key, value in (extra | config).items() if key in known})


@jax.jit
def step_noise(step):
    return sampling.draw_noise(SEED, INDEX, "step", SHAPE, step=step)


def run(theirs, x, steps, monkeypatch, *, first=0, started=False, model=torch_toy, after=None, **step_options):
    """x_0 of diffusers' scheduler from noise x (or, `started`, from x as it is), with the noise of SEED and INDEX."""
    theirs.set_timesteps(steps)
    if hasattr(theirs, "set_begin_index"):
        theirs.set_begin_index(first)
    calls = theirs.timesteps[first:]
    drawn = []

    def given_noise(shape, **_):
        return torch.tensor(np.asarray(step_noise(drawn[-1])), dtype=torch.float32)

    module = importlib.import_module(type(theirs).__module__)
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", given_noise)
    x = torch.tensor(np.asarray(x), dtype=torch.float32) * (1.0 if started else theirs.init_noise_sigma)
    for i, t in enumerate(calls):
        drawn.append(i)
        output = model(theirs.scale_model_input(x, t), t.to(torch.float32))
        x = theirs.step(output, t, x, **step_options).prev_sample
        x = x if after is None else after(theirs, x, calls[i + 1] if i + 1 < len(calls) else None)
    return x.numpy()


@functools.partial(jax.jit, static_argnames=("predict",))
def sampled(x, plan, seed=SEED, index=INDEX, predict=toy):
    """Compiled once for a sampler and a number of calls."""
    return sampling.sample(predict, x, plan, seed=seed, index=index)


def difference(ours, theirs):
    """The largest difference, relative to the largest value."""
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())
