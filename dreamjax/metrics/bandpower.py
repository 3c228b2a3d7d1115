"""Log band power by channel: the features that every EEG encoder has to beat."""

import numpy as np
from jaxtyping import Float

BANDS = {"delta": (1.0, 4.0), "theta": (4.0, 8.0), "alpha": (8.0, 13.0), "beta": (13.0, 30.0), "gamma": (30.0, 45.0)}
FLOOR_UV2 = 1e-6  # µV², so that a flat channel has a logarithm


def band_power(signal: Float[np.ndarray, "B C T"], sfreq: float) -> Float[np.ndarray, "B features"]:
    """Return ln of the power in µV² of each of BANDS: B rows of C · 5 features, the bands of a channel together.

    From the one-sided spectrum of the Hann-windowed, demeaned signal, normalised so that white noise of variance σ²
    has σ² · (band width) / (sfreq / 2) in a band (Welch's estimate with one segment).
    """
    T = signal.shape[-1]
    taper = np.hanning(T + 1)[:T]
    spectrum = np.abs(np.fft.rfft((signal - signal.mean(-1, keepdims=True)) * taper, axis=-1)) ** 2
    spectrum *= 2 / (T * (taper**2).sum())  # µV² per bin
    frequency = np.fft.rfftfreq(T, 1 / sfreq)
    powers = [spectrum[..., (frequency >= a) & (frequency < b)].sum(-1) for a, b in BANDS.values()]
    return np.log(np.stack(powers, axis=-1) + FLOOR_UV2).reshape(len(signal), -1)
