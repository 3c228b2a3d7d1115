"""DreamDiffusion stage A as published (arXiv 2306.16934): ViT-L, mlp ratio 4, mask 0.75.

    dreamjax train --config configs/pretrain/dreamdiffusion_paper.py --workdir gs://…/paper --config.data.path=gs://…/eeg

The published corpus of 120,000 windows was never named. In its place, the trials of EEG-ImageNet themselves
(docs/guides/eeg_imagenet.md), of which only those to train on are read:

    dreamjax prepare eeg_5_95_std.pth --out TRIALS --reading dreamdiffusion --split-by subject --hold-out 4

The montage is repeated to 128 channels, windows are stretched to 512 samples, signals divided by 10 µV. Parameters
329.04 M, of which the encoder 302.97 M (both with the fixed positions). One window costs 80.8 GFLOP forward and
backward; 600,000 steps of 100 windows (500 epochs of 120,000, of which 40 warm up) are 4.85 EFLOP. Published with
the released encoder, which has mlp ratio 1: 50-way top-1 of 45.8 % on subject 4 after stage B (± 7.6 points on 164
images). Not run at full size by this project.

Compiled and not run (docs/scaling.md): 14.42 GiB of one 16 GiB chip at 100 windows; 10.93 a chip of v5e:4x4 at 1,600.
"""

from ml_collections import ConfigDict

from dreamjax.systems.masked_presets import preset


def get_config(path: tuple[str, ...] = (), steps: int | None = None) -> ConfigDict:
    """Return the config. `path`: dataset folders; `steps`: optimiser steps."""
    config = preset("dreamdiffusion_paper")
    config.data.path = path
    if steps is not None:
        config.train.steps = steps
    return config
