"""`Task.update` from a loss: accumulate gradients, divide by the weight, step, average, skip NaN and Inf."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from dreamjax.parallel import environment
from dreamjax.training import guard
from dreamjax.training import optimiser as optimisers
from dreamjax.training.task import Batch, Metrics, PyTree, State, replace

# loss(params, frozen, batch) → (sum over the batch, its weight, {metric: (sum, weight)}), all float32
LossFn = Callable[[PyTree, PyTree, Batch], tuple[Array, Array, dict[str, tuple[Array, Array]]]]
T = TypeVar("T")
UpdateFn = Callable[[State, Batch], tuple[State, Metrics]]
ROWS_IN_CACHE = 8  # windows of the `small` preset, whose step then works on 26 MB where 64 at once take 160


def gradient_update(
    loss: LossFn, optimiser: optax.GradientTransformation, *, microbatches: int | None = None
) -> UpdateFn:
    """Return a function that takes one optimiser step on sum(loss) / sum(weight) over all micro-batches and devices.

    `loss(params, frozen, batch)` returns `(sum, weight, metrics)`: sums, not means, so that micro-batches with
    unequal numbers of masked patches weigh what they contain. Randomness must be keyed by `batch["index"]`, not by
    row. A step whose gradient is not finite, or whose loss jumps where `state.guard` detects that, leaves the state as
    it was; a batch of weight 0 (nothing of it is hidden, or all of it is padding) has the gradient 0.
    `microbatches` None: `suited_microbatches`. `optimiser` must leave its state alone where the keyword `finite` of its
    update is false, as `optimiser.build()` does.
    With `state.ema` not empty, ema ← d · ema + (1 - d) · params, d = `state.hyper["ema_decay"]`.

    Metrics added: `loss`, `grad_norm`, `finite` (1 or 0), `spike` (1 or 0, where spikes are detected), and
    `learning_rate` where `state.hyper` has one.
    """
    transform = optax.with_extra_args_support(optimiser)

    def update(state: State, batch: Batch) -> tuple[State, Metrics]:
        def gradients(micro: Batch) -> tuple[PyTree, Array, dict]:
            def summed(params: PyTree) -> tuple[Array, tuple[Array, dict]]:
                total, weight, metrics = loss(params, state.frozen, micro)
                return total, (weight, {"loss": (jax.lax.stop_gradient(total), weight)} | metrics)

            grads, (weight, metrics) = jax.grad(summed, has_aux=True)(state.params)
            return grads, weight, metrics

        pieces = suited_microbatches(rows_of(batch)) if microbatches is None else microbatches
        grads, weight, metrics = sum_over_microbatches(gradients, batch, pieces)
        per_weight = 1 / jnp.maximum(weight, jnp.finfo(jnp.float32).tiny)
        grads = jax.tree.map(lambda g: per_weight * g, grads)
        norm = optax.global_norm(grads)
        finite = jnp.isfinite(norm) & jnp.isfinite(metrics["loss"][0])
        watched = {"loss": per_weight * metrics["loss"][0], "grad_norm": norm}
        spike = guard.is_spike(state.guard, watched)
        good = finite & ~spike
        updates, opt = transform.update(grads, state.opt, state.params, hyper=state.hyper, step=state.step, finite=good)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if jax.tree.leaves(ema):
            ema = jax.tree.map(lambda e, p: e + (1.0 - state.hyper["ema_decay"]) * (p - e), ema, params)
        stepped = replace(state, step=state.step + 1, params=params, opt=opt, ema=ema)
        kept = replace(keep_if(good, stepped, state), guard=guard.updated(state.guard, watched, good))
        metrics = metrics | {
            "grad_norm": (norm, jnp.float32(1)),
            "finite": (finite.astype(jnp.float32), jnp.float32(1)),
        }
        if state.guard:
            metrics["spike"] = (spike.astype(jnp.float32), jnp.float32(1))
        if "learning_rate" in state.hyper:
            metrics["learning_rate"] = (optimisers.learning_rate(state.step, state.hyper), jnp.float32(1))
        return kept, metrics

    return update


def keep_if(finite: Array, stepped: State, state: State) -> State:
    """Return `stepped` where `finite`, else `state`; `opt` is kept by its optimiser, frozen and hyper pass through."""

    def choose(new: PyTree, old: PyTree) -> PyTree:
        return jax.tree.map(lambda n, o: n if n is o else jnp.where(finite, n, o), new, old)

    names = ("step", "params", "ema", "extra")
    return replace(stepped, **{name: choose(getattr(stepped, name), getattr(state, name)) for name in names})


def rows_of(batch: Batch) -> int:
    """Return the global batch size."""
    return jax.tree.leaves(batch)[0].shape[0]


def suited_microbatches(rows: int) -> int:
    """Return the number of micro-batches that suits a batch of `rows` on the devices of the current mesh.

    One on an accelerator. On CPU the fewest that leave a device at most 8 rows at a time (but at least 4): their
    activations stay in the cache, and the allocator does not map and clear 160 MB every step (docs/benchmarks.md).
    """
    if environment.target_platform() != "cpu":
        return 1
    mesh = jax.sharding.get_abstract_mesh()
    shards = mesh.shape.get("data", 1) * mesh.shape.get("fsdp", 1)
    fitting = (k for k in range(1, rows + 1) if rows % (k * shards) == 0 and rows <= ROWS_IN_CACHE * k * shards)
    pieces = next(fitting, 1)
    return pieces if rows >= ROWS_IN_CACHE // 2 * pieces * shards else 1


def sum_over_microbatches(function: Callable[[Batch], T], batch: Batch, microbatches: int) -> T:
    """Return the sum of `function(micro)` over equal cuts of the batch's leading axis, one at a time.

    Micro-batch j holds rows j, j + k, j + 2k, … so that every device keeps working on rows that it already holds.
    Raise ValueError when the batch does not divide.
    """
    if microbatches == 1:
        return function(batch)
    size = rows_of(batch)
    if size % microbatches:
        raise ValueError(f"a batch of {size} does not divide into {microbatches} micro-batches")

    def split(x: Array) -> Array:
        return x.reshape(size // microbatches, microbatches, *x.shape[1:]).swapaxes(0, 1)

    cut = jax.tree.map(split, dict(batch))
    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], cut))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def body(total: T, micro: Batch) -> tuple[T, None]:
        return jax.tree.map(jnp.add, total, function(micro)), None

    return jax.lax.scan(body, zeros, cut)[0]
