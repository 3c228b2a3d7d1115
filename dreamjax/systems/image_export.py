"""Shared parts of the exports of image networks: float32, PyTorch's layout, a preprocessor's fields."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from etils import epath
from jax.typing import ArrayLike

from dreamjax.targets.images import FILTERS, ImageConfig
from dreamjax.typing import JsonDict

T = TypeVar("T")


def exact(task: T) -> T:
    """Return a system that computes in float32 with the standard attention, as for parity arrays."""
    config = task.config  # type: ignore[attr-defined]
    model = dataclasses.replace(config.model, dtype="float32", attention="auto")
    return dataclasses.replace(task, config=dataclasses.replace(config, model=model))  # type: ignore[type-var]


def computed(function: Callable[..., T], *arguments: Any) -> T:
    """Return `function(*arguments)`, compiled, with products in float32."""
    with jax.default_matmul_precision("highest"):
        return jax.jit(function)(*arguments)


def noise(count: int, side: int) -> np.ndarray:
    """Return `count` square images of uniform noise in [-1, 1], channels last."""
    return np.random.default_rng(0).uniform(-1, 1, (count, side, side, 3)).astype(np.float32)


def channels_first(images: ArrayLike) -> np.ndarray:
    """Return images, channels last, in PyTorch's layout."""
    return np.ascontiguousarray(np.asarray(images).transpose(0, 3, 1, 2))


def images_in_words(data: ImageConfig) -> str:
    """Return a description of the images that a model was trained on."""
    return f"{epath.Path(data.folder).name or 'unknown'}, {data.resolution} x {data.resolution} pixels"


def preprocessor(data: ImageConfig, **fields: Any) -> JsonDict:
    """Return preprocessor_config.json of transformers: the preprocessing of training, and `fields`."""
    half = [0.5, 0.5, 0.5]
    steps = {"do_resize": True, "resample": FILTERS[data.resample], "do_rescale": True, "rescale_factor": 1 / 255}
    return {**steps, "do_normalize": True, "image_mean": half, "image_std": half, **fields}
