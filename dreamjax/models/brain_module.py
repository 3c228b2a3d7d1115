"""Meta's brain module: MEG of many people to the space of images (Benchetrit, Banville & King, ICLR 2024).

arXiv 2310.19812, section 2.3 and table S1; after Défossez et al. 2023 (arXiv 2208.12266). Where the paper is silent, as
the authors' open code: the order attention, linear, subject layer; the residual before the GLU; period 5 of dilations.

Shape letters: B batch, C sensors, T samples, P axes of a position, E Fourier features, O attention's outputs, S people,
I/D widths, F features.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from dreamjax.errors import UserError
from dreamjax.models.brain_layers import Affine, BatchNorm, Trials, convolution3, shares
from dreamjax.models.layers import Keys, ModuleList, gelu

Aggregation = Literal["mean", "affine", "attention"]
BOX = 0.15  # metres from the origin along each axis: what 3-D positions are divided by
FREQUENCIES = {2: 32, 3: 10}  # along each axis: 2 · 32² = 2,048 and 2 · 10³ = 2,000 features
MARGIN = 0.2  # beyond the positions' range, since Fourier features are periodic
PERIOD = 5  # of the dilations 1, 2, 4, 8, 16, 1, …


def unit_positions(xyz: Float[Array, "*B C 3"], dims: int) -> Float[Array, "*B C P"]:
    """Return sensor positions in [0, 1]^P; NaN for sensors whose position is unknown (not finite, or the origin).

    2-D: the azimuthal equidistant projection around the vertex, as MNE flattens heads: the polar angle from +z is the
    distance from the centre. Each axis is then scaled by the range of the layout's sensors, as the paper scales them.
    3-D: the cube of ± 0.15 m around the origin, the same for every layout; what lies outside is clipped.
    """
    known = jnp.isfinite(xyz).all(-1, keepdims=True) & (jnp.abs(xyz).max(-1, keepdims=True) > 0)
    if dims == 3:
        return jnp.where(known, jnp.clip((xyz + BOX) / (2 * BOX), 0, 1), jnp.nan)
    xyz = jnp.where(known, xyz, 1.0)
    horizontal = jnp.hypot(xyz[..., :1], xyz[..., 1:2])
    angle = jnp.arctan2(horizontal, xyz[..., 2:])
    flat = angle * xyz[..., :2] / jnp.maximum(horizontal, 1e-12)
    low = jnp.where(known, flat, jnp.inf).min(-2, keepdims=True)
    high = jnp.where(known, flat, -jnp.inf).max(-2, keepdims=True)
    return jnp.where(known, (flat - low) / jnp.maximum(high - low, 1e-12), jnp.nan)


def fourier_features(positions: Float[Array, "*B C P"], frequencies: int) -> Float[Array, "*B C E"]:
    """Return cosines and sines of 2π (k x + l y [+ m z]) / (1 + 2 · margin) over the grid of frequencies k, l[, m]."""
    angles = 2 * math.pi / (1 + 2 * MARGIN) * (positions + MARGIN)[..., None] * jnp.arange(frequencies)
    *axes, grid = jnp.moveaxis(angles, -2, 0)
    for axis in reversed(axes):  # the last axis of the position varies fastest
        grid = (axis[..., None] + grid[..., None, :]).reshape(*grid.shape[:-1], -1)
    return jnp.concatenate([jnp.cos(grid), jnp.sin(grid)], axis=-1)


class SpatialAttention(nnx.Module):
    """Outputs that are weighted means of sensors; the weights are a softmax of learned functions of their positions.

    In training, sensors within `radius` of one random centre in [0, 1]^P are left out. Sensors that are not ok or have
    no position have no weight; an output with no sensor left is 0.
    """

    def __init__(self, outputs: int, dims: int, *, rngs: Keys, radius: float = 0.2):
        features = 2 * FREQUENCIES[dims] ** dims
        scores = jax.random.normal(rngs.params(), (outputs, features), jnp.float32)
        self.heads = nnx.Param(scores * features**-0.5)
        self.dims, self.radius = dims, radius

    def weights(
        self, xyz: Float[Array, "*B C 3"], ok_BxC: Bool[Array, "B C"] | None, key: Array | None
    ) -> Float[Array, "*B O C"]:
        """Return the weights, of the batch or where sensors differ of each trial."""
        positions = jax.lax.stop_gradient(unit_positions(jnp.asarray(xyz), self.dims))
        ok = jnp.isfinite(positions).all(-1)
        positions = jnp.where(ok[..., None], positions, 0)
        scores = self.heads[...] @ fourier_features(positions, FREQUENCIES[self.dims]).swapaxes(-1, -2)
        if key is not None and self.radius:
            centre = jax.random.uniform(key, (self.dims,))
            ok = ok & (jnp.linalg.norm(positions - centre, axis=-1) > self.radius)
        ok = (ok if ok_BxC is None else ok & ok_BxC)[..., None, :]
        scores = jnp.where(ok, scores, -1e30)
        top = jnp.maximum(scores.max(-1, keepdims=True), -1e29)  # without any sensor all exponentials are 0
        exponentials = jnp.exp(scores - jax.lax.stop_gradient(top))
        return exponentials / jnp.maximum(exponentials.sum(-1, keepdims=True), 1e-30)

    def __call__(self, inputs: Trials, key: Array | None = None) -> Float[Array, "B T O"]:
        if inputs.xyz is None:
            raise UserError("spatial attention needs the positions of the sensors, but these trials have none")
        weights = self.weights(inputs.xyz, inputs.channel_ok, key)
        return jnp.einsum("bct,oc->bto" if weights.ndim == 2 else "bct,boc->bto", inputs.good, weights)


class SubjectLayer(nnx.Module):
    """x W_s, a matrix for each person; of an unknown one (-1) the mean of all matrices."""

    def __init__(self, people: int, dim: int, *, rngs: Keys):
        self.weights = nnx.Param(jax.random.normal(rngs.params(), (people, dim, dim), jnp.float32) * dim**-0.5)

    def __call__(self, x_BxTxD: Float[Array, "B T D"], subject: Int[Array, "B"] | None) -> Float[Array, "B T D"]:
        weights = self.weights[...]
        people, dim = weights.shape[:2]
        share_BxS = shares(subject, people, len(x_BxTxD))
        return x_BxTxD @ (share_BxS @ weights.reshape(people, -1)).reshape(-1, dim, dim)


class TimeConv(Affine):
    """Convolution in time of three taps, zeros beyond both ends; kernel (3, I, O)."""

    def __call__(self, x: Float[Array, "B T I"], dilation: int = 1) -> Float[Array, "B T O"]:
        return convolution3(x, self.kernel[...], dilation) + self.bias[...]


class DilatedConv(nnx.Module):
    """GELU(BN(convolution in time of 3 taps)), plus x where the width stays."""

    def __init__(self, dim_in: int, dim: int, dilation: int, *, rngs: Keys):
        self.conv, self.norm = TimeConv(3, dim_in, dim, rngs=rngs), BatchNorm(dim)
        self.dilation, self.stays = dilation, dim_in == dim

    def __call__(
        self, x: Float[Array, "B T I"], key: Array | None, weight: Float[Array, "B"] | None
    ) -> Float[Array, "B T D"]:
        y = gelu(self.norm(self.conv(x, self.dilation), key, weight))
        return x + y if self.stays else y


class DilatedBlock(nnx.Module):
    """Two `DilatedConv` whose dilation doubles, then a convolution of 3 taps with a gate (GLU)."""

    def __init__(self, dim_in: int, dim: int, index: int, *, rngs: Keys):
        first, second = (2 ** (k % PERIOD) for k in (2 * index, 2 * index + 1))
        self.conv1 = DilatedConv(dim_in, dim, first, rngs=rngs)
        self.conv2 = DilatedConv(dim, dim, second, rngs=rngs)
        self.gate = TimeConv(3, dim, 2 * dim, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B T I"], key: Array | None = None, weight: Float[Array, "B"] | None = None
    ) -> Float[Array, "B T D"]:
        x = self.conv2(self.conv1(x, key, weight), key, weight)
        values, gates = jnp.split(self.gate(x), 2, axis=-1)
        return values * jax.nn.sigmoid(gates)


class Projection(nnx.Module):
    """Linear, GELU, linear at every sample, then one vector of all samples (`aggregation`).

    mean; affine: one learned weight for each sample and one bias; attention: Bahdanau's softmax of v·tanh(W y + b). All
    three are linear in the samples once their weights are known, so the wide second layer follows the sum over time:
    181 times fewer operations, equal to rounding.
    """

    def __init__(self, dim: int, dim_out: int, samples: int, aggregation: Aggregation, *, rngs: Keys):
        self.fc1 = Affine(1, dim, 2 * dim, rngs=rngs)
        self.fc2 = Affine(1, 2 * dim, dim_out, rngs=rngs, transposed=True)
        if aggregation == "affine":
            self.time = Affine(samples, 1, rngs=rngs)
        elif aggregation == "attention":
            self.query, self.score = Affine(dim_out, 256, rngs=rngs), Affine(256, 1, rngs=rngs)
        self.aggregation = aggregation

    def __call__(self, x_BxTxD: Float[Array, "B T D"]) -> Float[Array, "B F"]:
        hidden_BxTxH = gelu(self.fc1(x_BxTxD))
        if self.aggregation == "mean":
            return self.fc2(hidden_BxTxH.mean(1))
        if self.aggregation == "affine":
            weights_T = self.time.kernel[...][:, 0]
            summed = (hidden_BxTxH * weights_T[:, None]).sum(1)  # a product would copy the hidden layer transposed
            # fc2 adds its bias once instead of once for each sample's weight
            return self.fc2(summed) + (weights_T.sum() - 1) * self.fc2.bias[...] + self.time.bias[...]
        merged = self.fc2.kernel[...][0] @ self.query.kernel[...]
        bias = self.fc2.bias[...] @ self.query.kernel[...] + self.query.bias[...]
        scores_BxTx1 = self.score(jnp.tanh(hidden_BxTxH @ merged + bias))
        return self.fc2((jax.nn.softmax(scores_BxTx1, axis=1) * hidden_BxTxH).sum(1))


class OutputHead(nnx.Module):
    """Linear(GELU(LayerNorm(x))), the normalisation without parameters."""

    def __init__(self, dim: int, dim_out: int, *, rngs: Keys):
        self.fc = Affine(dim, dim_out, rngs=rngs)

    def __call__(self, x: Float[Array, "B I"]) -> Float[Array, "B F"]:
        centred = x - x.mean(-1, keepdims=True)
        return self.fc(gelu(centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5)))


class BrainModule(nnx.Module):
    """The network of table S1: 6,424,472 parameters for 4 people, 181 samples and 768 features.

    Args:
      samples: T. features: F, the width of the CLIP head. people: matrices of the subject layer; 0: none.
      mse_features: width of the second head, whose output is compared with un-normalised latents; 0: none.
      dims: 2 or 3 axes of the sensors' positions. outputs: of the attention. dim, depth: width and number of blocks.
      aggregation: over time. radius: of spatial dropout.
    """

    def __init__(
        self,
        *,
        samples: int,
        features: int,
        people: int,
        rngs: Keys,
        mse_features: int = 0,
        dims: int = 2,
        outputs: int = 270,
        dim: int = 320,
        depth: int = 2,
        projected: int = 2048,
        aggregation: Aggregation = "affine",
        radius: float = 0.2,
    ):
        self.attention = SpatialAttention(outputs, dims, rngs=rngs, radius=radius)
        self.initial = Affine(1, outputs, outputs, rngs=rngs)
        if people:
            self.subject_layer = SubjectLayer(people, outputs, rngs=rngs)
        widths = [outputs] + [dim] * depth
        self.blocks = ModuleList(*(DilatedBlock(widths[i], dim, i, rngs=rngs) for i in range(depth)))
        self.projection = Projection(dim, projected, samples, aggregation, rngs=rngs)
        self.clip_head = OutputHead(projected, features, rngs=rngs)
        if mse_features:
            self.mse_head = OutputHead(projected, mse_features, rngs=rngs)
        self.by_subject = people > 0

    def trunk(self, inputs: Trials, key: Array | None = None) -> Float[Array, "B I"]:
        """Return what the heads read."""
        x_BxTxO = self.initial(self.attention(inputs, key))
        if self.by_subject:
            x_BxTxO = self.subject_layer(x_BxTxO, inputs.subject)
        x = x_BxTxO
        for block in self.blocks:
            x = block(x, key, inputs.weight)
        return self.projection(x)

    def both(self, inputs: Trials, key: Array | None = None) -> tuple[Float[Array, "B F"], Float[Array, "B M"]]:
        """Return the outputs of the CLIP head and of the MSE head."""
        x = self.trunk(inputs, key)
        return self.clip_head(x), self.mse_head(x)

    def __call__(self, inputs: Trials, key: Array | None = None) -> Float[Array, "B F"]:
        """Return the vectors of trials, from the CLIP head; `key`: of spatial dropout, in training."""
        return self.clip_head(self.trunk(inputs, key))
