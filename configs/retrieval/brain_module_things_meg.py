r"""Meta's brain module on THINGS-MEG: four people in one model, 272 sensors, -0.5 to 1 s at 120 Hz.

    dreamjax train --config configs/retrieval/brain_module_things_meg.py --workdir runs/brain_module \
        --config.data.path=runs/things_meg --config.target.images=images
    dreamjax compare --systems brain_module:meg_paper --protocol paper --data runs/things_meg --images images \
        --target openai/clip-vit-large-patch14 --workdir runs/brain_module_table --people joint

Published (table S3 and section 3.1), 200 test images, predictions averaged over 12 repetitions: 68.7 ± 2.8 % top-5 with
CLIP, 70.3 ± 2.8 % with VGG-19, of the epoch with the best validation loss (patience 10). A public re-implementation got
46.8 %, so 45 to 70 % is what a faithful run can give. 6.4 M parameters (table S1); 63,000 training trials. Hardware:
one GPU; not measured. Records that `dreamjax prepare` makes of the BIDS folder have their baseline subtracted already.
"""

from ml_collections import ConfigDict

from dreamjax import config as configs
from dreamjax.systems.brain_module import PRESETS


def get_config(path: tuple[str, ...] = (), person: str = "", images: str = "") -> ConfigDict:
    """Return the config. `path`: dataset folders; `person`: a pseudonym (default: all); `images`: their folder."""
    config = configs.to_config_dict(PRESETS["meg_paper"])
    config.data.update({"path": path, "people": (person,) if person else ()})
    config.target.update({"path": "openai/clip-vit-large-patch14", "images": images})
    return config
