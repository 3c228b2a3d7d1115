"""DreamDiffusion's stage A on 120,000 windows, as many as were published, on a slice of 64 TPU chips."""

from ml_collections import ConfigDict

from dreamjax.systems.masked_pretraining import preset

WINDOWS, EPOCHS, BATCH = 120_000, 500, 4096


def get_config(path: tuple[str, ...] = (), steps: int | None = None) -> ConfigDict:
    """`path`: dataset folders; `steps`: optimiser steps."""
    config = preset("dreamdiffusion_paper")
    config.data.path = path
    config.train.batch_size, config.train.mesh.fsdp = BATCH, 8
    config.train.steps = WINDOWS * EPOCHS // BATCH if steps is None else steps
    config.optim.warmup_steps = WINDOWS * 40 // BATCH
    config.train.eval_every = config.train.checkpoint.every = 500
    return config
