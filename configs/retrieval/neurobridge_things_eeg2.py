r"""NeuroBridge on THINGS-EEG2: 17 channels, repetitions averaged, four changed views of the images.

    dreamjax train --config configs/retrieval/neurobridge_things_eeg2.py:person=PERSON --workdir runs/neurobridge \
        --config.data.path=runs/things --config.target.images=images
    dreamjax compare --systems neurobridge --protocol paper --data runs/things --images images \
        --target openai/clip-vit-large-patch14 --workdir runs/neurobridge_table \
        --set data.scaling=none --set data.clip=0 \
        --set "data.channels=[P7,P5,P3,P1,Pz,P2,P4,P6,P8,PO7,PO3,POz,PO4,PO8,O1,Oz,O2]" \
        --set neurobridge.model.variant=as_released

PERSON is a pseudonym of the dataset. Published, 200-way, mean of ten people: 63.2 / 89.9 % (top-1 / top-5), of the
epoch with the lowest *test* loss and a gallery of changed views; a third party got 35 to 45 % for the best person with
the clean stimuli (a re-run of the released code). `model.variant` is as_released here: scale 2.727, a linear map behind
the encoder. The published vision model is CLIP's ResNet-50. Hardware: one GPU, or CPU cores; not measured.
"""

from ml_collections import ConfigDict

from dreamjax import config as configs
from dreamjax.signals.recordings.corpora.things_layouts import CHANNELS_17
from dreamjax.systems.neurobridge import NeurobridgeConfig


def get_config(path: tuple[str, ...] = (), person: str = "", images: str = "") -> ConfigDict:
    """Return the config. `path`: dataset folders; `person`: a pseudonym (default: all); `images`: their folder."""
    config = configs.to_config_dict(NeurobridgeConfig())
    config.data.update({"scaling": "none", "clip": 0.0})  # the files are whitened
    config.data.channels = CHANNELS_17
    config.model.variant = "as_released"
    config.data.update({"path": path, "people": (person,) if person else ()})
    config.target.update({"path": "openai/clip-vit-large-patch14", "images": images})
    return config
