"""NICE's encoder of EEG: convolution in time, over sensors, and a projector (Song et al., ICLR 2024, arXiv 2308.13234).

Optionally attention over sensors comes first. The released code of both kinds does not do what the paper says:
self-attention multiplies each sensor by the sum of its weights, which is 1, and the graph's edges only connect the
sensors of the first trial of a batch. `released=True` computes that: sensors that do not mix.

Shape letters: B batch, C channels (sensors), T samples, S windows in time, O width, F features.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from dreamjax.models.brain_layers import Affine, ResidualProjector, TemporalSpatial, Trials, dropout, split
from dreamjax.models.layers import Keys, LayerNorm

SensorAttention = Literal["none", "self", "graph"]
POOL = 30  # samples: by their number in a trial the released code scales the attention's logits


class NormalisedMap(nnx.Module):
    """dropout(LayerNorm(x W + b)), b zero at first."""

    def __init__(self, dim: int, *, rngs: Keys, rate: float, normal: bool):
        self.fc, self.norm = Affine(dim, dim, rngs=rngs, normal=normal), LayerNorm(dim, dtype=jnp.float32)
        self.fc.bias[...] = jnp.zeros(dim, jnp.float32)
        self.rate = rate

    def __call__(self, x: Float[Array, "B T D"], key: Array | None) -> Float[Array, "B T D"]:
        return dropout(self.norm(self.fc(x)), self.rate, key)


class ChannelSelfAttention(nnx.Module):
    """x + projection(softmax(q k' / √(T // 30)) LayerNorm(x)): each sensor a mixture of all (NICE, section 2.3).

    Queries and keys are linear maps over the sensors at every sample, with a LayerNorm; so is the projection.
    """

    def __init__(self, channels: int, samples: int, *, rngs: Keys, rate: float, released: bool, normal: bool):
        self.norm = LayerNorm(samples, dtype=jnp.float32)
        maps = [NormalisedMap(channels, rngs=rngs, rate=rate, normal=normal) for _ in range(3)]
        self.query, self.key, self.projection = maps
        self.rate, self.released = rate, released

    def __call__(self, x_BxCxT: Float[Array, "B C T"], key: Array | None = None) -> Float[Array, "B C T"]:
        of_query, of_key, of_projection, of_output = split(key, 4)
        mixed_BxTxC = self.norm(x_BxCxT).swapaxes(1, 2)
        if not self.released:
            queries = self.query(mixed_BxTxC, of_query)
            keys = self.key(mixed_BxTxC, of_key)
            scale = max(1, x_BxCxT.shape[-1] // POOL) ** -0.5
            weights_BxCxC = jax.nn.softmax(scale * queries.swapaxes(1, 2) @ keys, axis=-1)
            mixed_BxTxC = mixed_BxTxC @ weights_BxCxC.swapaxes(1, 2)
        y = self.projection(mixed_BxTxC, of_projection)
        return x_BxCxT + dropout(y.swapaxes(1, 2), self.rate, of_output)


class ChannelGraphAttention(nnx.Module):
    """x + Σ_j α_ij W x_j + b over all sensors j; α_i is the softmax of LeakyReLU(s·W x_j + t·W x_i).

    One head of a graph attention network (Veličković et al. 2018, arXiv 1710.10903) on the complete graph.
    """

    def __init__(self, samples: int, *, rngs: Keys, rate: float, released: bool, normal: bool):
        glorot = nnx.initializers.xavier_uniform()
        self.fc = Affine(samples, samples, rngs=rngs, bias=False, normal=normal)
        if not normal:
            self.fc.kernel[...] = glorot(rngs.params(), (samples, samples), jnp.float32)
        self.source, self.target = (nnx.Param(glorot(rngs.params(), (1, samples), jnp.float32)[0]) for _ in range(2))
        self.bias = nnx.Param(jnp.zeros(samples, jnp.float32))
        self.rate, self.released = rate, released

    def __call__(self, x_BxCxT: Float[Array, "B C T"], key: Array | None = None) -> Float[Array, "B C T"]:
        mapped_BxCxT = self.fc(x_BxCxT)
        if not self.released:
            source, target = mapped_BxCxT @ self.source[...], mapped_BxCxT @ self.target[...]
            scores_BxCxC = jax.nn.leaky_relu(target[:, :, None] + source[:, None], 0.2)
            mapped_BxCxT = jax.nn.softmax(scores_BxCxC, axis=-1) @ mapped_BxCxT
        return x_BxCxT + dropout(mapped_BxCxT + self.bias[...], self.rate, key)


class TSConv(nnx.Module):
    """NICE's encoder (section 2.2 and table 5 of its paper): `TemporalSpatial`, flattened, and a projector to F.

    All sizes are as published: 63 sensors × 250 samples give 36 positions × 40 = 1440 numbers, projected to 768.
    `attention`: over sensors before it, self-attention or a graph's, with dropout `attention_rate`. Kernels start as
    N(0, 0.02), as in the released code; `normal=False`: as PyTorch's layers do.
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
        attention: SensorAttention = "none",
        attention_rate: float = 0.3,
        released: bool = False,
    ):
        kind: dict[str, Any] = {"rate": attention_rate, "released": released, "normal": normal, "rngs": rngs}
        if attention == "self":
            self.attention: nnx.Module = ChannelSelfAttention(channels, samples, **kind)
        elif attention == "graph":
            self.attention = ChannelGraphAttention(samples, **kind)
        self.attends = attention != "none"
        self.tsconv = TemporalSpatial(channels, rngs=rngs, dim=dim, dim_out=embedding, rate=rate, normal=normal)
        flat = self.tsconv.windows(samples) * embedding
        self.projector = ResidualProjector(flat, features, rate=rate, rngs=rngs, normal=normal)

    def __call__(self, inputs: Trials, key: Array | None = None) -> Float[Array, "B F"]:
        """Return the vectors of trials; `key`: of dropout, in training."""
        of_attention, of_block, of_projector = split(key, 3)
        x_BxCxT = inputs.good
        if self.attends:
            x_BxCxT = self.attention(x_BxCxT, of_attention)  # type: ignore[operator]
        y_BxSxO = self.tsconv(x_BxCxT, of_block, inputs.weight)
        return self.projector(jnp.reshape(y_BxSxO, (len(y_BxSxO), -1)), of_projector)
