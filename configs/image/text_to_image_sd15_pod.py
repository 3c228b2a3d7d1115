r"""Stable Diffusion 1.5's U-Net on a TPU pod, 512 x 512: all of it, with AdamW and an averaged copy.

    dreamjax train --config configs/image/text_to_image_sd15_pod.py:pod=v5e:4x4 --workdir gs://…/sd \
        --config.model.path=FOLDER_OR_HUB_ID --config.data.folder=IMAGES

Without a path the U-Net starts from random weights, with an autoencoder and a text encoder of its size (`model.vae`,
`model.text_encoder`, `model.tokenizer`).

    pod         chips   mesh (data x fsdp)   images a chip   images a step
    v5e:4x4        16        1 x 16                 8                128
    v6e:16x16     256       16 x 16                 8               2048, as Stable Diffusion was trained
    h200-1          1        1 x 1                 32                 32
    h200-8          8        1 x 8                 32                256
    h200-64        64        8 x 8                 32               2048

Compiled and not run (docs/scaling.md): on v5e:4x4 a chip needs 10.41 GiB of the 15.75 that it may use, of which 0.82
are state (859.5 M parameters, two moments and the average, in float32); on v6e:16x16 11.13 of 31.25 GiB. At once on
v5e:4x4: 9.31 of 15.75 GiB. Predicted there: 112 to 1,382 ms a step, 15,000 steps 0.47 to 5.76 hours, 7.5 to 92
chip-hours; the upper ends are those of the compiler's least effort (`tests/recipes/text_to_image_sd15.json`). On
h200-1: 42.14 of 98.49 GiB, 216 to 301 ms a step; on h200-8 31.36 of 98.49 GiB, 205 to 289 ms a step, which is 111
to 156 images a second and GPU; on h200-64 31.36 of 98.49 GiB, 220 to 309 ms a step.
"""

from typing import Literal

from ml_collections import ConfigDict

from dreamjax.systems.text_to_image import preset

# pod → (data, fsdp, images a chip)
PODS = {
    "v5e:4x4": (1, 16, 8),
    "v6e:16x16": (16, 16, 8),
    "h200-1": (1, 1, 32),
    "h200-8": (1, 8, 32),
    "h200-64": (8, 8, 32),
}


def get_config(
    pod: Literal["v5e:4x4", "v6e:16x16", "h200-1", "h200-8", "h200-64"] = "v5e:4x4",
    path: str = "",
    folder: str = "",
    steps: int | None = None,
) -> ConfigDict:
    """Return the config. `pod`: topology; `path`: pipeline; `folder`: captioned images; `steps`: optimiser steps."""
    config = preset("sd15")
    data, fsdp, images = PODS[pod]
    config.train.mesh.data, config.train.mesh.fsdp = data, fsdp
    config.train.batch_size = data * fsdp * images
    config.data.folder = folder
    config.model.path, config.model.remat = path, "none"
    config.model.attention = "auto" if pod.startswith("h200") else "pallas"
    if not path:
        config.model.architecture, config.model.start = "sd15", "random"
    if steps is not None:
        config.train.steps = steps
    return config
