"""Tasks small enough for a test: data by a formula, no file, no Grain."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreamjax.objectives.masking import example_keys
from dreamjax.training import optimiser
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.task import Batch, BatchSpec, Metrics, State, Stream, Task, replace
from dreamjax.training.update import gradient_update

FEATURES, OUTPUTS = 16, 4


@dataclass(frozen=True)
class FormulaStream:
    """Example i: x drawn from (seed, i), y = x W + noise. Infinite, or of `length` padded to whole batches.

    A batch takes `delay` seconds, in the process `slow` alone where that is given.
    """

    seed: int = 0
    length: int | None = None
    poison: int | None = None  # example whose x is NaN
    loud: tuple[int, ...] = ()  # examples whose y is a thousand times as large
    delay: float = 0.0
    slow: int | None = None
    hang: int | None = None  # example from which on nothing is read, in the process `slow`
    notes: str | None = None  # folder; each process notes there which examples it was asked for

    def element(self) -> dict[str, jax.ShapeDtypeStruct]:
        return {name: jax.ShapeDtypeStruct(v.shape, v.dtype) for name, v in self.example(0).items()}

    def truth(self) -> np.ndarray:
        return np.random.default_rng(7).normal(size=(FEATURES, OUTPUTS)).astype(np.float32)

    def example(self, index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([self.seed, index])
        x = rng.normal(size=FEATURES).astype(np.float32)
        y = x @ self.truth() + 0.1 * rng.normal(size=OUTPUTS).astype(np.float32)
        if index == self.poison:
            x = np.full_like(x, np.nan)
        if index in self.loud:
            y = 1000 * y
        padding = self.length is not None and index >= self.length
        return {
            "x": x,
            "y": y.astype(np.float32),
            "index": np.array([index >> 32, index & 0xFFFFFFFF], np.uint32),
            "weight": np.float32(0.0 if padding else rng.uniform(0.5, 2.0)),
        }

    def batches(
        self, *, start: int, batch_size: int, process: int = 0, processes: int = 1, workers: int = 0
    ) -> Iterator[dict[str, np.ndarray]]:
        rows = batch_size // processes
        first = start
        while self.length is None or first < self.length:
            if self.slow in (None, process):
                time.sleep(self.delay if self.hang is None or first < self.hang else 600)
            examples = [self.example(first + process * rows + row) for row in range(rows)]
            if self.notes:
                with (Path(self.notes) / f"read_{process}.jsonl").open("a") as stream:
                    stream.write(json.dumps([int(example["index"][1]) for example in examples]) + "\n")
            yield {name: np.stack([example[name] for example in examples]) for name in examples[0]}
            first += batch_size


@dataclass(frozen=True)
class Regression(Task):
    """A two-layer network on `FormulaStream`, trained as the systems are."""

    batch_size: int = 16
    microbatches: int | None = 1
    width: int = 32
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(learning_rate=1e-2, ema_decay=0.9, warmup_steps=3))
    steps: int = 1000
    stream: FormulaStream = field(default_factory=FormulaStream)

    def init(self, rng: jax.Array) -> State:
        a, b = jax.random.split(rng)
        params = {
            "fc1": {"kernel": jax.random.normal(a, (FEATURES, self.width)) / 4, "bias": jnp.zeros(self.width)},
            "fc2": {"kernel": jax.random.normal(b, (self.width, OUTPUTS)) / 4, "bias": jnp.zeros(OUTPUTS)},
        }
        return State(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt=optimiser.build().init(params),
            ema=jax.tree.map(jnp.copy, params),
            hyper=optimiser.hyper(self.optim, self.steps),
        )

    def data(self, split: str) -> BatchSpec:
        return BatchSpec(self.stream if split == "train" else FormulaStream(seed=1, length=24), self.batch_size)

    @staticmethod
    def loss(params: Any, frozen: Any, batch: Batch) -> tuple[Any, Any, dict]:
        hidden = jax.nn.gelu(batch["x"] @ params["fc1"]["kernel"] + params["fc1"]["bias"])
        error = hidden @ params["fc2"]["kernel"] + params["fc2"]["bias"] - batch["y"]
        each = jnp.mean(error**2, -1)
        return (each * batch["weight"]).sum(), batch["weight"].sum(), {"mae": (jnp.abs(error).sum(), error.size * 1.0)}

    def update(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        return gradient_update(self.loss, optimiser.build(), microbatches=self.microbatches)(state, batch)

    def evaluate(self, state: State, source: Stream) -> Metrics:
        total, weight = 0.0, 0.0
        for batch in source.batches(start=0, batch_size=8):
            a, b, _ = self.loss(state.params, {}, batch)
            total, weight = total + a, weight + b
        return {"loss": (total, weight)}


@dataclass(frozen=True)
class StreamingRidge(Task):
    """No gradient: `update` gathers X'X and X'Y, `finish` solves (X'X + penalty) W = X'Y."""

    penalty: float = 3.0
    stream: FormulaStream = field(default_factory=lambda: FormulaStream(length=40))

    def init(self, rng: jax.Array) -> State:
        extra = {"gram": jnp.zeros((FEATURES, FEATURES)), "cross": jnp.zeros((FEATURES, OUTPUTS))}
        return State(step=jnp.zeros((), jnp.int32), params=jnp.zeros((FEATURES, OUTPUTS)), extra=extra)

    def data(self, split: str) -> BatchSpec:
        return BatchSpec(self.stream, 16)

    def update(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        x = batch["x"] * batch["weight"][:, None]
        extra = {"gram": state.extra["gram"] + batch["x"].T @ x, "cross": state.extra["cross"] + x.T @ batch["y"]}
        rows = (batch["weight"] > 0).sum().astype(jnp.float32)
        return replace(state, step=state.step + 1, extra=extra), {"rows": (rows, 1.0)}

    def finish(self, state: State) -> State:
        gram = state.extra["gram"] + self.penalty * jnp.eye(FEATURES)
        return replace(state, params=jnp.linalg.solve(gram, state.extra["cross"]))


@dataclass(frozen=True)
class ToyGAN(Task):
    """Two players, two optimisers: a shifted Gaussian generator against a quadratic discriminator."""

    batch_size: int = 64

    def _optimisers(self) -> tuple[Any, Any]:
        import optax

        return optax.adam(1e-2, b1=0.5), optax.adam(2e-2, b1=0.5)

    def init(self, rng: jax.Array) -> State:
        params = {"generator": {"mean": jnp.zeros(())}, "critic": {"a": jnp.zeros(()), "b": jnp.zeros(())}}
        g, d = self._optimisers()
        opt = {"generator": g.init(params["generator"]), "critic": d.init(params["critic"])}
        return State(step=jnp.zeros((), jnp.int32), params=params, opt=opt)

    def data(self, split: str) -> BatchSpec:
        return BatchSpec(FormulaStream(), self.batch_size)

    def update(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        import optax

        real = batch["x"][:, 0] + 2.0  # N(2, 1)
        noise = jax.vmap(lambda key: jax.random.normal(key, ()))(example_keys(0, "noise", batch["index"]))

        def critic(d: Any, x: jax.Array) -> jax.Array:
            return d["a"] * x + d["b"]

        def d_loss(d: Any, g: Any) -> jax.Array:
            fake = jax.lax.stop_gradient(g["mean"] + noise)
            penalty = 0.5 * d["a"] ** 2
            return (jax.nn.softplus(-critic(d, real)) + jax.nn.softplus(critic(d, fake))).mean() + penalty

        def g_loss(g: Any, d: Any) -> jax.Array:
            return jax.nn.softplus(-critic(d, g["mean"] + noise)).mean()

        params, (g_opt, d_opt) = dict(state.params), self._optimisers()
        opt, losses = dict(state.opt), {}
        for name, loss, other, optim in (
            ("critic", d_loss, "generator", d_opt),
            ("generator", g_loss, "critic", g_opt),
        ):
            losses[name], grads = jax.value_and_grad(loss)(params[name], params[other])
            updates, opt[name] = optim.update(grads, opt[name], params[name])
            params[name] = optax.apply_updates(params[name], updates)
        metrics = {f"loss_{name}": (value, jnp.float32(1)) for name, value in losses.items()}
        return replace(state, step=state.step + 1, params=params, opt=opt), metrics
