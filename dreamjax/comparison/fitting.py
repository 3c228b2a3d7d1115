"""Fit a job's runs in memory and score them: ranks of the image that was seen, for each seed and checkpoint."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dreamjax.comparison import scoring
from dreamjax.comparison.jobs import Job
from dreamjax.comparison.scoring import Cut
from dreamjax.errors import UserError
from dreamjax.metrics.retrieval import Ranks
from dreamjax.systems import registry
from dreamjax.systems.base import Vectorises, capabilities
from dreamjax.systems.retrieval_base import RetrievalSystem, gathered
from dreamjax.systems.retrieval_data import VECTOR
from dreamjax.targets.responses import Split
from dreamjax.training import in_memory, program
from dreamjax.training.task import PyTree


@dataclass(frozen=True)
class Fitted:
    """The runs of a job: parameters and ranks by checkpoint, seed after seed."""

    ranks: Mapping[str, Sequence[Ranks]]  # checkpoint → of each seed
    params: Mapping[str, Sequence[PyTree]]
    epochs: Mapping[str, Sequence[int]]  # checkpoint → epoch of each seed
    curves: Mapping[str, np.ndarray]  # loss, and each judge's score: epochs x seeds
    image: Int[np.ndarray, "n"]  # of each tested trial, a number in the catalogue
    person: Int[np.ndarray, "n"]
    repeats: Int[np.ndarray, "n"]
    gallery: int  # images
    galleries: Mapping[str, int]  # row of the table → images, where these are others
    further: Mapping[str, np.ndarray | None]  # arrays to keep: see `scoring.Scored`
    closed_form: bool
    parameters: Mapping[str, int]  # of the encoder, and of everything that is trained
    seconds: float
    notes: Mapping[str, str] = field(default_factory=dict)  # on rows, or why they are missing


def fit(job: Job) -> Fitted:
    """Train the runs of a job and score them on its test trials. Raise UserError for runs that are not finite."""
    began = time.monotonic()
    tasks: list[Any] = [registry.build(config) for config in job.configs]
    closed_form = Vectorises not in capabilities(tasks[0])
    if not closed_form:
        params, epochs, curves = _by_gradients(job, tasks)
        key = program.run_key(job.configs[0].seed, b"init")
        floor = {scoring.UNTRAINED: [jax.jit(tasks[0].init)(key).params]}
    else:
        params, epochs, curves = _in_closed_form(tasks)
        floor = {}  # without statistics nothing is known, and every image is as likely
    test = tasks[0].examples("test")
    scored = scoring.score(tasks[0], params, floor, job.scoring)
    kept = ("exchanged", "nearest", "similarity")
    return Fitted(
        scored.ranks,
        params,
        epochs,
        curves,
        test.trials.image,
        test.trials.subject,
        test.trials.repeats,
        len(test.trials.gallery),
        scored.sizes,
        {name: getattr(scored, name) for name in kept},
        closed_form,
        _counts(params[next(iter(params))][0]),
        time.monotonic() - began,
    )


def _counts(params: PyTree) -> dict[str, int]:
    def count(tree: PyTree) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    return {"encoder": count(params.get("encoder", params)), "all": count(params)}


def _by_gradients(
    job: Job, tasks: Sequence[Any]
) -> tuple[dict[str, list[PyTree]], dict[str, list[int]], dict[str, np.ndarray]]:
    runs = trained(job, tasks)
    params: dict[str, list[PyTree]] = {}
    epochs: dict[str, list[int]] = {}
    for name in job.checkpoints:
        if name == "last" or name in runs.best:
            by: str | None = None if name == "last" else name
            params[name] = [runs.params(i, by) for i in range(len(tasks))]
            last = [len(runs.losses)] * len(tasks)
            epochs[name] = last if by is None else runs.best_epoch[by].tolist()
    return params, epochs, {"loss": runs.losses} | dict(runs.scores)


def trained(
    job: Job, tasks: Sequence[RetrievalSystem], cut: Cut = dict, per_run: in_memory.Arrays | None = None, name: str = ""
) -> in_memory.TrainedRuns:
    """Train a run for each task, on what `cut` leaves of each batch; `per_run`: what it reads of each run.

    Raise UserError for runs that are not finite, and for a config without epochs.
    """
    task, config = tasks[0], tasks[0].config
    if not config.epochs:
        raise UserError(f"{job.system}: epochs is 0, but a comparison counts passes; give --epochs")
    train = task.examples("train")
    splits: dict[str, Split] = {}
    if "held_out" in job.checkpoints:
        splits["held_out"] = "val"
    if "test" in job.checkpoints:
        splits["test"] = "test"
    judges = {}
    for judge, split in splits.items():
        held_out = task.examples(split)
        gallery = held_out.trials.gallery
        target = np.searchsorted(gallery, held_out.trials.image).astype(np.int32)
        arrays = dict(held_out.rows) | {"target": target, "gallery": gallery.astype(np.int32)}
        judges[judge] = {name: x[None] for name, x in arrays.items()}
    count = len(train.trials)
    steps = config.epochs * in_memory.steps_of(count, config.train.batch_size)
    timed = [
        registry.build(dataclasses.replace(c, train=dataclasses.replace(c.train, steps=steps)))
        for c in (one.config for one in tasks)
    ]
    runs = in_memory.train(
        timed,
        {name: x[None] for name, x in train.rows.items()},
        shared=train.vectors,
        sets=[0] * len(timed),
        epochs=config.epochs,
        batch_size=config.train.batch_size,
        gather=lambda rows, vectors: gathered(cut(rows), vectors),
        score=lambda params, held_out: mean_reciprocal_rank(task, params, cut(held_out)),
        judges=judges,
        per_run=per_run,
        name=name or job.name,
    )
    if (last := runs.losses[-1])[~np.isfinite(last)].size:
        raise UserError(f"{job.name}: the loss is not finite; lower the learning rate")
    return runs


def _in_closed_form(
    tasks: Sequence[Any],
) -> tuple[dict[str, list[PyTree]], dict[str, list[int]], dict[str, np.ndarray]]:
    """Return the solution of one pass. There is no epoch to choose, so it stands for every checkpoint."""
    task = tasks[0]
    spec = task.data("train")
    state = task.init(jax.random.key(0))
    update = jax.jit(task.update)
    for batch in spec.stream.batches(start=0, batch_size=spec.batch_size):
        state, _ = update(state, {name: jnp.asarray(x) for name, x in batch.items()})
    params = task.finish(state).params
    return {"last": [params]}, {"last": [1]}, {}


def mean_reciprocal_rank(task: Any, params: PyTree, held_out: Mapping[str, Array]) -> Float[Array, ""]:
    """Return the mean of 1 / rank of the image that was seen, among those of the held-out trials.

    It orders checkpoints more finely than a top-k accuracy, which ties on a few hundred trials. An image that is as
    similar as the one that was seen counts as nearer, so that a network with equal outputs is not the best.
    """
    trials = {name: held_out[name] for name in ("signal", "subject", "image")}
    queries = scoring.queries_of(task, params, trials)
    images = task.image_side(params, held_out[VECTOR][held_out["gallery"]])
    similarity = _unit(queries) @ _unit(images).T
    right = jnp.take_along_axis(similarity, held_out["target"][:, None], axis=1)
    rank = (~(right > similarity)).sum(1)  # with itself; the last one where the similarity is not finite
    return (1.0 / rank).mean()


def _unit(x: Float[Array, "n F"]) -> Float[Array, "n F"]:
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)
