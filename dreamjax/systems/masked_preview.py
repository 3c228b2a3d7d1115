"""The image of a training run: signal, masked signal and reconstruction of a few windows and channels."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dreamjax.objectives import masking
from dreamjax.parallel import processes
from dreamjax.systems.masked_pretraining import MaskedPretrainingConfig, reconstruct
from dreamjax.training.task import Batch, PyTree

WINDOWS, CHANNELS = 2, 3


def draw(config: MaskedPretrainingConfig, params: PyTree, batch: Batch) -> Any:
    """A matplotlib figure, or None for a model of normalised targets, which predicts no signal.

    Every process of a run computes, as the parameters are spread over all of them; the first one alone draws.
    """
    if config.loss.target != "raw":
        return None
    signal, valid = np.asarray(batch["signal"]), np.asarray(batch["valid"])
    patch_valid = masking.patch_valid(jnp.asarray(valid), config.model.patch)
    mask = masking.draw(config.mask, config.seed + 1, jnp.asarray(batch["index"]), patch_valid)
    place = jax.tree.leaves(params)[0].sharding
    whole = NamedSharding(place.mesh, P()) if isinstance(place, NamedSharding) else place
    compiled = jax.jit(lambda p, x, h, v: reconstruct(config, p, x, h, v), out_shardings=whole)
    guess = np.asarray(compiled(params, signal, np.asarray(mask.hidden), valid))
    if not processes.is_first():
        return None
    return figure(
        signal * np.asarray(batch["gain"])[:, :, None] + np.asarray(batch["offset"])[:, :, None],
        guess * np.asarray(batch["gain"])[:, :, None] + np.asarray(batch["offset"])[:, :, None],
        np.repeat(np.asarray(mask.hidden), config.model.patch, axis=1),
        config.data.sfreq,
    )


def figure(signal: np.ndarray, guess: np.ndarray, hidden: np.ndarray, sfreq: float) -> Any:
    """`signal` and `guess` (windows, channels, time) in µV; `hidden` (windows, time)."""
    from matplotlib.figure import Figure

    windows = min(WINDOWS, len(signal))
    channels = np.linspace(0, signal.shape[1] - 1, min(CHANNELS, signal.shape[1])).astype(int)
    seconds = np.arange(signal.shape[2]) / sfreq
    fig = Figure(figsize=(12, 1.6 * windows * len(channels)), layout="constrained")
    axes = fig.subplots(windows * len(channels), 1, sharex=True, squeeze=False)[:, 0]
    for row, axis in enumerate(axes):
        window, channel = divmod(row, len(channels))
        truth, dark = signal[window, channels[channel]], hidden[window]
        made = guess[window, channels[channel]]
        r = np.corrcoef(truth[dark], made[dark])[0, 1] if dark.sum() > 1 and made[dark].std() > 0 else np.nan
        axis.fill_between(seconds, 0, 1, where=dark, transform=axis.get_xaxis_transform(), color="0.92", lw=0)
        axis.plot(seconds, truth, color="0.55", lw=0.8, label="signal")
        axis.plot(seconds, np.where(dark, np.nan, truth), color="k", lw=1.2, label="seen by the model")
        axis.plot(seconds, np.where(dark, made, np.nan), color="C3", lw=1.2, label="reconstruction")
        axis.set_ylabel("µV")
        axis.set_title(
            f"window {window}, channel {channels[channel]}: r = {r:.2f} where hidden", fontsize=8, loc="left"
        )
    axes[-1].set_xlabel("s")
    axes[0].legend(loc="upper right", fontsize=7, ncols=3)
    return fig
