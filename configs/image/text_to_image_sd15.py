r"""Fine-tuning Stable Diffusion 1.5 (or another pipeline of its kind) on images with captions, 512 x 512.

    dreamjax train --config configs/image/text_to_image_sd15.py --workdir runs/sd \
        --config.model.path=FOLDER_OR_HUB_ID --config.data.folder=IMAGES
    dreamjax export runs/sd --to diffusers --out exported

859.5 M parameters are trained, or with `:trainable=cross_attention` 44.0 M. An image costs 2.41 TFLOP forward and
backward with its attention. Latents and text states are computed once. Not run at full size by this project.
"""

from typing import Literal

from ml_collections import ConfigDict

from dreamjax.systems.text_to_image import preset


def get_config(
    path: str = "", folder: str = "", trainable: Literal["all", "cross_attention"] = "all", steps: int | None = None
) -> ConfigDict:
    """Return the config. `path`: the pipeline; `folder`: captioned images; `trainable`; `steps`: optimiser steps."""
    config = preset("sd15")
    config.model.path, config.model.trainable, config.data.folder = path, trainable, folder
    if steps is not None:
        config.train.steps = steps
    return config
