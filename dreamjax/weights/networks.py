"""Published networks: how each is built from its config.json, and its names in PyTorch.

network = networks.of(config_json, source)           # by the class that the config names
arguments = network.arguments(config_json, source)   # of `models`' class, plain and hashable
params = network.table.to_dreamjax(tensors, network.shapes(arguments))
y = network.bind(arguments, params)(x)
"""

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

from dreamjax.errors import UserError
from dreamjax.models.layers import Keys
from dreamjax.weights.config_json import Arguments, Config, class_of
from dreamjax.weights.table import PyTree, Table

Frozen = tuple[tuple[str, Any], ...]  # arguments, hashable

# class in config.json (`_class_name` of diffusers, `architectures` of transformers) → module of dreamjax.weights and
# name of its network
CLASSES = {
    "UNet2DConditionModel": "latent_diffusion.UNET",
    "AutoencoderKL": "latent_diffusion.VAE",
    "CLIPTextModel": "encoders.CLIP_TEXT",
    "CLIPTextModelWithProjection": "encoders.CLIP_TEXT",
    "CLIPVisionModel": "encoders.CLIP_VISION",
    "CLIPVisionModelWithProjection": "encoders.CLIP_VISION",
    "Dinov2Model": "encoders.DINOV2",
    "Dinov2WithRegistersModel": "encoders.DINOV2",
    "ViTModel": "encoders.VIT",
    "ViTForImageClassification": "encoders.VIT",
}
# part of a pipeline → the network that it needs
ROLES = {"unet": "latent_diffusion.UNET", "vae": "latent_diffusion.VAE", "text_encoder": "encoders.CLIP_TEXT"}
# files with two networks, of which either can be read: class → half → network
HALVES = {"CLIPModel": {"text": "encoders.CLIP_TEXT", "vision": "encoders.CLIP_VISION"}}


@dataclass(frozen=True)
class Network:
    """`build(**arguments, rngs=…)` makes the module; `arguments(config_json, source)` reads and checks its config."""

    build: Callable[..., nnx.Module]
    arguments: Callable[[Any, str], Arguments]  # of a config.json, or of tensors by name
    table: Table

    def init(self, arguments: Config, rng: jax.Array) -> PyTree:
        """Return fresh parameters: a nested dict of float32 arrays."""
        return _fresh(self.build, tuple(sorted(arguments.items())))(rng)

    def shapes(self, arguments: Config) -> PyTree:
        """Return the parameters' shapes and types; nothing is allocated."""
        return jax.tree.map(lambda leaf: leaf, _abstract(self.build, tuple(sorted(arguments.items())))[1])

    def bind(self, arguments: Config, params: PyTree) -> Any:
        """Return the module with the given parameters; this costs nothing, also under jit."""
        return nnx.merge(_abstract(self.build, tuple(sorted(arguments.items())))[0], params)


@functools.lru_cache(maxsize=64)
def _fresh(build: Callable[..., nnx.Module], arguments: Frozen) -> Callable[[jax.Array], PyTree]:
    """Return `rng → parameters`, traced once."""

    def fresh(rng: jax.Array) -> PyTree:
        return nnx.to_pure_dict(nnx.state(build(**dict(arguments), rngs=Keys(rng)), nnx.Param))

    return jax.jit(fresh)


@functools.lru_cache(maxsize=64)
def _abstract(build: Callable[..., nnx.Module], arguments: Frozen) -> tuple[nnx.GraphDef, PyTree]:
    """Return the module's graph and its parameters' shapes; building a module takes up to a second."""
    module = nnx.eval_shape(lambda: build(**dict(arguments), rngs=Keys(jax.random.key(0))))
    graph, params = nnx.split(module, nnx.Param)
    return graph, nnx.to_pure_dict(params)


def of(config: Config, source: str, half: str | None = None) -> Network:
    """Return the network of a config.json; for a class in `HALVES`, that of one half.

    Raises UserError for an unknown class, and for a half that is missing or unknown.
    """
    name = class_of(config)
    if name in HALVES and half not in HALVES[name]:
        halves = " or the ".join(HALVES[name])
        raise UserError(f"{source} describes a {name}, of which dreamjax reads the {halves} half; choose one")
    network = HALVES[name][half] if name in HALVES and half is not None else CLASSES.get(name or "")
    if network is None:
        raise UserError(f"{source} describes a {name or 'model without a class'}; dreamjax has {', '.join(CLASSES)}")
    module, attribute = network.split(".")
    return getattr(importlib.import_module(f"dreamjax.weights.{module}"), attribute)
