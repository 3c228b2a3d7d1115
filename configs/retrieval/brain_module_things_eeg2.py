r"""Meta's brain module on THINGS-EEG2 as NeuralBench trains it: ten people, who are not told apart.

    dreamjax train --config configs/retrieval/brain_module_things_eeg2.py --workdir runs/brain_module \
        --config.data.path=runs/things --config.target.images=images
    dreamjax compare --systems brain_module:meg_neuralbench,eegnet,shallow_fbcsp,deep4 \
        --protocol neuralbench --data runs/things --images images \
        --target facebook/dinov2-giant --workdir runs/brain_module_table --layer 26 --pooling tokens

Published (NeuralBench, neuroai af8ce00), 200-way, repetitions averaged within a person: 84.5 ± 1.2 % top-5 with layer
26 of DINOv2-giant (mean of the tokens, 518 pixels), of the epoch that is best on the end of each recording. Its trials
begin 0.2 s before the image (`prepare raw_data --tmin -0.2`). Hardware: one GPU; not measured.
"""

from ml_collections import ConfigDict

from dreamjax import config as configs
from dreamjax.systems.brain_module import PRESETS


def get_config(path: tuple[str, ...] = (), person: str = "", images: str = "") -> ConfigDict:
    """Return the config. `path`: dataset folders; `person`: a pseudonym (default: all); `images`: their folder."""
    config = configs.to_config_dict(PRESETS["meg_neuralbench"])
    config.target.update({"layer": 26, "pooling": "tokens"})
    config.data.update({"path": path, "people": (person,) if person else ()})
    config.target.update({"path": "facebook/dinov2-giant", "images": images})
    return config
