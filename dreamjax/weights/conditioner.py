"""Name table of the maps from tokens to Stable Diffusion's context: those of DreamDiffusion's checkpoint.

Pointwise convolutions over the tokens' axis are linear maps of ours: their 1 × is left out when they are written.
"""

from dreamjax.models.conditioner import Conditioner
from dreamjax.weights.networks import Network
from dreamjax.weights.table import Table, layer, layers

TABLE = Table(
    *layers("channel_mapper", "", ("0", "token_in"), ("1", "token_out")),
    *layer("dim_mapper", "dim_map"),
    *layer("mapping.maxpool", "embed_tokens"),  # called so, but it is a learned weighted sum
    *layer("mapping.fc", "embed_map"),
    # spelt so; in the checkpoint these three belong to the U-Net
    *layers("time_embed_condtion", "", ("0", "time_in"), ("1", "time_out"), ("2", "time_map")),
)
NETWORK = Network(Conditioner, lambda config, source: dict(config), TABLE)
