"""Small convolutional encoders as baselines: EEGNet, ShallowFBCSPNet and Deep4Net, each with a linear map to F.

Sizes, initial values (Glorot, biases 0) and normalisations are braindecode's defaults. Where two convolutions follow
each other without anything between, they are one: kernels are multiplied and not activations.

Shape letters: B batch, C channels (sensors), T samples, S positions in time, K taps, I/O widths, F features.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from dreamjax.models.brain_layers import (
    Affine,
    BatchNorm,
    Trials,
    check_length,
    dropout,
    elu,
    moving_average,
    neighbours,
    split,
)
from dreamjax.models.layers import Keys, ModuleList

LEAST = 1e-6  # of the mean square, before its logarithm


def _glorot(*shape: int, rngs: Keys, bias: bool = False) -> Affine:
    layer = Affine(*shape, rngs=rngs, bias=bias)
    layer.kernel[...] = nnx.initializers.xavier_uniform()(rngs.params(), shape, jnp.float32)
    if bias:
        layer.bias[...] = jnp.zeros(shape[-1], jnp.float32)
    return layer


def needed(taps: int, pool: int, blocks: int = 4) -> int:
    """Return the number of samples that leave one position after so many blocks of a convolution and a pool."""
    samples = 1
    for _ in range(blocks):
        samples = samples * pool + taps - 1
    return samples


class TimeThenSensors(nnx.Module):
    """A convolution in time of each sensor, then one over all sensors: together one kernel (K, C, O)."""

    def __init__(self, channels: int, taps: int, dim: int, *, rngs: Keys):
        self.time = _glorot(taps, 1, 1, dim, rngs=rngs, bias=True)
        self.sensors = _glorot(1, channels, dim, dim, rngs=rngs)

    def __call__(self, x_BxCxT: Float[Array, "B C T"]) -> Float[Array, "B S O"]:
        time_KxI, sensors_CxIxO = self.time.kernel[...][:, 0, 0], self.sensors.kernel[...][0]
        taps, width = time_KxI.shape
        kernel_CxKxO = jnp.einsum("ki,cio->cko", time_KxI, sensors_CxIxO)
        B, C, T = x_BxCxT.shape
        of_taps = (x_BxCxT.swapaxes(1, 2) @ kernel_CxKxO.reshape(C, -1)).reshape(B, T, taps, width)
        size = T - taps + 1
        y = sum((of_taps[:, k : k + size, k] for k in range(taps)), jnp.zeros((), x_BxCxT.dtype))
        return y + jnp.einsum("i,cio->o", self.time.bias[...], sensors_CxIxO)


class ShallowFBCSPNet(nnx.Module):
    """ShallowFBCSPNet (Schirrmeister et al. 2017, arXiv 1703.05051): log of the mean square of 40 filtered mixtures."""

    def __init__(
        self,
        *,
        channels: int,
        samples: int,
        features: int,
        rngs: Keys,
        dim: int = 40,
        taps: int = 25,
        pool: int = 75,
        stride: int = 15,
        rate: float = 0.5,
    ):
        check_length("ShallowFBCSPNet", samples, taps + pool - 1)
        self.conv, self.norm = TimeThenSensors(channels, taps, dim, rngs=rngs), BatchNorm(dim)
        positions = (samples - taps + 1 - pool) // stride + 1
        self.readout = _glorot(positions, 1, dim, features, rngs=rngs, bias=True)
        self.pool, self.stride, self.rate = pool, stride, rate

    def __call__(self, inputs: Trials, key: Array | None = None) -> Float[Array, "B F"]:
        """Return the vectors of trials; `key`: of dropout, in training."""
        y_BxSxO = jnp.square(self.norm(self.conv(inputs.good), key, inputs.weight))
        pooled_BxOxS = moving_average(y_BxSxO.swapaxes(1, 2), self.pool)[..., :: self.stride]
        y = dropout(jnp.log(jnp.maximum(pooled_BxOxS, LEAST)), self.rate, key)
        return self.readout(y.swapaxes(1, 2).reshape(len(y), -1))


class ConvPool(nnx.Module):
    """Dropout, convolution, BN, ELU, then the maximum of each `pool` positions."""

    def __init__(self, conv: nnx.Module, taps: int, dim: int, pool: int, rate: float):
        self.conv, self.norm = conv, BatchNorm(dim)
        self.taps, self.pool, self.rate = taps, pool, rate

    def __call__(self, x: Array, key: Array | None, weight: Float[Array, "B"] | None) -> Float[Array, "B S O"]:
        if self.taps:
            x = neighbours(dropout(x, self.rate, key), self.taps, around=0)
        y = elu(self.norm(self.conv(x), key, weight))  # type: ignore[operator]
        size = y.shape[1] // self.pool
        pieces = y[:, : size * self.pool].reshape(len(y), size, self.pool, -1)
        # the gradient of `max` divides by the number of equal entries, which is 0 where XLA rounds them otherwise
        return functools.reduce(jnp.maximum, (pieces[:, :, j] for j in range(self.pool)))


class Deep4Net(nnx.Module):
    """Deep4Net (Schirrmeister et al. 2017, arXiv 1703.05051): four blocks of 25, 50, 100 and 200 filters.

    As published its pools of 3 need 441 samples; for trials of 250 the EEG retrieval literature pools by 2.
    """

    def __init__(
        self,
        *,
        channels: int,
        samples: int,
        features: int,
        rngs: Keys,
        dim: int = 25,
        taps: int = 10,
        pool: int = 3,
        rate: float = 0.5,
    ):
        widths, positions = [dim << i for i in range(4)], samples
        advice = f" (filters of {taps}, pools of {pool}); choose smaller ones (model.taps, model.pool)"
        check_length("Deep4Net", samples, needed(taps, pool), advice)
        for _ in widths:
            positions = (positions - taps + 1) // pool
        blocks = [ConvPool(TimeThenSensors(channels, taps, dim, rngs=rngs), 0, dim, pool, rate)]
        for before, width in itertools.pairwise(widths):
            blocks.append(ConvPool(_glorot(taps, 1, before, width, rngs=rngs), taps, width, pool, rate))
        self.blocks = ModuleList(*blocks)
        self.readout = _glorot(positions, 1, widths[-1], features, rngs=rngs, bias=True)

    def __call__(self, inputs: Trials, key: Array | None = None) -> Float[Array, "B F"]:
        """Return the vectors of trials; `key`: of dropout, in training."""
        x = inputs.good
        for block, of_block in zip(self.blocks, split(key, len(self.blocks)), strict=True):
            x = block(x, of_block, inputs.weight)
        return self.readout(x.reshape(len(x), -1))


def banded(kernel_KxO: Float[Array, "K O"], length: int) -> Float[Array, "T S O"]:
    """Return the matrix of a convolution of T = `length` samples with K // 2 zeros on both sides, S = T + 1 for even K.

    Row s of it holds the kernel from column s on: copies of the kernel and zeros, one entry longer than the rows.
    """
    taps, dim = kernel_KxO.shape
    around = taps // 2
    columns = length + 2 * around
    rows = columns - taps + 1
    one = jnp.pad(kernel_KxO, ((0, columns + 1 - taps), (0, 0)))
    matrix_SxTxO = jnp.tile(one, (rows, 1))[: rows * columns].reshape(rows, columns, dim)
    return matrix_SxTxO[:, around : around + length].swapaxes(0, 1)


class EEGNet(nnx.Module):
    """EEGNet v4 (Lawhern et al. 2018, arXiv 1611.08024): 8 filters in time, 2 mixtures of sensors each, 16 filters.

    The mixtures' weights have a norm of at most 1: longer ones count with norm 1, and their gradient is that of the
    shortened weights.
    """

    def __init__(
        self,
        *,
        channels: int,
        samples: int,
        features: int,
        rngs: Keys,
        filters: int = 8,
        mixtures: int = 2,
        taps: int = 64,
        rate: float = 0.25,
    ):
        check_length("EEGNet", samples, 27 + taps % 2)
        dim = filters * mixtures
        self.temporal, self.temporal_norm = _glorot(1, taps, 1, filters, rngs=rngs), BatchNorm(filters, 1e-3, 0.01)
        self.spatial, self.spatial_norm = _glorot(channels, 1, 1, dim, rngs=rngs), BatchNorm(dim, 1e-3, 0.01)
        self.depth, self.point = _glorot(1, 16, 1, dim, rngs=rngs), _glorot(1, 1, dim, dim, rngs=rngs)
        self.point_norm = BatchNorm(dim, 1e-3, 0.01)
        positions = ((samples + 1 - taps % 2) // 4 + 1) // 8
        self.readout = _glorot(1, positions, dim, features, rngs=rngs, bias=True)
        self.rate = rate

    def __call__(self, inputs: Trials, key: Array | None = None) -> Float[Array, "B F"]:
        """Return the vectors of trials; `key`: of dropout, in training."""
        first, second = split(key, 2)
        x_BxCxT, weight = inputs.good, inputs.weight
        B, C, T = x_BxCxT.shape
        matrix_TxSxI = banded(self.temporal.kernel[...][0, :, 0], T)
        filters = matrix_TxSxI.shape[-1]
        y_BxCxSxI = (x_BxCxT @ matrix_TxSxI.reshape(T, -1)).reshape(B, C, -1, filters)
        y_BxCxSxI = self.temporal_norm(y_BxCxSxI, key, weight)
        mixtures = self.spatial.kernel[...][:, 0, 0]
        norm = jnp.linalg.norm(mixtures, axis=0)
        short = jnp.where(norm > 1, mixtures / (norm + 1e-7), mixtures)
        mixtures = mixtures + jax.lax.stop_gradient(short - mixtures)
        y = jnp.einsum("bcsi,cid->bsid", y_BxCxSxI, mixtures.reshape(C, filters, -1)).reshape(B, -1, norm.size)
        y = _mean_pool(elu(self.spatial_norm(y, key, weight)), 4)
        y = dropout(y, self.rate, first)
        of_taps = neighbours(y, 16, around=8).reshape(B, -1, 16, norm.size)
        y = self.point((of_taps * self.depth.kernel[...][0, :, 0]).sum(2))
        y = _mean_pool(elu(self.point_norm(y, key, weight)), 8)
        return self.readout(dropout(y, self.rate, second).reshape(B, -1))


def _mean_pool(x: Float[Array, "B T I"], size: int) -> Float[Array, "B S I"]:
    positions = x.shape[1] // size
    return x[:, : positions * size].reshape(len(x), positions, size, -1).mean(2)
