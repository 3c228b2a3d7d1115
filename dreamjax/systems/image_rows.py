"""The image of a training run on images: rows of them, one below the other."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dreamjax.parallel import processes
from dreamjax.training.task import PyTree


def computed(function: Callable[..., jax.Array], params: PyTree, x: np.ndarray) -> np.ndarray:
    """`function(params, x)` on the host. Every process of a run takes part, as the parameters are spread over all."""
    place = jax.tree.leaves(params)[0].sharding
    whole = NamedSharding(place.mesh, P()) if isinstance(place, NamedSharding) else place
    return np.asarray(jax.jit(function, out_shardings=whole)(params, x))


def figure(rows: Mapping[str, np.ndarray]) -> Any:
    """A matplotlib figure of `title → uint8 (n, H, W, 3)`; None for all processes but the first."""
    if not processes.is_first():
        return None
    from matplotlib.figure import Figure

    columns = min(len(images) for images in rows.values())
    fig = Figure(figsize=(1.6 * columns, 1.6 * len(rows)), layout="constrained")
    axes = fig.subplots(len(rows), columns, squeeze=False)
    for line, (title, images) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(title)
        for axis, image in zip(line, images, strict=False):
            axis.imshow(image, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
    return fig
