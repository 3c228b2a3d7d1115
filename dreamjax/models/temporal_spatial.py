"""NICE's encoder of EEG: convolution in time, over sensors, and a projector (Song et al., ICLR 2024, arXiv 2308.13234).

Shape letters: B batch, C channels (sensors), T samples, S windows in time, O width, F features.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from dreamjax.models.brain_layers import ResidualProjector, TemporalSpatial, Trials, split
from dreamjax.models.layers import Keys


class TSConv(nnx.Module):
    """NICE's encoder (section 2.2 and table 5 of its paper): `TemporalSpatial`, flattened, and a projector to F.

    All sizes are as published: 63 sensors × 250 samples give 36 positions × 40 = 1440 numbers, projected to 768.
    Kernels start as N(0, 0.02), as in the released code; `normal=False`: as PyTorch's layers do.
    """

    def __init__(
        self,
        *,
        channels: int,
        samples: int,
        features: int,
        rngs: Keys,
        dim: int = 40,
        embedding: int = 40,
        rate: float = 0.5,
        normal: bool = True,
    ):
        self.tsconv = TemporalSpatial(channels, rngs=rngs, dim=dim, dim_out=embedding, rate=rate, normal=normal)
        flat = self.tsconv.windows(samples) * embedding
        self.projector = ResidualProjector(flat, features, rate=rate, rngs=rngs, normal=normal)

    def __call__(self, inputs: Trials, key: Array | None = None) -> Float[Array, "B F"]:
        """Return the vectors of trials; `key`: of dropout, in training."""
        of_block, of_projector = split(key, 2)
        y_BxSxO = self.tsconv(inputs.good, of_block, inputs.weight)
        return self.projector(jnp.reshape(y_BxSxO, (len(y_BxSxO), -1)), of_projector)
