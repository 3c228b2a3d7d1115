"""A published network together with its weights, on the devices of a mesh."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh

from dreamjax.errors import UserError
from dreamjax.parallel import sharding
from dreamjax.weights import networks, streaming
from dreamjax.weights.config_json import class_of
from dreamjax.weights.networks import Network

PyTree = Any


class Folders(Protocol):
    """What knows the parts of a model: a `PipelineFolder`, or several folders taken together."""

    def path(self, name: str) -> epath.Path: ...

    def config(self, name: str) -> dict[str, Any]: ...

    def tensors(self, name: str) -> Mapping[str, Any]: ...

    def source(self, name: str) -> str: ...


@dataclass(frozen=True)
class Part:
    """`params` lie on a mesh; a compiled program gets them as its argument and binds them."""

    network: Network
    arguments: Mapping[str, Any]
    params: PyTree

    def bound(self, params: PyTree) -> Any:
        """The module around `params`."""
        return self.network.bind(self.arguments, params)


def open_part(
    folders: Folders,
    name: str,
    mesh: Mesh,
    *,
    params: PyTree | None = None,
    dtype: Any = jnp.float32,
    attention: str = "auto",
    weights: bool = True,
) -> Part:
    """A network with its weights streamed onto `mesh`, or with `params`; computed in `dtype`, its matrices kept in it.

    Without `weights`, where each would lie in place of it: enough to compile with, for devices that are not here.
    Raises UserError for a config that is not supported and weights that do not fit it.
    """
    source = folders.source(name)
    config = folders.config(name)
    network = networks.of(config, source)
    if (wanted := networks.ROLES.get(name)) and networks.MODULES.get(class_of(config) or "") != wanted:
        classes = " or ".join(cls for cls, module in networks.MODULES.items() if module == wanted)
        raise UserError(
            f"{source} describes a {class_of(config)}, but what a pipeline has as {name} is of class {classes}"
        )
    arguments = network.arguments(config, source) | {"dtype": dtype, "attention": attention}
    if params is None:
        abstract = placed(network.shapes(arguments), mesh, dtype)
        params = abstract
        if weights:
            params = streaming.source(network.table, folders.tensors(name), str(folders.path(name)))(abstract)
    return Part(network, arguments, params)


def placed(shapes: PyTree, mesh: Mesh, dtype: Any = jnp.float32) -> PyTree:
    """Where and as what each parameter is kept: matrices in `dtype`, vectors in float32."""
    places = sharding.shardings(shapes, mesh)

    def abstract(leaf: Any, place: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, dtype if leaf.ndim > 1 else leaf.dtype, sharding=place)

    return jax.tree.map(abstract, shapes, places)
