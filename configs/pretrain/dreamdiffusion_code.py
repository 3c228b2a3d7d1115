"""DreamDiffusion stage A as released (github.com/bbaaii/DreamDiffusion): mlp ratio 1, mask 0.1.

    dreamjax train --config configs/pretrain/dreamdiffusion_code.py --workdir gs://…/code --config.data.path=gs://…/eeg

The published corpus of 120,000 windows was never named. In its place, the trials of EEG-ImageNet themselves
(docs/guides/eeg_imagenet.md), of which only those to train on are read:

    dreamjax prepare eeg_5_95_std.pth --out TRIALS --reading dreamdiffusion --split-by subject --hold-out 4

The montage is repeated to 128 channels, windows are stretched to 512 samples, signals divided by 10 µV. Parameters
165.38 M, of which the encoder 151.90 M (both with the fixed positions). One window costs 120.4 GFLOP forward and
backward: at 0.1 the encoder sees 115 of 128 patches. 600,000 steps of 100 windows (500 epochs of 120,000, of which 40
warm up) are 7.23 EFLOP. Published with this encoder: 50-way top-1 of 45.8 % on subject 4 after stage B (± 7.6 points
on 164 images). Not run at full size by this project.

Compiled and not run (docs/scaling.md): of one 16 GiB chip 11.08 with `--config.train.microbatches=2`; 100 windows at
once do not fit.
"""

from ml_collections import ConfigDict

from dreamjax.systems.masked_presets import preset


def get_config(path: tuple[str, ...] = (), steps: int | None = None) -> ConfigDict:
    """Return the config. `path`: dataset folders; `steps`: optimiser steps."""
    config = preset("dreamdiffusion_code")
    config.data.path = path
    if steps is not None:
        config.train.steps = steps
    return config
