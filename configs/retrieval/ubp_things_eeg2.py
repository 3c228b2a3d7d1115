r"""UBP on THINGS-EEG2: 17 channels, repetitions averaged, images blurred by uncertainty.

    dreamjax train --config configs/retrieval/ubp_things_eeg2.py:person=PERSON --workdir runs/ubp \
        --config.data.path=runs/things --config.target.images=images
    dreamjax compare --systems ubp --protocol paper --data runs/things --images images \
        --target openai/clip-vit-large-patch14 --workdir runs/ubp_table \
        --set data.scaling=none --set data.clip=0 \
        --set "data.channels=[P7,P5,P3,P1,Pz,P2,P4,P6,P8,PO7,PO3,POz,PO4,PO8,O1,Oz,O2]"

PERSON is a pseudonym of the dataset. Published, 200-way, mean of ten people: 50.9 / 79.7 % (top-1 / top-5) with one
model a person, of the last checkpoint (training stops on the training loss), with a blurred gallery and CLIP's
ResNet-50; without any blur 42.1 %. Here the vision model is CLIP ViT-L/14, for which no figure was published. The blur
needs a vision model that dreamjax runs: from a file of vectors the system trains without it. 5.4 M parameters with
1,024 numbers an image; 17 steps an epoch. Hardware: one GPU, or CPU cores; not measured.
"""

from ml_collections import ConfigDict

from dreamjax import config as configs
from dreamjax.signals.recordings.corpora.things_layouts import CHANNELS_17
from dreamjax.systems.ubp import UbpConfig


def get_config(path: tuple[str, ...] = (), person: str = "", images: str = "") -> ConfigDict:
    """Return the config. `path`: dataset folders; `person`: a pseudonym (default: all); `images`: their folder."""
    config = configs.to_config_dict(UbpConfig())
    config.data.update({"scaling": "none", "clip": 0.0})  # the files are whitened
    config.data.channels = CHANNELS_17
    config.data.update({"path": path, "people": (person,) if person else ()})
    config.target.update({"path": "openai/clip-vit-large-patch14", "images": images})
    return config
