r"""DreamDiffusion, stage B, ours at the published size.

From the published files to pictures (docs/guides/eeg_imagenet.md):

    dreamjax prepare eeg_5_95_std.pth --out TRIALS --split-by subject --hold-out 4 --stimuli IMAGENET
    dreamjax train --config configs/pretrain/dreamdiffusion.py --workdir ENCODER --config.data.path=TRIALS
    dreamjax train --config configs/image/dreamdiffusion.py --workdir runs/dream \
        --config.data.path=TRIALS --config.target.folder=IMAGENET --config.target.splits=prepared \
        --config.encoder.path=ENCODER --config.model.path=stable-diffusion-v1-5/stable-diffusion-v1-5 \
        --config.target.embedding.path=openai/clip-vit-large-patch14

    pod = "v5e:4x4": 16 chips, fsdp 16, for a plan of memory (docs/scaling.md)
"""

from typing import Literal

from ml_collections import ConfigDict

from dreamjax.systems.dreamdiffusion_presets import planned


def get_config(pod: Literal["none", "v5e:4x4"] = "none", per_chip: int = 8) -> ConfigDict:
    """`pod`: sizes alone on a mesh of its chips, `per_chip` trials each, to be compiled and not run."""
    return planned("ours", pod, per_chip)
