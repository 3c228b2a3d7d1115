"""A billion parameters on 60,000 hours of EEG: two TPU slices of 256 chips, joined by the data-centre network.

    dreamjax train --config configs/pretrain/pod_corpus_60000h.py --workdir gs://…/eeg-b --config.data.path=gs://…/eeg

The encoder has 1,133.6 M parameters (width 1536, 40 layers), 1,191.6 M with the decoder; 19 electrodes, windows of 2 s,
of which scattered patches or spans of 250 ms, three quarters, are hidden; bfloat16, an averaged copy. Four epochs of
108 M windows in batches of 16,384. 270 GFLOP a window, 116.8 EFLOP in all.

    topology   2 x v5e-256, data 32, fsdp 16     batch    16,384 windows, 32 a chip
    compiled   5.94 of 15.75 GiB a chip          crosses  4.4 GiB each of gradients and kernels; 21 MiB between slices
    predicted  134 to 247 ms a step, MFU 18 to 33 %; 26,367 steps: 0.98 to 1.81 hours, 501 to 926 chip-hours

On H200s with 256 windows a GPU, fsdp over all of them:

    pod=h200-8     compiled 31.80 of 98.49 GiB   predicted 138 to 192 ms a step, MFU 36 to 51 %; 65 to 90 GPU-hours
    pod=h200-64    compiled 30.43 of 98.49 GiB   predicted 138 to 192 ms a step, MFU 36 to 51 %; 65 to 90 GPU-hours

No public corpus has 60,000 hours, and nothing of this size was run by this project. The figures are those of
`tests/recipes/corpus_60000h*.json`, which `make test-pods` holds.
"""

from typing import Literal

from ml_collections import ConfigDict

from dreamjax.systems.masked_presets import preset

WINDOWS, EPOCHS, BATCH = 60_000 * 3600 // 2, 4, 16_384  # of 2 s


FSDP = {"v5e-256": 16, "h200-8": 8, "h200-64": 64}
BATCHES = {"h200-8": 2048}  # on fewer chips, fewer windows a step


def get_config(
    pod: Literal["v5e-256", "h200-8", "h200-64"] = "v5e-256", path: tuple[str, ...] = (), steps: int | None = None
) -> ConfigDict:
    """Return the config. `pod`: the chips; `path`: dataset folders; `steps`: optimiser steps."""
    config = preset("base")
    config.data.path = path
    config.model.dim, config.model.depth, config.model.heads = 1536, 40, 24
    config.model.decoder_dim, config.model.decoder_depth, config.model.decoder_heads = 768, 8, 12
    config.optim.learning_rate, config.optim.warmup_steps = 3e-4, 1_000
    config.model.scan_layers = not pod.startswith("h200")  # on GPUs the loop copies what the backward pass needs
    batch = BATCHES.get(pod, BATCH)
    config.train.batch_size, config.train.mesh.fsdp = batch, FSDP[pod]
    config.train.steps = WINDOWS * EPOCHS // batch if steps is None else steps
    config.train.eval_every = config.train.checkpoint.every = 1_000
    return config
