"""Small encoders: EEGProject, ENIGMA, and SAMGA's router of image layers.

Shape letters: B batch, C channels (sensors), T samples, L layers of the image network, D width, F features.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from dreamjax.models.brain_layers import ResidualProjector, TemporalSpatial, Trials, shares, split
from dreamjax.models.layers import Keys


class EEGProject(nnx.Module):
    """The encoder of UBP (Wu et al., CVPR 2025), Shallow Alignment, NeuroBridge and SAMGA: the flat signal, projected.

    17 sensors × 250 samples = 4250 → 1024 → 1024, dropout 0.3; channels outside, samples inside.
    """

    def __init__(self, *, channels: int, samples: int, features: int, rngs: Keys, rate: float = 0.3):
        self.projector = ResidualProjector(channels * samples, features, rate=rate, rngs=rngs)

    def __call__(self, inputs: Trials, key: Array | None = None) -> Float[Array, "B F"]:
        """Return the vectors of trials; `key`: of dropout, in training."""
        return self.projector(inputs.good.reshape(len(inputs.signal), -1), key)


class ENIGMA(nnx.Module):
    """ENIGMA (arXiv 2602.10361): a linear map of time for each person, a small CNN that all share, and a projector.

    The CNN is `TemporalSpatial` with kernel 5, pool 17 and 4 outputs: 46 · 4 = 184 numbers of 250 samples. Maps start
    as PyTorch's linear layers do; of an unknown person (-1) the mean of all maps.
    """

    def __init__(
        self,
        *,
        channels: int,
        samples: int,
        features: int,
        people: int,
        rngs: Keys,
        dim: int = 40,
        embedding: int = 4,
        rate: float = 0.5,
    ):
        bound = samples**-0.5

        def uniform(*shape: int) -> nnx.Param:
            return nnx.Param(jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound))

        self.kernel, self.bias = uniform(people, samples, samples), uniform(people, samples)
        sizes: dict[str, Any] = {"kernel": 5, "pool": 17, "dim": dim, "dim_out": embedding, "rate": rate}
        self.tsconv = TemporalSpatial(channels, rngs=rngs, **sizes)
        flat = self.tsconv.windows(samples) * embedding
        self.projector = ResidualProjector(flat, features, rate=rate, rngs=rngs)

    def __call__(self, inputs: Trials, key: Array | None = None) -> Float[Array, "B F"]:
        """Return the vectors of trials; `key`: of dropout, in training."""
        of_block, of_projector = split(key, 2)
        people, samples = self.bias[...].shape
        share_BxS = shares(inputs.subject, people, len(inputs.signal))
        kernel_BxTxT = (share_BxS @ self.kernel[...].reshape(people, -1)).reshape(-1, samples, samples)
        aligned = inputs.good @ kernel_BxTxT + (share_BxS @ self.bias[...])[:, None]
        y = self.tsconv(aligned, of_block, inputs.weight)
        return self.projector(y.reshape(len(y), -1), of_projector)


class LayerRouter(nnx.Module):
    """SAMGA's weights of an image network's layers (arXiv 2604.17782): softmax(global logits + bias of the person).

    The global logits start as -|layer - centre| / spacing, so (20, 24, 28, 32, 36) around 28 as (-2, -1, 0, -1, -2);
    biases start at 0. In training a person's bias is dropped with probability `rate`; evaluating, and for an unknown
    person (-1), the global weights count alone.
    """

    def __init__(self, *, layers: Sequence[int], people: int, centre: int, rate: float = 0.3):
        spacing = min((b - a for a, b in zip(sorted(layers), sorted(layers)[1:], strict=False)), default=1)
        logits = [-abs(layer - centre) / spacing for layer in layers]
        self.logits = nnx.Param(jnp.asarray(logits, jnp.float32))
        self.bias = nnx.Param(jnp.zeros((people, len(logits)), jnp.float32))
        self.rate = rate

    def __call__(self, subject: Int[Array, "B"], key: Array | None = None) -> Float[Array, "B L"]:
        """Return the weights, which sum to 1."""
        logits = jnp.broadcast_to(self.logits[...], (len(subject), self.logits.shape[0]))
        if key is not None:
            kept = jax.random.bernoulli(key, 1 - self.rate, (len(subject), 1)) & (subject >= 0)[:, None]
            known = (subject[:, None] == jnp.arange(self.bias.shape[0])).astype(jnp.float32)
            logits = logits + jnp.where(kept, known @ self.bias[...], 0)
        return jax.nn.softmax(logits, axis=-1)
