"""Train runs of equal shapes as one: their states are stacked along a leading axis, which is sharded over the mesh.

A small model leaves most of an accelerator, and most chips of a pod, idle. Runs that differ in seeds and in
hyper-parameters that are arguments of the step (`state.hyper`) share one program; if the mesh axis `data` divides their
number, each chip trains whole runs, without communication. Every run sees the same examples and masks as alone.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from dreamjax import config as configs
from dreamjax.errors import UserError
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.parallel.sharding import Rules
from dreamjax.sweeps.sweep_config import RunConfig
from dreamjax.training import program
from dreamjax.training.task import Batch, BatchSpec, Metrics, PyTree, State, Stream, Task, replace
from dreamjax.training.train_config import TrainConfig

PARTS = ("params", "opt", "ema", "hyper", "extra")


def alike(config: RunConfig) -> str:
    """Return a key that is equal for runs that can be trained as one: the config without the arguments of the step.

    These are the seed, the target of the loss and all of `optim`; they change no shape.
    """
    values = dataclasses.asdict(config)
    values.pop("seed")
    values.get("loss", {}).pop("target", None)
    keeps_average = values.pop("optim", {}).get("ema_decay") is not None
    return json.dumps([values, keeps_average], sort_keys=True, default=str)


@dataclass(frozen=True)
class Stacked:
    """Several streams as one: each global batch holds a batch of the first, then one of the second, and so on."""

    streams: tuple[Stream, ...]
    same: tuple[int, ...]  # of each stream: the first one that delivers the same

    def element(self) -> dict[str, jax.ShapeDtypeStruct]:
        return self.streams[0].element()

    def batches(
        self, *, start: int, batch_size: int, process: int = 0, processes: int = 1, workers: int = 0
    ) -> Iterator[dict[str, np.ndarray]]:
        count = len(self.streams)
        if count % processes:
            raise UserError(f"{count} runs together take a number of processes that divides them, not {processes}")
        rows = range(process * count // processes, (process + 1) * count // processes)
        sources = {
            self.same[i]: self.streams[self.same[i]].batches(
                start=start // count, batch_size=batch_size // count, workers=workers
            )
            for i in rows
        }
        while True:
            try:
                read = {i: next(source) for i, source in sources.items()}
            except StopIteration:
                return
            parts = [read[self.same[i]] for i in rows]
            yield {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class Vectorised(Task):
    """The task of several tasks of equal shapes, and their configs.

    Raise ValueError where they differ in more than arguments of the step.
    """

    tasks: tuple[Any, ...]  # systems with the capability `Vectorises`
    configs: tuple[RunConfig, ...]
    sharding_rules: ClassVar[Rules] = ((r"^(params|opt|ema|hyper|extra)/", P("data")),)

    def __post_init__(self) -> None:
        if len({alike(config) for config in self.configs}) != 1:
            raise ValueError("runs trained as one may differ in seeds and arguments of the step only")

    @property
    def seeds(self) -> list[int]:
        return [config.seed for config in self.configs]

    def init(self, rng: Array) -> State:
        del rng  # each run has its own
        made = jax.vmap(lambda key: {name: getattr(self.tasks[0].init(key), name) for name in PARTS})(
            jnp.stack([program.run_key(seed, b"init") for seed in self.seeds])
        )
        targets = {getattr(getattr(config, "loss", None), "target", None) for config in self.configs}
        hyper = [task.hyper(targets=len(targets) > 1) for task in self.tasks]
        made["hyper"] = {name: jnp.stack([one[name] for one in hyper]) for name in hyper[0]}
        made["extra"] = {"own": made["extra"], "refused": jnp.zeros(len(self.tasks), jnp.int32)}
        return State(step=jnp.zeros((), jnp.int32), **made)

    def data(self, split: str) -> BatchSpec:
        specs = [task.data(split) for task in self.tasks]
        first: dict[int, int] = {}
        same = tuple(first.setdefault(seed, i) for i, seed in enumerate(self.seeds))
        return BatchSpec(Stacked(tuple(spec.stream for spec in specs), same), len(specs) * specs[0].batch_size)

    def update(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        count = len(self.tasks)
        rows = {name: x.reshape(count, x.shape[0] // count, *x.shape[1:]) for name, x in batch.items()}

        def one(parts: dict[str, PyTree], rows: Batch) -> tuple[dict[str, PyTree], Metrics]:
            new, metrics = self.tasks[0].update(State(step=state.step, **parts), rows)
            return {name: getattr(new, name) for name in PARTS}, metrics

        parts = {name: getattr(state, name) for name in PARTS}
        parts["extra"] = state.extra["own"]
        new, metrics = jax.vmap(one)(parts, rows)
        metrics = dict(metrics)
        good = jnp.greater(metrics.pop("finite")[0], 0)
        new["extra"] = {"own": new["extra"], "refused": state.extra["refused"] + ~good}
        return replace(state, step=state.step + 1, **new), _by_run(metrics, good)

    def evaluate(self, state: State, source: Stream) -> Metrics:
        raise UserError("runs trained as one are scored one by one, after training: set train.eval_every=0")

    def flops(self) -> float | None:
        """Return the operations of one row: every run has its own."""
        return self.tasks[0].flops()

    def take(self, state: State, index: int) -> tuple[PyTree, int]:
        """Return (parameters of one run, averaged where they are kept; steps that were refused as not finite)."""
        params = state.ema if jax.tree.leaves(state.ema) else state.params
        return jax.tree.map(lambda x: x[index], params), int(state.extra["refused"][index])


def _by_run(metrics: Metrics, good: Array) -> dict[str, tuple[Array, Array]]:
    """Return `loss/3`, …, without runs whose step was refused. `loss`: of all other runs."""
    by_run: dict[str, tuple[Array, Array]] = {}
    for name, (total, weight) in metrics.items():
        total, weight = (
            jnp.where(good & jnp.isfinite(total), x, 0.0) for x in (total, jnp.broadcast_to(weight, good.shape))
        )
        by_run |= {f"{name}/{i}": (total[i], weight[i]) for i in range(len(good))}
        if name == "loss":
            by_run["loss"] = (total.sum(), weight.sum())
    return by_run | {"finite": (jnp.any(good).astype(jnp.float32), jnp.float32(1))}


def train_config(config: RunConfig, count: int) -> TrainConfig:
    """Return the config of a program of `count` such runs: over all devices, without scoring during training."""
    batch_size = count * config.train.batch_size
    return dataclasses.replace(config.train, batch_size=batch_size, mesh=MeshConfig(), eval_every=0, image_every=0)


def config_json(runs: Sequence[RunConfig], train: TrainConfig) -> str:
    """Return the configs of the runs, for the work directory of the program."""
    points = {str(i): json.loads(configs.to_json(config)) for i, config in enumerate(runs)}
    for point in points.values():
        del point["train"]  # it is there once, and more steps are not another program
    return json.dumps({"train": dataclasses.asdict(train), "points": points})
