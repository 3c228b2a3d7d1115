"""Accuracy over time of systems that are trained by gradients: a model for each window, several as one program.

Sliding windows have one length, and their networks are built for it. Networks of growing windows read the whole
response, in which the samples after the window are 0, the centre of a scaled channel. The data are on the device once,
and every model cuts its window out of its batches. Parameters are those that the protocol counts: of the epoch that was
best on this window of what is held out, or of the last one; never by the test set.
"""

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dreamjax.comparison import fitting, protocols, result, scoring
from dreamjax.comparison.fitting import Fitted
from dreamjax.comparison.jobs import RIDGE, Job, Scoring
from dreamjax.comparison.over_time import WINDOW, window_ends
from dreamjax.errors import UserError
from dreamjax.metrics import retrieval
from dreamjax.metrics.retrieval import Ranks
from dreamjax.systems import registry
from dreamjax.systems.retrieval_base import RetrievalSystem
from dreamjax.systems.retrieval_data import SizesConfig
from dreamjax.targets import responses
from dreamjax.training import devices
from dreamjax.training.in_memory import TrainedRuns
from dreamjax.training.task import Batch, PyTree

COPIES = 5  # of the parameters: themselves, two moments, the gradient, the best epoch
BACKWARD = 2  # times what the backward pass keeps: that, and what it computes meanwhile
SHARE = 0.5  # of the device's memory


def jobs_of(system: str, kind: str, jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs of a system's windows of a kind, on its folds, by its first seed.

    Raise UserError for a system that is not compared or not trained by gradients, and for one whose network cannot be
    so short, before anything is trained.
    """
    windows = [
        dataclasses.replace(job, system=result.timed_name(system, kind), configs=job.configs[:1], scoring=Scoring())
        for job in jobs
        if job.system == system
    ]
    others = dict.fromkeys(job.system for job in jobs if hasattr(job.configs[0], "optim"))
    if system not in others:
        raise UserError(f"--over-time: {system} is not a system of this comparison that has windows; choose from "
                        f"{', '.join([RIDGE, *others])}")  # fmt: skip
    task: Any = registry.build(windows[0].configs[0])
    trials = responses.load(task.config.data, "test")
    length, _ = windows_of(kind, trials.signal.shape[2], trials.sfreq)
    if kind == "sliding":
        try:
            # any width of the image vectors, so that no bank is computed before the folder is claimed
            sizes = SizesConfig(trials.signal.shape[1], length, len(task.people), features=1, latent=1)
            short: Any = registry.build(dataclasses.replace(task.config, sizes=sizes))
            jax.eval_shape(lambda key: short.network.init(short.arguments(), key), jax.random.key(0))
        except UserError as problem:
            raise UserError(
                f"--over-time: {system} cannot read windows of {WINDOW:g} s, as {str(problem).partition(';')[0]}; "
                "choose --windows growing, or leave it out"
            ) from None
    return windows


def fit(job: Job) -> Fitted:
    """Train a model for each window of a kind; return their ranks; `curves`: where each begins and ends, s.

    Raise UserError for runs that are not finite.
    """
    began = time.monotonic()
    whole: Any = registry.build(job.configs[0])
    test = whole.examples("test").trials
    _, kind = result.timed(job)
    length, spans = windows_of(kind, test.signal.shape[2], test.sfreq)
    ranks = ranks_of(job, task_of(whole, length), spans)
    return Fitted(
        ranks={kind: ranks}, params={}, epochs={}, curves={kind: spans / test.sfreq + test.tmin},
        image=test.image, person=test.subject, repeats=test.repeats,
        gallery=len(test.gallery), galleries={}, further={}, closed_form=False, parameters={},
        seconds=time.monotonic() - began,
    )  # fmt: skip


def windows_of(kind: str, samples: int, sfreq: float) -> tuple[int, Int[np.ndarray, "W 2"]]:
    """Return how many samples a network reads, and the first sample and the end of each window of a kind.

    Raise UserError for responses that are shorter than a window.
    """
    length = max(1, round(WINDOW * sfreq)) if kind == "sliding" else samples
    ends = np.minimum(np.round(window_ends(samples / sfreq) * sfreq).astype(np.int32), samples)
    begins = np.maximum(ends - length, 0)
    return length, np.stack([begins, ends], 1)


def task_of(task: RetrievalSystem, length: int) -> RetrievalSystem:
    """Return the system with a network for so many samples."""
    sizes = dataclasses.replace(task.sizes, samples=length)
    return type(task)(dataclasses.replace(task.config, sizes=sizes))


def ranks_of(job: Job, task: RetrievalSystem, spans: Int[np.ndarray, "W 2"]) -> list[Ranks]:
    """Train a model for each window, as many together as `block` says, and return its ranks of the test trials."""
    test = task.examples("test").trials
    target, ranks = np.searchsorted(test.gallery, test.image), []
    for some in np.array_split(spans, -(-len(spans) // block(task))):
        runs = train(job, task, some)
        for i, (begin, end) in enumerate(some):
            params = runs.params(i, next(iter(runs.best), None))
            vectors = np.asarray(task.bank(params, "test").vectors)
            ranks.append(retrieval.ranks(_queries(task, params, begin, end), vectors, target))
    return ranks


def _queries(task: RetrievalSystem, params: PyTree, begin: int, end: int) -> Float[np.ndarray, "n F"]:
    def cut(rows: Mapping[str, Array]) -> Mapping[str, Array]:
        return cut_out({**rows, "begin": jnp.int32(begin), "end": jnp.int32(end)}, task.sizes.samples)

    return scoring.queries_in_test(task, params, cut)


def train(job: Job, task: RetrievalSystem, spans: Int[np.ndarray, "W 2"]) -> TrainedRuns:
    """Train a model for each window, all as one program. Only the checkpoint that the protocol counts is kept."""
    counted = protocols.counted(job.checkpoints)
    honest = dataclasses.replace(job, checkpoints=tuple(one for one in job.checkpoints if one == counted))
    cut = functools.partial(cut_out, length=task.sizes.samples)
    name = f"{job.name}, {len(spans)} windows together"
    return fitting.trained(honest, [task] * len(spans), cut, {"begin": spans[:, 0], "end": spans[:, 1]}, name)


def cut_out(rows: Mapping[str, Array], length: int) -> dict[str, Array]:
    """Return trials of `length` samples from their `begin`; those after their `end` are 0."""
    others = {name: x for name, x in rows.items() if name not in ("begin", "end")}
    signal = jax.lax.dynamic_slice_in_dim(rows["signal"], rows["begin"], length, axis=-1)
    within = rows["begin"] + jnp.arange(length) < rows["end"]
    return others | {"signal": jnp.where(within, signal, 0)}


# -------------------------------------------------------------------------------------------------------------- memory
def block(task: RetrievalSystem) -> int:
    """Return how many models are trained together: as many as take half of the memory of the device, at least one."""
    return max(1, int(SHARE * devices.memory_bytes() / bytes_of(task)))


def bytes_of(task: RetrievalSystem) -> int:
    """Return about how much memory one model takes while it is trained, from the shapes alone."""
    params = jax.eval_shape(task.init_params, jax.random.key(0))
    rows = task.config.train.batch_size
    batch = {name: jax.ShapeDtypeStruct((rows, *x.shape), x.dtype) for name, x in task.example().items()}

    def backward(params: PyTree, batch: Batch) -> PyTree:
        return jax.vjp(lambda params: task.loss(params, {}, batch, 0, training=True)[0], params)[1]

    kept, size = (
        sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
        for tree in (jax.eval_shape(backward, params, batch), params)
    )
    return COPIES * size + BACKWARD * kept
