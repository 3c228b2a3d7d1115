r"""The demo's U-Net: drawn images of 32 x 32 from their captions, trained from scratch.

    dreamjax train --config configs/image/text_to_image_shapes.py --workdir runs/unet \
        --config.data.folder=runs/images --config.model.vae=runs/vae \
        --config.model.text_encoder=runs/clip/text_encoder \
        --config.model.tokenizer=runs/clip/tokenizer

Latents of 8 x 8 x 4, a context of 16 x 64, 1.0 M parameters. 1,200 steps of 32 images, 172 s on two slow cores: of
120 images the shape, one of ten, is the caption's for 75 %, colour for all, place for 93 %; after the demo's 800
steps shape for 47 %, place for 63 % of 60 (see docs/systems/latent_diffusion.md). The autoencoder and the text encoder
are those that `configs/image/autoencoder_shapes.py` and `configs/image/clip_shapes.py` train; `make demo` does all.
"""

from ml_collections import ConfigDict

from dreamjax.systems.text_to_image import preset


def get_config(folder: str = "", steps: int | None = None) -> ConfigDict:
    """Return the config. `folder`: captioned images; `steps`: optimiser steps."""
    config = preset("shapes")
    config.data.folder = folder
    if steps is not None:
        config.train.steps = steps
    return config
