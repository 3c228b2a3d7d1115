"""Train small networks on examples that stay in the device's memory: an epoch is one compiled scan over its batches.

Networks of retrieval take seconds an epoch, so that a loop on the host, which reads batches and copies them, would cost
more than the steps. Here several runs of equal shapes (seeds, people) are also one program: their states are stacked,
and each of them sees the order of examples that it would see alone.

    runs = train(tasks, examples, epochs=50, batch_size=1024, judges={"held_out": validation}, …)
    runs.params(0, "held_out"), runs.best_epoch, runs.losses
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dreamjax.console import progress
from dreamjax.parallel import compiler, environment
from dreamjax.training import program
from dreamjax.training.task import PyTree, State, Task, replace

Score = Callable[[PyTree, Mapping[str, Array]], Array]  # (parameters of one run, examples) → a number, higher is better
Arrays = Mapping[str, np.ndarray]
Examples = Mapping[str, Array]


@dataclass(frozen=True)
class TrainedRuns:
    """Runs that were trained as one program; every array has a leading axis of runs."""

    last: State
    best: Mapping[str, PyTree]  # by judge: parameters after the epoch that it scored best
    best_epoch: Mapping[str, Int[np.ndarray, "runs"]]  # by judge, from 1
    scores: Mapping[str, Float[np.ndarray, "epochs runs"]]  # by judge
    losses: Float[np.ndarray, "epochs runs"]  # of training
    refused: Int[np.ndarray, "runs"]  # steps whose gradient was not finite

    def params(self, run: int, judge: str | None) -> PyTree:
        """Return the parameters of one run, of the epoch that a judge scored best, or of the last one (None)."""
        tree = self.last.params if judge is None else self.best[judge]
        return jax.tree.map(lambda x: np.asarray(x[run]), tree)


def steps_of(examples: int, batch_size: int) -> int:
    """Return the number of batches of an epoch, the last of which may hold fewer examples."""
    return -(-examples // min(batch_size, examples))


def train(
    tasks: Sequence[Task],
    examples: Arrays,
    *,
    shared: Arrays,
    sets: Sequence[int],
    epochs: int,
    batch_size: int,
    gather: Callable[[Mapping[str, Array], Mapping[str, Array]], dict[str, Array]],
    score: Score,
    judges: Mapping[str, Arrays],
    per_run: Arrays | None = None,
    name: str = "train",
) -> TrainedRuns:
    """Train one run for each task, all in one program.

    Args:
        tasks: with the capability `Vectorises`; alike except for seeds and arguments of the step.
        examples: arrays by name, whose axes are sets, then examples; all sets have as many examples.
        shared: arrays that all runs read, such as the vectors of the images.
        sets: of each run: the number of its set.
        epochs: passes over the examples.
        batch_size: of each run; the last batch of a pass is filled up with examples of weight 0.
        gather: makes a batch of rows of the examples and the shared arrays.
        score: of one run's parameters on held-out examples of its set.
        judges: name → held-out examples, with a leading axis of sets; the best epoch of each is kept.
        per_run: arrays by name with a leading axis of runs; `gather` and `score` find a run's next to its examples.
    """
    runs = len(tasks)
    seeds = jnp.asarray([task.config.seed for task in tasks])  # type: ignore[attr-defined]
    sets_R, device, common = jnp.asarray(sets), _on_device(examples), _on_device(shared)
    held_out = {judge: _on_device(arrays) for judge, arrays in judges.items()}
    each_R = _on_device(per_run or {})
    count = next(iter(device.values())).shape[1]
    state = initial(tasks)
    epoch = epoch_of(tasks[0], count, min(batch_size, count), gather)
    judge = _judge(score)
    best = {name: jax.tree.map(jnp.copy, state.params) for name in judges}
    top = {name: jnp.full(runs, -jnp.inf) for name in judges}
    best_epoch = {name: jnp.zeros(runs, jnp.int32) for name in judges}
    scores: dict[str, list[Array]] = {name: [] for name in judges}
    losses, refused = [], jnp.zeros(runs, jnp.int32)
    with progress(name, epochs) as bar:
        for number in range(epochs):
            state, loss, bad = epoch(state, sets_R, seeds, jnp.int32(number), device, common, each_R)
            losses.append(loss)
            refused += bad
            for who, arrays in held_out.items():
                now = judge(state.params, sets_R, arrays, common, each_R)
                better = now > top[who]
                best[who] = _choose(better, state.params, best[who])
                top[who] = jnp.where(better, now, top[who])
                best_epoch[who] = jnp.where(better, number + 1, best_epoch[who])
                scores[who].append(now)
            jax.block_until_ready(loss)
            bar.advance(1)
    return TrainedRuns(
        state,
        best,
        {who: np.asarray(x) for who, x in best_epoch.items()},
        {who: np.asarray(jnp.stack(x)) for who, x in scores.items()},
        np.asarray(jnp.stack(losses)),
        np.asarray(refused),
    )


def _on_device(arrays: Arrays) -> dict[str, Array]:
    return {name: jnp.asarray(x) for name, x in arrays.items()}


def initial(tasks: Sequence[Task]) -> State:
    """Return the stacked states before the first step, each as its task alone would begin."""
    keys = jnp.stack([program.run_key(seed, b"init") for seed in (task.config.seed for task in tasks)])  # type: ignore[attr-defined]
    options = compiler.for_one_call(environment.target_platform())
    state = jax.jit(jax.vmap(tasks[0].init), compiler_options=options)(keys)
    hyper = [task.hyper() for task in tasks]  # type: ignore[attr-defined]  # systems with the capability Vectorises
    return replace(state, hyper={name: jnp.stack([one[name] for one in hyper]) for name in hyper[0]})


@jax.jit
def _choose(better: Array, new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda n, o: jnp.where(better.reshape(-1, *[1] * (n.ndim - 1)), n, o), new, old)


def _judge(score: Score) -> Callable[..., Array]:
    @jax.jit
    def judged(params: PyTree, sets_R: Array, held_out: Examples, common: Examples, each_R: Examples) -> Array:
        def one(params: PyTree, which: Array, per_run: Examples) -> Array:
            return score(params, {name: x[which] for name, x in held_out.items()} | dict(common) | dict(per_run))

        return jax.vmap(one)(params, sets_R, each_R)

    return judged


def epoch_of(task: Task, count: int, batch_size: int, gather: Callable[..., dict[str, Array]]) -> Callable[..., Any]:
    """Return the compiled epoch of all runs: (state, mean loss of each run, its refused steps)."""
    steps = steps_of(count, batch_size)

    def one(
        state: State, which: Array, seed: Array, number: Array, examples: Examples, common: Examples, per_run: Examples
    ) -> tuple[State, Array, Array]:
        order = jax.random.permutation(jax.random.fold_in(program.run_key(seed, b"order"), number), count)
        order = jnp.pad(order, (0, steps * batch_size - count))  # filled up with the first example, of weight 0
        first = number.astype(jnp.uint32) * jnp.uint32(count)

        def step(state: State, i: Array) -> tuple[State, tuple[Any, Any, Any]]:
            position = i * batch_size + jnp.arange(batch_size)
            chosen = jax.lax.dynamic_slice(order, (i * batch_size,), (batch_size,))
            rows = {n: x[which, chosen] for n, x in examples.items()}
            index = jnp.stack([jnp.zeros(batch_size, jnp.uint32), first + position.astype(jnp.uint32)], axis=1)
            weight = (position < count).astype(jnp.float32)
            batch = gather(rows | dict(per_run), common) | {"index": index, "weight": weight}
            state, metrics = task.update(state, batch)
            total, n = metrics["loss"]
            return state, (total, n, 1 - metrics["finite"][0])

        state, (total, n, bad) = jax.lax.scan(step, state, jnp.arange(steps))
        return state, total.sum() / jnp.maximum(n.sum(), 1), bad.sum().astype(jnp.int32)

    return jax.jit(jax.vmap(one, in_axes=(0, 0, 0, None, None, None, 0)), donate_argnums=0)
