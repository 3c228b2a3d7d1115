"""DreamDiffusion's stage A on the 12,000 trials of EEG-ImageNet, on eight chips of one TPU host."""

from ml_collections import ConfigDict

from dreamjax.systems.masked_pretraining import preset

TRIALS, EPOCHS, BATCH = 11_965, 500, 512


def get_config(path: tuple[str, ...] = (), steps: int | None = None) -> ConfigDict:
    """`path`: dataset folders; `steps`: optimiser steps."""
    config = preset("dreamdiffusion_paper")
    config.data.path = path
    config.train.batch_size, config.train.mesh.fsdp = BATCH, 8
    config.train.steps = TRIALS * EPOCHS // BATCH if steps is None else steps
    config.optim.warmup_steps = TRIALS * 40 // BATCH
    config.train.eval_every = config.train.checkpoint.every = 500
    return config
