r"""ATM-S on THINGS-EEG2: 63 channels, single trials, OpenCLIP ViT-H/14.

    dreamjax train --config configs/retrieval/atm_things_eeg2.py:person=PERSON --workdir runs/atm \
        --config.data.path=runs/things --config.target.images=images
    dreamjax compare --systems atm --protocol paper --data runs/things --images images \
        --target laion/CLIP-ViT-H-14-laion2B-s32B-b79K --workdir runs/atm_table \
        --set data.scaling=none --set data.clip=0 --set atm.model.variant=as_released

PERSON is a pseudonym of the dataset. Published, 200-way, mean of ten people: 28.5 / 60.4 % (top-1 / top-5, UBP's table;
27.1 / 58.1 % is the mean of the published people), of the epoch that was best on the test set: not what to expect of
the last epoch. `model.variant` is as_released here, with batches of 1,024 as in the paper (the script's default is 64).
66,160 trials a person. Hardware: one GPU; not measured.
"""

from ml_collections import ConfigDict

from dreamjax import config as configs
from dreamjax.systems.atm import AtmConfig


def get_config(path: tuple[str, ...] = (), person: str = "", images: str = "") -> ConfigDict:
    """Return the config. `path`: dataset folders; `person`: a pseudonym (default: all); `images`: their folder."""
    config = configs.to_config_dict(AtmConfig())
    config.data.update({"scaling": "none", "clip": 0.0})  # the files are whitened
    config.model.variant = "as_released"
    config.data.update({"path": path, "people": (person,) if person else ()})
    config.target.update({"path": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "images": images})
    return config
