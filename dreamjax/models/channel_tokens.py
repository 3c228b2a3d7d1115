"""ATM-S: a transformer whose tokens are sensors, then NICE's convolutions (Li et al., NeurIPS 2024, arXiv 2403.07721).

Shape letters: B batch, C channels (sensors), T samples, N tokens, H heads, K width of a head, D width, F features.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from dreamjax.models.brain_layers import Affine, ResidualProjector, TemporalSpatial, Trials, dropout, split
from dreamjax.models.layers import Keys, LayerNorm, ModuleList, gelu


class TokenAttention(nnx.Module):
    """Multi-head self-attention with dropout of its weights; the heads' width is rounded down to a whole number."""

    def __init__(self, dim: int, heads: int, *, rngs: Keys, rate: float):
        self.inner, self.heads, self.rate = dim // heads * heads, heads, rate
        self.qkv = Affine(dim, 3 * self.inner, rngs=rngs)
        self.out = Affine(self.inner, dim, rngs=rngs)

    def __call__(self, x_BxNxD: Float[Array, "B N D"], key: Array | None = None) -> Float[Array, "B N D"]:
        B, N, _ = x_BxNxD.shape
        q, k, v = jnp.moveaxis(self.qkv(x_BxNxD).reshape(B, N, 3, self.heads, -1), (2, 3), (0, 2))  # (B, H, N, K) each
        weights = jax.nn.softmax(q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5, axis=-1)
        y = (dropout(weights, self.rate, key) @ v).swapaxes(1, 2)
        return self.out(y.reshape(B, N, self.inner))


class TokenBlock(nnx.Module):
    """A transformer block with its normalisations after the sums: norm1(x + attention x), norm2(x + mlp x)."""

    def __init__(self, dim: int, heads: int, hidden: int, *, rngs: Keys, rate: float):
        self.attention = TokenAttention(dim, heads, rngs=rngs, rate=rate)
        self.norm1, self.norm2 = (LayerNorm(dim, dtype=jnp.float32) for _ in range(2))
        self.fc1, self.fc2 = Affine(1, dim, hidden, rngs=rngs), Affine(1, hidden, dim, rngs=rngs)
        self.rate = rate

    def __call__(self, x: Float[Array, "B N D"], key: Array | None = None) -> Float[Array, "B N D"]:
        of_weights, *keys = split(key, 4)
        x = self.norm1(x + dropout(self.attention(x, of_weights), self.rate, keys[0]))
        hidden = dropout(gelu(self.fc1(x)), self.rate, keys[1])
        return self.norm2(x + dropout(self.fc2(hidden), self.rate, keys[2]))


class ATM(nnx.Module):
    """ATM-S: sensors as tokens, one transformer layer, `TemporalSpatial` and a projector (section 3.2).

    `people`: so many have a token of their identity in front, an unknown one (-1) a shared token; 0: no such token.
    The released code keeps the first C tokens after the transformer, so the person's in place of the last sensor's;
    `released=True` does the same.
    """

    def __init__(
        self,
        *,
        channels: int,
        samples: int,
        features: int,
        rngs: Keys,
        people: int = 10,
        heads: int = 4,
        hidden: int = 256,
        depth: int = 1,
        rate: float = 0.25,
        dim: int = 40,
        embedding: int = 40,
        conv_rate: float = 0.5,
        released: bool = False,
    ):
        self.embed = Affine(samples, samples, rngs=rngs)
        if people:
            self.people = nnx.Param(jax.random.normal(rngs.params(), (people, samples), jnp.float32))
            self.shared = nnx.Param(jax.random.normal(rngs.params(), (1, samples), jnp.float32))
        self.blocks = ModuleList(*(TokenBlock(samples, heads, hidden, rngs=rngs, rate=rate) for _ in range(depth)))
        self.norm = LayerNorm(samples, dtype=jnp.float32)
        self.tsconv = TemporalSpatial(channels, rngs=rngs, dim=dim, dim_out=embedding, rate=conv_rate)
        flat = self.tsconv.windows(samples) * embedding
        self.projector = ResidualProjector(flat, features, rate=conv_rate, rngs=rngs)
        self.identified, self.rate, self.released = people > 0, rate, released

    def _of_people(self, subject: Int[Array, "B"] | None, count: int) -> Float[Array, "B 1 D"]:
        number = jnp.full(count, -1) if subject is None else jnp.asarray(subject)
        tokens = jnp.concatenate([self.people[...], self.shared[...]])
        share = jnp.where(number < 0, len(tokens) - 1, number)[:, None] == jnp.arange(len(tokens))
        return (share.astype(jnp.float32) @ tokens)[:, None]

    def __call__(self, inputs: Trials, key: Array | None = None) -> Float[Array, "B F"]:
        """Return the vectors of trials; `key`: of dropout, in training."""
        of_input, of_conv, of_projector, *keys = split(key, 3 + len(self.blocks))
        tokens, channels = self.embed(inputs.good), inputs.signal.shape[1]
        if self.identified:
            tokens = jnp.concatenate([self._of_people(inputs.subject, len(tokens)), tokens], axis=1)
        tokens = dropout(tokens, self.rate, of_input)
        for block, of_block in zip(self.blocks, keys, strict=True):
            tokens = block(tokens, of_block)
        tokens = self.norm(tokens)
        kept = tokens[:, :channels] if self.released else tokens[:, -channels:]
        y = self.tsconv(kept, of_conv, inputs.weight)
        return self.projector(y.reshape(len(y), -1), of_projector)
