"""Published networks with their weights, on the devices of a mesh."""

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh
from jax.typing import DTypeLike

from dreamjax.errors import UserError
from dreamjax.parallel import sharding
from dreamjax.typing import JsonDict
from dreamjax.weights import networks, streaming
from dreamjax.weights.config_json import Config, class_of
from dreamjax.weights.networks import Network
from dreamjax.weights.table import PyTree, Tensors


class ComponentSource(Protocol):
    """Configs and weights of the components of a model: a `PipelineFolder`, or several folders combined."""

    def path(self, name: str) -> epath.Path: ...

    def config(self, name: str) -> JsonDict: ...

    def tensors(self, name: str) -> Tensors: ...

    def source(self, name: str) -> str: ...


@dataclass(frozen=True)
class LoadedNetwork:
    """A network and its parameters on a mesh; a compiled program takes `params` as its argument and binds them."""

    network: Network
    arguments: Config
    params: PyTree

    def bound(self, params: PyTree) -> Any:
        """Return the module with `params`."""
        return self.network.bind(self.arguments, params)


def load_network(
    folders: ComponentSource,
    name: str,
    mesh: Mesh,
    *,
    params: PyTree | None = None,
    dtype: DTypeLike = jnp.float32,
    attention: str = "auto",
    weights: bool = True,
) -> LoadedNetwork:
    """Return a network with its weights streamed onto `mesh`, or with `params`; matrices are kept in `dtype`.

    Without `weights`, parameters are abstract (shapes and shardings): enough to compile for devices that are not
    attached. Raises UserError for a config that is not supported and weights that do not fit it.
    """
    source = folders.source(name)
    config = folders.config(name)
    network = networks.of(config, source)
    if (wanted := networks.ROLES.get(name)) and networks.MODULES.get(class_of(config) or "") != wanted:
        classes = " or ".join(cls for cls, module in networks.MODULES.items() if module == wanted)
        raise UserError(
            f"{source} describes a {class_of(config)}, but the {name} of a pipeline must be of class {classes}"
        )
    arguments = network.arguments(config, source) | {"dtype": dtype, "attention": attention}
    if params is None:
        abstract = placed(network.shapes(arguments), mesh, dtype)
        params = abstract
        if weights:
            params = streaming.source(network.table, folders.tensors(name), str(folders.path(name)))(abstract)
    return LoadedNetwork(network, arguments, params)


def placed(shapes: PyTree, mesh: Mesh, dtype: DTypeLike = jnp.float32) -> PyTree:
    """Return each parameter's shape, type and sharding: matrices in `dtype`, vectors in float32."""
    places = sharding.shardings(shapes, mesh)

    def abstract(leaf: jax.ShapeDtypeStruct, place: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, dtype if leaf.ndim > 1 else leaf.dtype, sharding=place)

    return jax.tree.map(abstract, shapes, places)
