"""Masked pretraining of a ViT-B encoder, for one accelerator host.

    dreamjax train --config configs/pretrain/base.py --workdir gs://…/base --config.data.path=gs://…/shards

92.7 M parameters with the decoder, bfloat16, scattered patches and spans of 250 ms, 0.75 hidden. One window costs
22.8 GFLOP forward and backward; 200,000 steps of 1,024 windows are 4.67 EFLOP. `dreamjax inspect` estimates 33 GiB of
activations for 1,024 windows on one device: spread them (`--config.train.mesh.data=8`), or
`--config.model.remat=full`. Not run at full size by this project.
"""

from ml_collections import ConfigDict

from dreamjax.systems.masked_presets import preset


def get_config(path: tuple[str, ...] = (), steps: int | None = None) -> ConfigDict:
    """Return the config. `path`: dataset folders; `steps`: optimiser steps."""
    config = preset("base")
    config.data.path = path
    if steps is not None:
        config.train.steps = steps
    return config
