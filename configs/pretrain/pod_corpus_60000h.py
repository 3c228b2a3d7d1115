"""A billion parameters on 60,000 hours of EEG: two TPU slices of 256 chips, joined by the data-centre network."""

from ml_collections import ConfigDict

from dreamjax.systems.masked_pretraining import preset

WINDOWS, EPOCHS, BATCH = 60_000 * 3600 // 2, 4, 16_384  # of 2 s


def get_config(path: tuple[str, ...] = (), steps: int | None = None) -> ConfigDict:
    """`path`: dataset folders; `steps`: optimiser steps."""
    config = preset("base")
    config.data.path = path
    config.model.dim, config.model.depth, config.model.heads = 1536, 40, 24
    config.model.decoder_dim, config.model.decoder_depth, config.model.decoder_heads = 768, 8, 12
    config.optim.learning_rate, config.optim.warmup_steps = 3e-4, 1_000
    config.train.batch_size, config.train.mesh.fsdp = BATCH, 16
    config.train.steps = WINDOWS * EPOCHS // BATCH if steps is None else steps
    config.train.eval_every = config.train.checkpoint.every = 1_000
    return config
