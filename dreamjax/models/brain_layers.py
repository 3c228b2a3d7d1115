"""What encoders of brain signals are made of: their input, batch normalisation, dropout, and shared blocks.

Convolutions are matrix products over unfolded windows: under `jax.vmap` over models a product stays one, whereas a
convolution whose kernels are batched becomes a grouped one, which XLA computes slowly on CPU.

Shape letters: B batch, C channels (sensors), T samples, S windows in time (or people), K kernel length, I/O/D
widths, F features.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from dreamjax.errors import UserError
from dreamjax.models.layers import Keys, LayerNorm, PatchEmbed, gelu, matmul, small_normal


class Trials(NamedTuple):
    """A batch of trials, the input of every brain encoder. All but the signal may be None.

    `subject`: number of the person, -1 where unknown. `xyz`: sensor positions in metres, of the batch or of each
    trial. `channel_ok`: False for sensors that are missing or bad. `weight`: 0 for rows that only fill the batch.
    """

    signal: Float[Array, "B C T"]
    subject: Int[Array, "B"] | None = None
    xyz: Float[Array, "*B C 3"] | None = None
    channel_ok: Bool[Array, "B C"] | None = None
    weight: Float[Array, "B"] | None = None

    @property
    def good(self) -> Float[Array, "B C T"]:
        """The signal with zeros in the channels that are not ok."""
        return self.signal if self.channel_ok is None else jnp.where(self.channel_ok[:, :, None], self.signal, 0)


class Statistic(nnx.Param):
    """A running statistic: stored with the parameters, but changed by calls in training and not by gradients.

    After a call, `nnx.state(model, Statistic)` holds the new values.
    """


class BatchNorm(nnx.Module):
    """Batch normalisation (Ioffe & Szegedy 2015, arXiv 1502.03167) over all axes but the last, as torch has it.

    y = (x - mean) / √(var + ε) · scale + bias. With a `key`, that is in training, mean and (biased) variance are those
    of the batch's rows with a weight, and the running values move towards them by `momentum`, the variance unbiased.
    Without a key the running values normalise.
    """

    def __init__(self, dim: int, epsilon: float = 1e-5, momentum: float = 0.1):
        self.scale, self.bias = nnx.Param(jnp.ones((dim,), jnp.float32)), nnx.Param(jnp.zeros((dim,), jnp.float32))
        self.mean, self.var = Statistic(jnp.zeros((dim,), jnp.float32)), Statistic(jnp.ones((dim,), jnp.float32))
        self.epsilon, self.momentum = epsilon, momentum

    def __call__(
        self, x: Float[Array, "B *positions D"], key: Array | None = None, weight: Float[Array, "B"] | None = None
    ) -> Float[Array, "B *positions D"]:
        mean, var = (self.mean[...], self.var[...]) if key is None else self._of_batch(x, weight)
        return (x - mean) * (jax.lax.rsqrt(var + self.epsilon) * self.scale[...]) + self.bias[...]

    def _of_batch(self, x: Array, weight: Array | None) -> tuple[Array, Array]:
        axes, positions = tuple(range(x.ndim - 1)), x[0, ..., 0].size
        share, rows = row_shares(weight, len(x))
        share = share.reshape(-1, *(1,) * (x.ndim - 1)) / positions
        mean = x.mean(axes) if weight is None else (x * share).sum(axes)
        square = jnp.square(x - mean)
        var = square.mean(axes) if weight is None else (square * share).sum(axes)
        self.move(mean, var, rows * positions)
        return mean, var

    def move(self, mean: Float[Array, "D"], var: Float[Array, "D"], count: Array) -> None:
        """Move the running values towards the mean and the biased variance of so many numbers."""
        step = self.momentum * (count > 0)
        unbiased = var * count / jnp.maximum(count - 1, 1)
        for running, new in ((self.mean, mean), (self.var, unbiased)):
            running[...] = jax.lax.stop_gradient((1 - step) * running[...] + step * new)


def row_shares(weight: Float[Array, "B"] | None, rows: int) -> tuple[Float[Array, "B"], Array]:
    """Return (each row's share of the batch, the number of rows that count): those without a weight are left out."""
    counted = jnp.ones(rows, jnp.float32) if weight is None else (weight > 0).astype(jnp.float32)
    return counted / jnp.maximum(counted.sum(), 1), counted.sum()


@jax.custom_vjp
def elu(x: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Return x or, below 0, exp(x) - 1. The gradient is computed from the output: x is not kept."""
    return jax.nn.elu(x)


def _elu_forward(x: Array) -> tuple[Array, Array]:
    y = elu(x)
    return y, y


elu.defvjp(_elu_forward, lambda y, dy: (dy * jnp.minimum(y + 1, 1),))


def dropout(x: Float[Array, "*shape"], rate: float, key: Array | None) -> Float[Array, "*shape"]:
    """Return x with a share `rate` of its entries at 0 and the rest over 1 - rate; x itself without a key."""
    if key is None or rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


def split(key: Array | None, count: int) -> list[Array | None]:
    """Return so many keys of one; of None so many None."""
    return [None] * count if key is None else list(jax.random.split(key, count))


def shares(subject: Int[Array, "B"] | None, people: int, rows: int) -> Float[Array, "B S"]:
    """Return each person's share in each trial: 1 for its person; where unknown (-1), the same for everyone.

    Multiplied with parameters of all people it chooses those of each trial, and its gradient is a product, no scatter.
    """
    number = jnp.full((rows, 1), -1) if subject is None else jnp.asarray(subject)[:, None]
    return jnp.where(number < 0, 1 / people, (number == jnp.arange(people)).astype(jnp.float32))


class Affine(PatchEmbed):
    """x W + b of flat windows: a linear layer, or a convolution whose windows are unfolded; kernel (*window, I, O).

    Initial values are PyTorch's, uniform in ± 1 / √(inputs); `normal`: the kernel is N(0, 0.02). A `transposed`
    convolution of one position is the same map, whose initial values PyTorch bounds by 1 / √(outputs).
    """

    def __init__(self, *shape: int, rngs: Keys, bias: bool = True, normal: bool = False, transposed: bool = False):
        bound = (shape[-1] if transposed else math.prod(shape[:-1])) ** -0.5

        def uniform(*shape: int) -> nnx.Param:
            return nnx.Param(jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound))

        self.kernel = small_normal(rngs, *shape) if normal else uniform(*shape)
        if bias:
            self.bias = uniform(shape[-1])
        self.has_bias, self.dtype = bias, jnp.float32


class ResidualProjector(nnx.Module):
    """LayerNorm(h + dropout(Linear(GELU(h)))), h = Linear(x): from an encoder's width to that of the images."""

    def __init__(self, dim_in: int, dim_out: int, *, rate: float = 0.5, rngs: Keys, normal: bool = False):
        self.fc = Affine(dim_in, dim_out, rngs=rngs, normal=normal)
        self.residual = Affine(dim_out, dim_out, rngs=rngs, normal=normal)
        self.norm = LayerNorm(dim_out, dtype=jnp.float32)
        self.rate = rate

    def __call__(self, x: Float[Array, "B I"], key: Array | None = None) -> Float[Array, "B F"]:
        h = self.fc(x)
        return self.norm(h + dropout(self.residual(gelu(h)), self.rate, key))


# ------------------------------------------------------------------------------------------- convolutions over time
def windows_of(length: int, window: int, stride: int = 1) -> int:
    """Return the number of windows."""
    return (length - window) // stride + 1


def unfold(x: Float[Array, "*batch T"], window: int, stride: int = 1) -> Float[Array, "*batch S K"]:
    """Return the windows of the last axis: shifted copies of its pieces, whose gradients are sums and not scatters."""
    size, piece = windows_of(x.shape[-1], window, stride), math.gcd(window, stride)
    step, count = stride // piece, window // piece
    used = (size - 1) * step + count
    pieces = x[..., : used * piece].reshape(*x.shape[:-1], used, piece)
    return jnp.concatenate([pieces[..., j : j + (size - 1) * step + 1 : step, :] for j in range(count)], axis=-1)


def neighbours(
    x: Float[Array, "B T I"], taps: int, dilation: int = 1, around: int | None = None
) -> Float[Array, "B S taps*I"]:
    """Return the inputs of each position of a convolution, side by side.

    `around`: zeros beyond each end; by default those that keep the length, for an odd number of taps.
    """
    around = taps // 2 * dilation if around is None else around
    padded = jnp.pad(x, ((0, 0), (around, around), (0, 0))) if around else x
    size = padded.shape[1] - (taps - 1) * dilation
    return jnp.concatenate([padded[:, j * dilation : j * dilation + size] for j in range(taps)], axis=-1)


def convolution3(x: Float[Array, "B T I"], kernel: Float[Array, "3 I O"], dilation: int = 1) -> Float[Array, "B T O"]:
    """Return the convolution in time of three taps that keeps the length, zeros beyond both ends.

    By Winograd's minimal filtering F(2, 3) (Lavin & Gray 2016, arXiv 1509.09308, section 4.1): two positions that are
    `dilation` apart need 4 products with matrices instead of 6, in training as well, and are equal to rounding.
    """
    B, T, _ = x.shape
    pairs = -(-T // (2 * dilation))
    padded = jnp.pad(x, ((0, 0), (dilation, (2 * pairs + 1) * dilation - T), (0, 0)))
    even, odd = jnp.moveaxis(padded.reshape(B, pairs + 1, 2, dilation, -1), 2, 0)
    ends = (kernel[0] + kernel[2]) / 2
    a, b, c, d = (
        matmul(inputs, of_taps, jnp.float32)
        for inputs, of_taps in (
            (even[:, :-1] - even[:, 1:], kernel[0]),
            (even[:, 1:] + odd[:, :-1], ends + kernel[1] / 2),
            (even[:, 1:] - odd[:, :-1], ends - kernel[1] / 2),
            (odd[:, :-1] - odd[:, 1:], kernel[2]),
        )
    )
    return jnp.stack([a + b + c, b - c - d], axis=2).reshape(B, 2 * pairs * dilation, -1)[:, :T]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def moving_average(x: Float[Array, "*batch T"], window: int) -> Float[Array, "*batch S"]:
    """Return the mean over each `window` neighbours of the last axis, by sums of 1, 2, 4, … of them.

    The gradient is the same mean of the outputs' gradients with zeros around; autodiff's pads at every power.
    """
    size = windows_of(x.shape[-1], window)
    total, start, power = jnp.zeros((), x.dtype), 0, x
    for bit in range(window.bit_length()):
        if window >> bit & 1:
            total = total + power[..., start : start + size]
            start += 1 << bit
        power = power[..., : -(1 << bit)] + power[..., 1 << bit :] if window >> (bit + 1) else power
    return total / window


def _moving_average_backward(window: int, _: None, dy: Array) -> tuple[Array]:
    around = [(0, 0)] * (dy.ndim - 1) + [(window - 1, window - 1)]
    return (moving_average(jnp.pad(dy, around), window),)


moving_average.defvjp(lambda x, window: (moving_average(x, window), None), _moving_average_backward)


def check_length(name: str, samples: int, least: int, advice: str = "") -> None:
    """Raise UserError where the trials are too short for one position after all pools."""
    if samples < least:
        raise UserError(f"{name} needs at least {least} samples a trial, but these have {samples}{advice}")


class TemporalSpatial(nnx.Module):
    """The block of NICE (Song et al., ICLR 2024), after ShallowNet (Schirrmeister et al. 2017): time, then sensors.

    Convolution in time, average pool, BN, ELU; convolution over all sensors, BN, ELU, dropout; 1 × 1 convolution. The
    first convolution and the pool are both linear and commute: the signal is averaged first, and only the windows that
    the pool's stride keeps are convolved, 6 times fewer operations for NICE's sizes.
    """

    def __init__(
        self,
        channels: int,
        *,
        rngs: Keys,
        kernel: int = 25,
        pool: int = 51,
        stride: int = 5,
        dim: int = 40,
        dim_out: int = 40,
        rate: float = 0.5,
        normal: bool = False,
    ):
        self.temporal = Affine(1, kernel, 1, dim, rngs=rngs, normal=normal)
        self.temporal_norm = BatchNorm(dim)
        self.spatial = Affine(channels, 1, dim, dim, rngs=rngs, normal=normal)
        self.spatial_norm = BatchNorm(dim)
        self.projection = Affine(1, 1, dim, dim_out, rngs=rngs, normal=normal)
        if normal:
            for norm in (self.temporal_norm, self.spatial_norm):
                norm.scale[...] = 1 + small_normal(rngs, dim)[...]
        self.kernel, self.pool, self.stride, self.rate = kernel, pool, stride, rate

    def windows(self, samples: int) -> int:
        """Return the positions in time that are left of so many samples. Raise UserError where none is."""
        advice = "; take more of each trial (data.tmin, data.tmax) or prepare with a higher --sfreq"
        check_length("the convolution in time", samples, self.kernel + self.pool - 1, advice)
        return windows_of(samples - self.kernel + 1, self.pool, self.stride)

    def __call__(
        self, x_BxCxT: Float[Array, "B C T"], key: Array | None = None, weight: Float[Array, "B"] | None = None
    ) -> Float[Array, "B S O"]:
        averaged_BxCxT = moving_average(x_BxCxT, self.pool)
        windows_BxSxCxK = unfold(averaged_BxCxT, self.kernel, self.stride).swapaxes(1, 2)
        kernel_KxD, shift_D = self._temporal(averaged_BxCxT, key, weight)
        y_BxSxCxD = elu(matmul(windows_BxSxCxK, kernel_KxD, jnp.float32) + shift_D)
        y_BxSxD = self.spatial(y_BxSxCxD.reshape(*y_BxSxCxD.shape[:2], -1))
        y_BxSxD = elu(self.spatial_norm(y_BxSxD, key, weight))
        return self.projection(dropout(y_BxSxD, self.rate, key))

    def _temporal(
        self, x_BxCxT: Float[Array, "B C T"], key: Array | None, weight: Float[Array, "B"] | None
    ) -> tuple[Float[Array, "K D"], Float[Array, "D"]]:
        """Return the convolution's kernel and bias with its normalisation in them.

        Mean and variance of the convolution follow from those of the windows, of which there are K instead of D: no
        pass over its output is needed, neither forward nor backward.
        """
        norm, kernel_KxD, bias_D = self.temporal_norm, self.temporal.kernel[...][0, :, 0], self.temporal.bias[...]
        if key is None:
            mean_D, var_D = norm.mean[...], norm.var[...]
        else:
            share_B, rows = row_shares(weight, len(x_BxCxT))
            mean_K, covariance_KxK, positions = window_moments(x_BxCxT, share_B, self.kernel, self.stride)
            mean_D = mean_K @ kernel_KxD + bias_D
            var_D = jnp.maximum((kernel_KxD * (covariance_KxK @ kernel_KxD)).sum(0), 0)
            norm.move(mean_D, var_D, rows * positions)
        factor_D = jax.lax.rsqrt(var_D + norm.epsilon) * norm.scale[...]
        return kernel_KxD * factor_D, (bias_D - mean_D) * factor_D + norm.bias[...]


def window_moments(
    x_BxCxT: Float[Array, "B C T"], share_B: Float[Array, "B"], window: int, stride: int
) -> tuple[Float[Array, "K"], Float[Array, "K K"], int]:
    """Return (mean, covariance, number in a trial) of the windows of all rows by their shares, without unfolding them.

    The products of all pairs of samples are summed over rows first, then over the windows that contain the pair.
    """
    _, C, T = x_BxCxT.shape
    size = windows_of(T, window, stride)
    centre = jax.lax.stop_gradient((x_BxCxT.mean((1, 2)) * share_B).sum())  # for precision only
    x_BxCxT = x_BxCxT - centre
    rooted_BxCxT = x_BxCxT * jnp.sqrt(share_B / (C * size))[:, None, None]
    products_TxT = jnp.einsum("bct,bcu->tu", rooted_BxCxT, rooted_BxCxT)
    index_SxK = stride * jnp.arange(size)[:, None] + jnp.arange(window)
    mean_K = (x_BxCxT.sum(1) * (share_B / (C * size))[:, None]).sum(0)[index_SxK].sum(0)
    second_KxK = products_TxT[index_SxK[:, :, None], index_SxK[:, None]].sum(0)
    return mean_K + centre, second_KxK - mean_K[:, None] * mean_K, C * size
