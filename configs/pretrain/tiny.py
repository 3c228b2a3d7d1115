"""Masked pretraining in a minute: the size that tests and the demo train.

    dreamjax train --config configs/pretrain/tiny.py --workdir runs/tiny --config.data.path=runs/shards

0.15 M parameters, 19 electrodes of the 10-20 system, 2 s at 256 Hz in patches of 4 samples, 0.75 hidden at random.
One window costs 0.056 GFLOP forward and backward. 300 steps of 32 windows on two CPU cores: minutes, most of them the
compiler's. It shows that everything works; its reconstructions are not worth quoting.
"""

from ml_collections import ConfigDict

from dreamjax.systems.masked_presets import preset


def get_config(path: tuple[str, ...] = (), steps: int | None = None) -> ConfigDict:
    """Return the config. `path`: dataset folders; `steps`: optimiser steps."""
    config = preset("tiny")
    config.data.path = path
    if steps is not None:
        config.train.steps = steps
    return config
