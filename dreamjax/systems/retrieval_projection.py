"""Retrieval systems whose images, and where a system says so brain vectors, go through a learned linear map."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dreamjax.systems.retrieval_base import RetrievalSystem
from dreamjax.training.task import Batch, PyTree


@dataclass(frozen=True)
class ImageProjection(RetrievalSystem):
    """A retrieval system whose images go through a learned linear map to the common space, of width `model.width`."""

    def init_params(self, rng: Array) -> dict[str, PyTree]:
        of_encoder, of_image = jax.random.split(rng)
        width, features = self.config.model.width, self.sizes.features  # type: ignore[attr-defined]
        bound = features**-0.5

        def linear(key: Array) -> dict[str, Array]:
            of_kernel, of_bias = jax.random.split(key)
            return {
                "kernel": jax.random.uniform(of_kernel, (features, width), jnp.float32, -bound, bound),
                "bias": jax.random.uniform(of_bias, (width,), jnp.float32, -bound, bound),
            }

        params = super().init_params(of_encoder) | {"image": linear(of_image)}
        return params | ({"brain": linear(jax.random.fold_in(of_image, 1))} if self.projects_brain else {})

    @property
    def projects_brain(self) -> bool:
        """Return whether the encoder, then as wide as the image vectors, has a linear map behind it too."""
        return False

    def encode(
        self, params: PyTree, batch: Batch, key: Array | None = None, call: str = "__call__"
    ) -> tuple[Any, PyTree]:
        vectors, statistics = super().encode(params, batch, key, call)
        return (_linear(params["brain"], vectors) if self.projects_brain else vectors), statistics

    def image_side(self, params: PyTree, vectors: Float[Array, "M *D"]) -> Float[Array, "M F"]:
        return _linear(params["image"], vectors)

    @property
    def _linear_maps(self) -> tuple[str, ...]:
        return ("image", "brain") if self.projects_brain else ("image",)

    def image_config(self) -> dict[str, Any]:
        return {"image_side": "linear", "brain_side": "linear" if self.projects_brain else "same"}

    def image_tensors(self, params: PyTree) -> dict[str, Any]:
        kernels = {f"{name}.weight": np.asarray(params[name]["kernel"]).T.copy() for name in self._linear_maps}
        return kernels | {f"{name}.bias": params[name]["bias"] for name in self._linear_maps}

    def image_params(self, tensors: Mapping[str, np.ndarray]) -> dict[str, PyTree]:
        return {
            name: {"kernel": tensors[f"{name}.weight"].T.copy(), "bias": tensors[f"{name}.bias"]}
            for name in self._linear_maps
        }


def _linear(params: PyTree, x: Float[Array, "M D"]) -> Float[Array, "M F"]:
    return x @ params["kernel"] + params["bias"]
