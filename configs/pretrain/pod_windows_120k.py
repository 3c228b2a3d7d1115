"""DreamDiffusion's stage A on 120,000 windows, as many as were published, on a slice of 64 TPU chips.

    dreamjax train --config configs/pretrain/pod_windows_120k.py --workdir gs://…/120k --config.data.path=gs://…/eeg

As `pod_trials_12k.py`, of 500 epochs of 120,000 windows in batches of 4,096; 4.85 EFLOP in all. The published corpus
was never named.

    topology   v5e-64 (v5e:8x8), data 8, fsdp 8  batch    4,096 windows, 64 a chip
    compiled   4.41 of 15.75 GiB a chip          crosses  as on 8 chips; an eighth of the gradients over data
    predicted  102 to 135 ms a step, MFU 19 to 26 %; 14,648 steps: 0.41 to 0.55 hours, 26 to 35 chip-hours

Not run at full size by this project. The figures are `tests/recipes/windows_120k.json`'s, which `make test-pods` holds.
"""

from ml_collections import ConfigDict

from dreamjax.systems.masked_presets import preset

WINDOWS, EPOCHS, BATCH = 120_000, 500, 4096


def get_config(path: tuple[str, ...] = (), steps: int | None = None) -> ConfigDict:
    """Return the config. `path`: dataset folders; `steps`: optimiser steps."""
    config = preset("dreamdiffusion_paper")
    config.data.path = path
    config.train.batch_size, config.train.mesh.fsdp = BATCH, 8
    config.train.steps = WINDOWS * EPOCHS // BATCH if steps is None else steps
    config.optim.warmup_steps = WINDOWS * 40 // BATCH
    config.train.eval_every = config.train.checkpoint.every = 500
    return config
