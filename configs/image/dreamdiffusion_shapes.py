r"""DreamDiffusion in the small: trials of simulated people who looked at drawn images, and the demo's small U-Net.

    dreamjax train --config configs/image/dreamdiffusion_shapes.py --workdir runs/dream \
        --config.data.path=runs/trials --config.target.folder=runs/recordings/stimuli \
        --config.encoder.path=runs/encoder --config.model.path=runs/pipeline \
        --config.target.embedding.path=runs/clip/image_encoder

400 steps of 32 trials, 77 s on two slow cores. `make demo` runs it; docs/systems/dreamdiffusion.md has the
results.
"""

from ml_collections import ConfigDict

from dreamjax.systems.dreamdiffusion_presets import preset


def get_config(steps: int | None = None) -> ConfigDict:
    """Return the config. `steps`: optimiser steps."""
    config = preset("shapes")
    if steps is not None:
        config.train.steps = steps
    return config
