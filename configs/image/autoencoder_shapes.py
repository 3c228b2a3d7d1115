"""The demo's autoencoder: drawn images of 32 x 32 ⇄ latents of 8 x 8 x 4.

    dreamjax train --config configs/image/autoencoder_shapes.py --workdir runs/ae --config.data.folder=runs/images
    dreamjax export runs/ae --to diffusers --out runs/vae

0.18 M parameters. 600 steps of 8 images: a PSNR of 27.3 dB on held-out images, at which the ten shapes of the demo
can be distinguished, in about a minute on two slow cores, of which the compiler takes 20 s.
Flat shapes on grey are all that it can draw; for photographs it is far too small.
"""

from ml_collections import ConfigDict

from dreamjax.systems.autoencoder import preset


def get_config(folder: str = "", steps: int | None = None) -> ConfigDict:
    """Return the config. `folder`: images; `steps`: optimiser steps."""
    config = preset("shapes")
    config.data.folder = folder
    if steps is not None:
        config.train.steps = steps
    return config
