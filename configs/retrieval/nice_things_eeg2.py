r"""NICE on THINGS-EEG2: 63 channels, 1 s at 250 Hz, repetitions averaged, CLIP ViT-L/14.

    dreamjax train --config configs/retrieval/nice_things_eeg2.py:person=PERSON --workdir runs/nice \
        --config.data.path=runs/things --config.target.images=images
    dreamjax compare --systems nice --protocol paper --data runs/things --images images \
        --target openai/clip-vit-large-patch14 --workdir runs/nice_table \
        --set data.scaling=none --set data.clip=0

PERSON is a pseudonym of the dataset. Published, 200-way, mean of ten people: 15.6 / 42.8 % (top-1 / top-5, the paper's
abstract; 16.1 / 43.6 % in UBP's table), of the epoch with the lowest loss on 740 held-out images, against class
centres. No last epoch was published; a gallery of the stimuli themselves is the harder question, so expect less. 1.8 M
parameters, 15.3 MFLOP a trial; ten people need 200 epochs of 16 steps each. Hardware: one GPU, or CPU cores; not
measured.
"""

from ml_collections import ConfigDict

from dreamjax import config as configs
from dreamjax.systems.nice import NiceConfig


def get_config(path: tuple[str, ...] = (), person: str = "", images: str = "") -> ConfigDict:
    """Return the config. `path`: dataset folders; `person`: a pseudonym (default: all); `images`: their folder."""
    config = configs.to_config_dict(NiceConfig())
    config.data.update({"scaling": "none", "clip": 0.0})  # the files are whitened
    config.data.update({"path": path, "people": (person,) if person else ()})
    config.target.update({"path": "openai/clip-vit-large-patch14", "images": images})
    return config
