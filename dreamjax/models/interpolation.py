"""Gaussian interpolation in time as a layer: a prediction from the visible samples alone, before any network.

Every channel is modelled as a stationary Gaussian process with power spectrum w. Its conditional mean (Wiener, Kriging)
given the visible samples x_v is

    y = K a,   (K_vv + noise I) a_v = x_v,   a = 0 in hidden samples,

K the Toeplitz covariance of w. K a is a product of spectra (a circulant of twice the length), so nothing of size
T × T is differentiated: the gradient with respect to w goes through the implicit solve and two Fourier transforms.
The logarithm of w is a learned curve plus an offset that the caller predicts for each window.

Shape letters: B batch, C channels, T samples, K points of the curve, F = T + 1 bins, S samples in visible slots.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from dreamjax.models.layers import Dtype, Keys, Linear
from dreamjax.parallel import environment

NOISE_FLOOR = 1e-4  # of the process's variance: what float32 Cholesky factors of 512 samples bear
STRIDE = 10.0  # nepers per unit of the curve's parameters, so that Adam's steps of 1e-3 cross its range in time


def toeplitz(power_BxF: Float[Array, "B F"], x_BxCxT: Float[Array, "B C T"]) -> Float[Array, "B C T"]:
    """Return K x, K the covariance of a process whose circulant embedding of length 2 T has the spectrum `power`."""
    T = x_BxCxT.shape[-1]
    spectrum = jnp.fft.rfft(x_BxCxT, 2 * T, axis=-1) * power_BxF[:, None, :]
    return jnp.fft.irfft(spectrum, 2 * T, axis=-1)[..., :T]


def _by_row(function: Callable[..., Array], *arrays: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """Apply `function` to every row; on CPU one row after another.

    jaxlib's batched LAPACK kernels wait in a thread of XLA's pool for work that they queue in the same pool: two at
    once deadlock on two cores (seen in 0.10.2). A single matrix is factored in the calling thread.
    """
    if environment.target_platform() == "cpu":
        return jax.lax.map(lambda row: function(*row), arrays)
    return jax.vmap(function)(*arrays)


def conditional_mean(
    power_BxF: Float[Array, "B F"],
    noise: Float[Array, ""],
    x_BxCxT: Float[Array, "B C T"],
    visible_BxT: Bool[Array, "B T"],
    slots_BxS: Int[Array, "B S"],
    slot_ok_BxS: Bool[Array, "B S"],
) -> Float[Array, "B C T"]:
    """Return E[signal | visible samples]; `slots` lists the visible samples (those with `slot_ok`), each once."""
    T = x_BxCxT.shape[-1]
    seen = visible_BxT[:, None, :].astype(x_BxCxT.dtype)

    def covariance(a: Array) -> Array:  # on the visible samples; the identity on the hidden ones
        return seen * (toeplitz(power_BxF, seen * a) + noise * a) + (1 - seen) * a

    # one factor for the solve and for its transpose in the backward pass
    r_BxT = jax.lax.stop_gradient(jnp.fft.irfft(power_BxF, 2 * T, axis=-1)[:, :T])
    lag_BxSxS = jnp.abs(slots_BxS[:, :, None] - slots_BxS[:, None, :])
    both = slot_ok_BxS[:, :, None] & slot_ok_BxS[:, None, :]
    k_BxSxS = jnp.where(both, jax.vmap(lambda r, lag: r[lag])(r_BxT, lag_BxSxS), 0)
    diagonal = jnp.where(slot_ok_BxS, jax.lax.stop_gradient(noise), 1.0)
    factor_BxSxS = _by_row(jnp.linalg.cholesky, k_BxSxS + jnp.eye(lag_BxSxS.shape[-1]) * diagonal[:, None, :])

    def solve(_: object, b: Array) -> Array:
        b_BxSxC = jnp.take_along_axis(b, slots_BxS[:, None, :], axis=2).swapaxes(1, 2) * slot_ok_BxS[:, :, None]
        a_BxSxC = _by_row(lambda factor, b: jax.scipy.linalg.cho_solve((factor, True), b), factor_BxSxS, b_BxSxC)
        rows = jnp.arange(b.shape[0])[:, None]
        a = jnp.zeros((b.shape[0], T, b.shape[1]), b.dtype).at[rows, slots_BxS].add(a_BxSxC * slot_ok_BxS[:, :, None])
        return seen * a.swapaxes(1, 2) + (1 - seen) * b

    a_BxCxT = jax.lax.custom_linear_solve(covariance, seen * x_BxCxT, solve, symmetric=True)
    return toeplitz(power_BxF, seen * a_BxCxT)


class GaussianInterpolation(nnx.Module):
    """The layer with its parameters.

    - `log_spectrum`: the curve, which starts as exp(-20 f / Nyquist), the best of several for resting EEG.
    - `log_noise`.
    - `adapt`: from the cls token to the window's offset of the curve; starts at zero.
    - `embed`: from an interpolated patch to the decoder's width.
    """

    def __init__(self, points: int, dim: int, entries: int, decoder_dim: int, *, dtype: Dtype, rngs: Keys):
        start = -20 * np.linspace(0, 1, points)
        self.log_spectrum = nnx.Param(jnp.asarray(start / STRIDE, jnp.float32))
        self.log_noise = nnx.Param(jnp.asarray(np.log(3e-4) / STRIDE, jnp.float32))
        self.adapt = Linear(dim, points, dtype=dtype, rngs=rngs)
        self.adapt.kernel[...] = jnp.zeros((dim, points), jnp.float32)
        self.embed = Linear(entries, decoder_dim, dtype=dtype, rngs=rngs)
        self.points = points

    def power(self, offset_BxK: Float[Array, "B K"], samples: int) -> Float[Array, "B F"]:
        """Return spectra of variance one."""
        curve_BxK = STRIDE * self.log_spectrum[...] + offset_BxK
        place_F = np.linspace(0, self.points - 1, samples + 1)  # of the bins among the curve's points
        between_KxF = np.maximum(0, 1 - np.abs(place_F[None, :] - np.arange(self.points)[:, None]))
        log_BxF = curve_BxK @ between_KxF.astype(np.float32)
        log_BxF = log_BxF - jax.lax.stop_gradient(log_BxF.max(-1, keepdims=True))
        power = jnp.exp(log_BxF)
        inner = 2 * power.sum(-1, keepdims=True) - power[:, :1] - power[:, -1:]  # every bin but the ends counts twice
        return power * (2 * samples) / inner

    def __call__(
        self,
        x_BxCxT: Float[Array, "B C T"],
        slots_BxS: Int[Array, "B S"],
        slot_ok_BxS: Bool[Array, "B S"],
        cls_BxD: Float[Array, "B D"],
    ) -> Float[Array, "B C T"]:
        """Return the conditional mean at every sample, float32; `cls` is the window's summary that adapts the spectrum.

        Solved in float32, or in float64 under `jax.enable_x64(True)`, as the exported PyTorch model solves it.
        """
        B, _, T = x_BxCxT.shape
        visible_BxT = jnp.zeros((B, T), bool).at[jnp.arange(B)[:, None], slots_BxS].set(slot_ok_BxS)
        wide = jnp.float64 if jax.config.read("jax_enable_x64") else jnp.float32
        noise = NOISE_FLOOR + jnp.exp(STRIDE * self.log_noise[...].astype(wide))
        power = self.power(self.adapt(cls_BxD).astype(wide), T)
        mean = conditional_mean(power, noise, x_BxCxT.astype(wide), visible_BxT, slots_BxS, slot_ok_BxS)
        return mean.astype(jnp.float32)
