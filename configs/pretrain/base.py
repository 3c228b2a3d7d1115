"""base (recipe to follow)."""

from ml_collections import ConfigDict

from dreamjax.systems.masked_pretraining import preset


def get_config(path: tuple[str, ...] = (), steps: int | None = None) -> ConfigDict:
    """`path`: dataset folders; `steps`: optimiser steps."""
    config = preset("base")
    config.data.path = path
    if steps is not None:
        config.train.steps = steps
    return config
