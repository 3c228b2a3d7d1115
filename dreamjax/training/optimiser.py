"""AdamW as masked autoencoders use it: linear warm-up, half-cosine decay, decoupled weight decay of matrices only.

Everything that changes no shape (rates, betas, decay, horizon) is an entry of `state.hyper`, an argument of the
compiled step: changing it compiles nothing, and a restored run carries its own.

    state = fresh(params, config, steps)
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from dreamjax.training.task import PyTree, State

Scalar = float | Array


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser settings.

    Defaults are those of DreamDiffusion's stage A (arXiv 2306.16934 and its code), whose 40 of 500 epochs warm up.
    """

    learning_rate: float = 2.5e-4  # the peak, absolute (not scaled by the batch)
    min_learning_rate: float = 0.0
    warmup_steps: int = 0
    decay_steps: int | None = None  # where the cosine ends, warm-up included; None: at train.steps
    schedule: Literal["cosine", "constant"] = "cosine"
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.05
    clip: float | None = 0.8  # of the global gradient norm; None: never
    ema_decay: float | None = None  # None: no averaged copy of the parameters is kept

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epsilon"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise ValueError(f"optim.{name} is {value}, but it must be positive")
        for name in ("min_learning_rate", "warmup_steps", "weight_decay"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise ValueError(f"optim.{name} is {value}, but it must be 0 or more")
        for name in ("beta1", "beta2", "ema_decay"):
            if (value := getattr(self, name)) is not None and not 0 <= value < 1:
                raise ValueError(f"optim.{name} is {value}, but it lies in [0, 1)")
        if self.decay_steps is not None and self.decay_steps < 1:
            raise ValueError(f"optim.decay_steps is {self.decay_steps}, but it must be at least 1 (none: train.steps)")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"optim.clip is {self.clip}, but it must be positive (none: no clipping)")


def hyper(config: OptimConfig, steps: int) -> dict[str, Float[Array, ""]]:
    """Return `state.hyper` of a run of `steps` steps: float32 scalars, read by `build()` and `gradient_update`."""
    same = ("learning_rate", "warmup_steps", "beta1", "beta2", "epsilon", "weight_decay")
    values = {name: getattr(config, name) for name in same} | {
        "min_learning_rate": config.min_learning_rate if config.schedule == "cosine" else config.learning_rate,
        "decay_steps": max(steps if config.decay_steps is None else config.decay_steps, config.warmup_steps + 1),
        "clip": np.inf if config.clip is None else config.clip,
    }
    if config.ema_decay is not None:
        values["ema_decay"] = config.ema_decay
    return {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}


def fresh(params: PyTree, config: OptimConfig, steps: int, **rest: PyTree) -> State:
    """Return the state before the first step: moments 0, and the average, where one is kept, equal to the parameters.

    `rest`: further parts of the state, such as `frozen`.
    """
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt=build().init(params),
        ema={} if config.ema_decay is None else jax.tree.map(jnp.copy, params),
        hyper=hyper(config, steps),
        **rest,
    )


def learning_rate(step: Array, hyper: dict[str, Array]) -> Float[Array, ""]:
    """Return the learning rate of the update that follows `step` updates.

    peak · s / warmup for s < warmup, then min + (peak - min) · (1 + cos(pi · (s - warmup) / (decay - warmup))) / 2.
    """
    s = step.astype(jnp.float32)
    peak, low, warmup = hyper["learning_rate"], hyper["min_learning_rate"], hyper["warmup_steps"]
    progress = jnp.clip((s - warmup) / (hyper["decay_steps"] - warmup), 0.0, 1.0)
    cosine = low + (peak - low) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
    return jnp.where(s < warmup, peak * s / jnp.maximum(warmup, 1.0), cosine)


def decayed(params: PyTree) -> PyTree:
    """Return which leaves decay: matrices and the cls and mask tokens; not biases, norm scales or other vectors.

    The reference decays every PyTorch tensor with two axes or more. Stacked layers carry one more axis here, so
    leaves are distinguished by name and not by rank alone.
    """

    def decays(path: tuple, leaf: Array) -> bool:
        name = str(getattr(path[-1], "key", getattr(path[-1], "name", "")))
        return leaf.ndim >= 2 and name not in ("bias", "scale")

    return jax.tree_util.tree_map_with_path(decays, params)


def build() -> optax.GradientTransformationExtraArgs:
    """Return the transformation; its `update` takes the keywords `hyper` (as from `hyper()`), `step` and `finite`.

    Where `finite` is given and false, the moments do not change.
    """

    def chain(values: Mapping[str, Scalar], rate: Scalar, finite: Array | None) -> optax.GradientTransformation:
        return optax.chain(
            _clip_by_global_norm(values["clip"]),
            _scale_by_adam(values["beta1"], values["beta2"], values["epsilon"], finite),
            optax.add_decayed_weights(values["weight_decay"], mask=decayed),
            optax.scale(-rate),
        )

    def init(params: PyTree) -> PyTree:
        neutral = dict.fromkeys(("clip", "beta1", "beta2", "epsilon", "weight_decay"), 0.0)
        return chain(neutral, 0.0, None).init(params)

    def update(
        grads: PyTree,
        opt: PyTree,
        params: PyTree = None,
        *,
        hyper: dict,
        step: Array,
        finite: Array | None = None,
        **_: object,
    ) -> tuple[PyTree, PyTree]:
        return chain(hyper, learning_rate(step, hyper), finite).update(grads, opt, params)

    return optax.GradientTransformationExtraArgs(init, update)


# Both compute what optax's do, in operations that XLA fuses into the loops of their consumers: one factor where optax
# divides every element, and a step computed from the new moments alone (the old ones would need a copy before they are
# overwritten, and divided gradients would be written out; docs/benchmarks.md).
def _clip_by_global_norm(most: Scalar) -> optax.GradientTransformation:
    def update(grads: PyTree, state: optax.EmptyState, params: PyTree = None) -> tuple[PyTree, optax.EmptyState]:
        del params
        factor = jnp.minimum(1.0, most / optax.global_norm(grads))  # inf / inf is NaN: such a step is not taken
        return jax.tree.map(lambda g: factor * g, grads), state

    return optax.GradientTransformation(optax.clip_by_global_norm(1.0).init, update)


def _scale_by_adam(beta1: Scalar, beta2: Scalar, epsilon: Scalar, finite: Array | None) -> optax.GradientTransformation:
    def update(
        grads: PyTree, old: optax.ScaleByAdamState, params: PyTree = None
    ) -> tuple[PyTree, optax.ScaleByAdamState]:
        del params
        new = optax.ScaleByAdamState(
            count=optax.safe_increment(old.count),
            mu=optax.tree.update_moment(grads, old.mu, beta1, 1),
            nu=optax.tree.update_moment_per_elem_norm(grads, old.nu, beta2, 2),
        )
        if finite is not None:
            new = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
        of_mean, of_square = (1 / (1 - beta ** new.count.astype(jnp.float32)) for beta in (beta1, beta2))
        return jax.tree.map(lambda m, v: of_mean * m / (jnp.sqrt(of_square * v) + epsilon), new.mu, new.nu), new

    return optax.GradientTransformation(optax.scale_by_adam().init, update)
