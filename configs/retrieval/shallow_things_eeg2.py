r"""Shallow Alignment on THINGS-EEG2: 17 channels, repetitions averaged, a middle layer of CLIP.

    dreamjax train --config configs/retrieval/shallow_things_eeg2.py:person=PERSON --workdir runs/shallow \
        --config.data.path=runs/things --config.target.images=images
    dreamjax compare --systems shallow --protocol paper --data runs/things --images images \
        --target laion/CLIP-ViT-H-14-laion2B-s32B-b79K --workdir runs/shallow_table --layer 11 --pooling patches \
        --set data.scaling=none --set data.clip=0 \
        --set "data.channels=[P7,P5,P3,P1,Pz,P2,P4,P6,P8,PO7,PO3,POz,PO4,PO8,O1,Oz,O2]"

PERSON is a pseudonym of the dataset. Published, 200-way, mean of ten people: 82.6 / 97.7 % (top-1 / top-5) with layer
28 of InternViT-6B, 68.6 % top-1 with layer 6 of ViT-B/16, 76.8 % with layer 11 of ViT-H/14. The layer was chosen on the
test images, so take it from here and not from a sweep over the test set. InternViT-6B is too large to run here: give
its vectors as a file. Hardware: one GPU, or CPU cores; not measured.
"""

from ml_collections import ConfigDict

from dreamjax import config as configs
from dreamjax.signals.recordings.corpora.things_layouts import CHANNELS_17
from dreamjax.systems.shallow import ShallowConfig


def get_config(path: tuple[str, ...] = (), person: str = "", images: str = "") -> ConfigDict:
    """Return the config. `path`: dataset folders; `person`: a pseudonym (default: all); `images`: their folder."""
    config = configs.to_config_dict(ShallowConfig())
    config.data.update({"scaling": "none", "clip": 0.0})  # the files are whitened
    config.data.channels = CHANNELS_17
    config.target.update({"layer": 11, "pooling": "patches"})
    config.data.update({"path": path, "people": (person,) if person else ()})
    config.target.update({"path": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "images": images})
    return config
