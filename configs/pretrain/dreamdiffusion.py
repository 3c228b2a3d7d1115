r"""DreamDiffusion stage A, ours: a ViT-B on the trials of EEG-ImageNet, at the rate and scale that stage B keeps.

    dreamjax prepare eeg_5_95_std.pth --out TRIALS --split-by subject --hold-out 4 --stimuli IMAGENET
    dreamjax train --config configs/pretrain/dreamdiffusion.py --workdir ENCODER --config.data.path=TRIALS

Half a second of 128 channels at 256 Hz, each person's own scale, 32 patches of which 24 are hidden; only trials of
split train are read. `--config.data.path="('TRIALS', 'MORE')"` adds corpora of the same channels.

93.08 M parameters, of which the encoder 85.48 M; a window costs 6.08 GFLOP forward and backward, 20,000 steps of 256
are 0.031 EFLOP. For one accelerator. Published with an encoder of these trials' kind: see
`configs/image/dreamdiffusion.py`. Not run at full size by this project.

Compiled and not run (docs/scaling.md): 3.61 GiB of one 16 GiB chip at 256 windows; 2.29 a chip of v5e:4x4 at 4,096.
"""

from ml_collections import ConfigDict

from dreamjax.systems.masked_presets import preset


def get_config(path: tuple[str, ...] = (), steps: int | None = None) -> ConfigDict:
    """Return the config. `path`: dataset folders; `steps`: optimiser steps."""
    config = preset("dreamdiffusion")
    config.data.path = path
    if steps is not None:
        config.train.steps = steps
    return config
