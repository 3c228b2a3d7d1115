r"""ENIGMA on THINGS-EEG2: 63 channels, single trials of all people, OpenCLIP ViT-H/14.

    dreamjax train --config configs/retrieval/enigma_things_eeg2.py --workdir runs/enigma \
        --config.data.path=runs/things --config.target.images=images
    dreamjax compare --systems enigma --protocol honest --data runs/things --images images \
        --target laion/CLIP-ViT-H-14-laion2B-s32B-b79K --workdir runs/enigma_table \
        --set data.scaling=none --set data.clip=0 --people joint

Its publication scores reconstructed images; no retrieval figure was found. One model has a map of time for each of ten
people. 0.66 M trials an epoch, 1,293 steps of 512. Hardware: one GPU; not measured.
"""

from ml_collections import ConfigDict

from dreamjax import config as configs
from dreamjax.systems.enigma import EnigmaConfig


def get_config(path: tuple[str, ...] = (), person: str = "", images: str = "") -> ConfigDict:
    """Return the config. `path`: dataset folders; `person`: a pseudonym (default: all); `images`: their folder."""
    config = configs.to_config_dict(EnigmaConfig())
    config.data.update({"scaling": "none", "clip": 0.0})  # the files are whitened
    config.data.update({"path": path, "people": (person,) if person else ()})
    config.target.update({"path": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "images": images})
    return config
