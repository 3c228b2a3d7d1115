"""What exports of networks that see or make images share: PyTorch's layout, and the fields of a preprocessor."""

import dataclasses
from typing import Any, TypeVar

import numpy as np
from jax.typing import ArrayLike

from dreamjax.targets.images import FILTERS, ImageConfig
from dreamjax.typing import JsonDict

C = TypeVar("C")


def in_float32(config: C) -> C:
    """Return a system's config with `model.dtype` float32 and the common attention, as parity arrays are computed."""
    model = dataclasses.replace(config.model, dtype="float32", attention="auto")  # type: ignore[attr-defined]
    return dataclasses.replace(config, model=model)  # type: ignore[type-var]


def noise(count: int, side: int) -> np.ndarray:
    """Return `count` square images of uniform noise in [-1, 1], channels last."""
    return np.random.default_rng(0).uniform(-1, 1, (count, side, side, 3)).astype(np.float32)


def channels_first(images: ArrayLike) -> np.ndarray:
    """Return images, channels last, in PyTorch's layout."""
    return np.ascontiguousarray(np.asarray(images).transpose(0, 3, 1, 2))


def preprocessor(data: ImageConfig, **fields: Any) -> JsonDict:
    """Return preprocessor_config.json of transformers: what training does to images, and `fields`."""
    half = [0.5, 0.5, 0.5]
    return {
        "do_resize": True,
        "resample": FILTERS[data.resample],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": half,
        "image_std": half,
        **fields,
    }
