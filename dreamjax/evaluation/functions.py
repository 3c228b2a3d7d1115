"""Capabilities of a system as functions of NumPy arrays, compiled once; and the same network untrained."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from dreamjax.evaluation.reconstruction_scores import Predict
from dreamjax.systems.base import Embeds, Reconstructs, Run, System, capability
from dreamjax.training.task import PyTree


def predictor(run: Run) -> Predict:
    """Return (signal, hidden patches, valid samples) → reconstruction. Raise UserError for a system that has none."""
    task = capability(run.task, Reconstructs, "reconstruct a signal")
    compiled = jax.jit(task.reconstruct)
    return lambda signal, hidden, valid: np.asarray(compiled(run.params, signal, hidden, valid))


def embedder(task: Embeds, params: PyTree) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return (signal [B, C, T], valid [B, T]) → one vector a window [B, D]."""
    compiled = _pooled(task)  # type: ignore[arg-type]  # systems are frozen dataclasses, so hashable
    return lambda signal, valid: np.asarray(compiled(params, signal, valid.astype(np.float32)))


@functools.lru_cache(maxsize=4)
def _pooled(task: Embeds) -> Callable[..., jax.Array]:
    return jax.jit(lambda params, signal, valid: task.embed(params, signal, valid).pooled)


def untrained(task: System, seed: int) -> PyTree:
    """Return parameters of the same network that nothing has trained."""
    key = jax.random.fold_in(jax.random.key(task.config.seed), seed)
    return jax.jit(lambda key: task.init(key).params)(key)
