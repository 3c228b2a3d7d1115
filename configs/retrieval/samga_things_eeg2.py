r"""SAMGA on THINGS-EEG2: 17 channels, repetitions averaged, five layers of a vision model.

    dreamjax train --config configs/retrieval/samga_things_eeg2.py:person=PERSON --workdir runs/samga \
        --config.data.path=runs/things --config.target.images=images
    dreamjax compare --systems samga --protocol paper --data runs/things --images images \
        --target laion/CLIP-ViT-H-14-laion2B-s32B-b79K --workdir runs/samga_table --pooling patches \
        --set data.scaling=none --set data.clip=0 \
        --set "data.channels=[P7,P5,P3,P1,Pz,P2,P4,P6,P8,PO7,PO3,POz,PO4,PO8,O1,Oz,O2]" \
        --set samga.model.layers=[7,9,11,13,15] --set samga.model.centre=11

PERSON is a pseudonym of the dataset. Published, 200-way, mean of ten people: 91.3 / 98.8 % (top-1 / top-5) with layers
20 to 36 of InternViT-6B, stopped and chosen on the test set; an independent run of person 8 fell from 94.8 to 46.5 %
with the epoch of held-out concepts. InternViT-6B does not run here, so the recipe takes five layers of OpenCLIP
ViT-H/14 around its best one, for which no figure was published. Hardware: one GPU, or CPU cores; not measured.
"""

from ml_collections import ConfigDict

from dreamjax import config as configs
from dreamjax.signals.recordings.corpora.things_layouts import CHANNELS_17
from dreamjax.systems.samga import SamgaConfig


def get_config(path: tuple[str, ...] = (), person: str = "", images: str = "") -> ConfigDict:
    """Return the config. `path`: dataset folders; `person`: a pseudonym (default: all); `images`: their folder."""
    config = configs.to_config_dict(SamgaConfig())
    config.data.update({"scaling": "none", "clip": 0.0})  # the files are whitened
    config.data.channels = CHANNELS_17
    config.model.update({"layers": (7, 9, 11, 13, 15), "centre": 11})
    config.target.pooling = "patches"
    config.data.update({"path": path, "people": (person,) if person else ()})
    config.target.update({"path": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "images": images})
    return config
