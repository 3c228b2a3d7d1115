"""DreamDiffusion's stage A on the 12,000 trials of EEG-ImageNet, on the eight chips of one TPU host.

    dreamjax train --config configs/pretrain/pod_trials_12k.py --workdir gs://…/trials --config.data.path=gs://…/eeg

The paper's encoder (329.04 M parameters with the decoder, mask 0.75) and its 500 epochs, of which 40 warm up, of 11,965
trials; in batches of 512, which the paper's 100 do not divide over chips. The trials are prepared as in
`dreamdiffusion_paper.py`. 80.8 GFLOP a window, 0.48 EFLOP in all.

    topology   v5e-8 (v5e:2x4), fsdp 8           batch    512 windows, 64 a chip
    compiled   4.38 of 15.75 GiB a chip          crosses  1.22 GiB of gradients (float32) and of kernels (bfloat16)
    predicted  102 to 127 ms a step, MFU 21 to 26 %; 11,684 steps: 0.33 to 0.41 hours, 2.6 to 3.3 chip-hours

On H200s, with 1,024 and 8,192 windows a step on 8 and 64 (`dreamjax plan --config …:pod=h200-8 --topology h200-8`):

    pod=h200-1     compiled 26.94 of 98.49 GiB    predicted 94 to 131 ms a step, MFU 32 to 44 %
    pod=h200-8     compiled 7.58 of 98.49 GiB     predicted 26 to 40 ms a step, MFU 26 to 41 %
    pod=h200-64    compiled 7.07 of 98.49 GiB     predicted 29 to 44 ms a step, MFU 24 to 36 %

Not run at full size by this project. The figures are those of `tests/recipes/trials_12k*.json`, which `make test-pods`
holds.
"""

from typing import Literal

from ml_collections import ConfigDict

from dreamjax.systems.masked_presets import preset

TRIALS, EPOCHS = 11_965, 500
PODS = {"v5e-8": (512, 8), "h200-1": (512, 1), "h200-8": (1024, 8), "h200-64": (8192, 64)}  # windows a step, fsdp


def get_config(
    pod: Literal["v5e-8", "h200-1", "h200-8", "h200-64"] = "v5e-8",
    path: tuple[str, ...] = (),
    steps: int | None = None,
) -> ConfigDict:
    """Return the config. `pod`: the chips; `path`: dataset folders; `steps`: optimiser steps."""
    config = preset("dreamdiffusion_paper")
    config.data.path = path
    batch, config.train.mesh.fsdp = PODS[pod]
    config.model.scan_layers = pod == "v5e-8"  # on GPUs the loop copies what it keeps for the backward pass
    config.train.batch_size = batch
    config.train.steps = TRIALS * EPOCHS // batch if steps is None else steps
    config.optim.warmup_steps = TRIALS * 40 // batch
    config.train.eval_every = config.train.checkpoint.every = 500
    return config
