"""Accuracy over time: a ridge regression for each window of the response, all windows of one kind as one program.

Sliding windows say when the response tells the image; growing ones, from the first sample on, what is known by when.
Each window is averaged over a few spans, so that all windows of one kind have equal shapes; a span's borders may lie
within a sample.
"""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dreamjax.comparison.controls import plain_ridge
from dreamjax.comparison.fitting import Fitted
from dreamjax.comparison.jobs import Job
from dreamjax.comparison.result import timed
from dreamjax.errors import UserError
from dreamjax.metrics.retrieval import Ranks
from dreamjax.systems import registry
from dreamjax.systems.retrieval_data import VECTOR
from dreamjax.targets import responses

WINDOW, STRIDE = 0.1, 0.025  # s
SPANS = {"sliding": 4, "growing": 10}  # of a window, over which the signal is averaged


def fit(job: Job) -> Fitted:
    """Return the ranks of every window of a kind; `curves`: where each begins and ends, s after the onset."""
    began = time.monotonic()
    config = job.configs[0]
    task: Any = registry.build(config)
    train, test = (responses.load(task.config.data, split) for split in ("train", "test"))
    length, first = test.signal.shape[2], test.tmin
    ends = window_ends(length / test.sfreq)
    target, vectors = np.searchsorted(test.gallery, test.image), task.vectors[VECTOR]
    data = [jnp.asarray(x) for x in (train.signal, vectors[train.image], test.signal, vectors[test.gallery], target)]
    _, kind = timed(job)
    windows = np.stack([ends - WINDOW if kind == "sliding" else np.zeros(len(ends)), ends], 1)
    weights = np.stack([means(low, high, SPANS[kind], length) for low, high in windows * test.sfreq])
    above, equal = (np.asarray(x) for x in _ranked(plain_ridge(config), jnp.asarray(weights, jnp.float32), *data))
    ranks = [Ranks(*pair) for pair in zip(above, equal, strict=True)]
    return Fitted(
        ranks={kind: ranks}, params={}, epochs={}, curves={kind: windows + first},
        image=test.image, person=test.subject, repeats=test.repeats,
        gallery=len(test.gallery), galleries={}, further={}, closed_form=True, parameters={},
        seconds=time.monotonic() - began,
    )  # fmt: skip


def window_ends(seconds: float) -> Float[np.ndarray, "W"]:
    """Return where the windows of a response end, s after its first sample. Raise UserError for a shorter one."""
    if seconds < WINDOW - 1e-9:
        raise UserError(f"--over-time: a response has {seconds:g} s, and a window {WINDOW:g} s; leave it out")
    return WINDOW + STRIDE * np.arange(int((seconds - WINDOW) / STRIDE + 1e-6) + 1)


def means(begin: float, end: float, spans: int, samples: int) -> Float[np.ndarray, "spans samples"]:
    """Return the matrix that averages a signal over equal spans of the samples from `begin` to `end`."""
    borders = np.linspace(begin, end, spans + 1)[:, None]
    until = np.clip(borders - np.arange(samples), 0, 1)  # how much of each sample lies before each border
    return np.diff(until, axis=0) * spans / (end - begin)


@functools.partial(jax.jit, static_argnums=0)  # by the settings of the regression alone: once for all people
def _ranked(
    task: Any,
    weights: Float[Array, "W spans T"],
    trained: Float[Array, "N C T"],
    seen: Float[Array, "N *D"],
    tested: Float[Array, "n C T"],
    gallery: Float[Array, "G *D"],
    target: Int[Array, "n"],
) -> tuple[Int[Array, "W n"], Int[Array, "W n"]]:
    """Return how many images are more similar than the one that was seen, and how many as similar, in each window."""

    def one(window: Float[Array, "spans T"]) -> tuple[Array, Array]:
        x, asked = (jnp.einsum("nct,st->ncs", each, window).reshape(len(each), -1, 1) for each in (trained, tested))
        inputs = {"signal": x, "vector": seen, "weight": jnp.ones(len(x))}
        params = task.solve(task.statistics(inputs))
        queries, images = task.query(params, {"signal": asked}), task.image_side(params, gallery)
        queries, images = (x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (queries, images))
        similarity = queries @ images.T
        right = jnp.take_along_axis(similarity, target[:, None], axis=1)
        return (similarity > right).sum(1), (similarity == right).sum(1) - 1

    return jax.lax.map(one, weights)
