"""What belongs to a published network: how it is built from its config.json, and its names in PyTorch.

network = networks.of(config_json, source)           # by the class that the config names
arguments = network.arguments(config_json, source)   # of `models`' class, plain and hashable
params = network.table.to_dreamjax(tensors, network.shapes(arguments))
y = network.bind(arguments, params)(x)
"""

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

from dreamjax.errors import UserError
from dreamjax.models.keys import Keys
from dreamjax.weights.config_json import class_of
from dreamjax.weights.table import Table

PyTree = Any
Arguments = Mapping[str, Any]

# class in config.json (`_class_name` of diffusers, `architectures` of transformers) → module of dreamjax.weights with
# NETWORK
MODULES = {
    "UNet2DConditionModel": "unet",
    "AutoencoderKL": "autoencoder_kl",
    "CLIPTextModel": "clip_text",
    "CLIPTextModelWithProjection": "clip_text",
    "CLIPVisionModel": "clip_vision",
    "CLIPVisionModelWithProjection": "clip_vision",
    "Dinov2Model": "dinov2",
    "Dinov2WithRegistersModel": "dinov2",
    "ViTModel": "vit",
    "ViTForImageClassification": "vit",
}
# part of a pipeline → the module that it must be of
ROLES = {"unet": "unet", "vae": "autoencoder_kl", "text_encoder": "clip_text"}
# of two networks in one file dreamjax reads either: class → which half → module
HALVES = {"CLIPModel": {"text": "clip_text", "vision": "clip_vision"}}


@dataclass(frozen=True)
class Network:
    """`build(**arguments, rngs=…)` makes the module; `arguments(config_json, source)` reads and checks its config."""

    build: Callable[..., nnx.Module]
    arguments: Callable[[Mapping[str, Any], str], dict[str, Any]]
    table: Table

    def init(self, arguments: Arguments, rng: jax.Array) -> PyTree:
        """Fresh parameters: a nested dict of float32 arrays."""
        return _fresh(self.build, _hashable(arguments))(rng)

    def shapes(self, arguments: Arguments) -> PyTree:
        """The parameters' shapes and types; nothing is allocated."""
        return jax.tree.map(lambda leaf: leaf, _abstract(self.build, _hashable(arguments))[1])

    def bind(self, arguments: Arguments, params: PyTree) -> Any:
        """The module around given parameters; free of cost, also under jit."""
        return nnx.merge(_abstract(self.build, _hashable(arguments))[0], params)


def _hashable(arguments: Arguments) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(arguments.items()))


@functools.lru_cache(maxsize=64)
def _fresh(build: Callable[..., nnx.Module], arguments: tuple[tuple[str, Any], ...]) -> Callable[[jax.Array], PyTree]:
    """`rng → parameters`, traced once: a run's shapes are asked for whenever it is opened."""

    def fresh(rng: jax.Array) -> PyTree:
        return nnx.to_pure_dict(nnx.state(build(**dict(arguments), rngs=Keys(rng)), nnx.Param))

    return jax.jit(fresh)


@functools.lru_cache(maxsize=64)
def _abstract(build: Callable[..., nnx.Module], arguments: tuple[tuple[str, Any], ...]) -> tuple[Any, PyTree]:
    """The module's graph, and its parameters' shapes: building one takes up to a second."""
    module = nnx.eval_shape(lambda: build(**dict(arguments), rngs=Keys(jax.random.key(0))))
    graph, params = nnx.split(module, nnx.Param)
    return graph, nnx.to_pure_dict(params)


def of(config: Mapping[str, Any], source: str, half: str | None = None) -> Network:
    """The network of a config.json; of a class in `HALVES`, that of one half.

    Raises UserError for one that dreamjax does not have, and for a half that is not told or not there.
    """
    name = class_of(config)
    if name in HALVES and half not in HALVES[name]:
        halves = " or the ".join(HALVES[name])
        raise UserError(f"{source} describes a {name}, of which dreamjax reads the {halves} half; say which")
    module = HALVES[name][half] if name in HALVES and half is not None else MODULES.get(name or "")
    if module is None:
        raise UserError(f"{source} describes a {name or 'model without a class'}; dreamjax has {', '.join(MODULES)}")
    return importlib.import_module(f"dreamjax.weights.{module}").NETWORK
