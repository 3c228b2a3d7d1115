"""Floating-point operations of a transformer autoencoder, counted by hand: every trip of every layer.

A multiply-add counts 2. Only matrix products and attention count (norms, activations, softmax: under 2 % at these
widths); the backward pass of a matrix product costs twice its forward one. XLA's own count sees a scanned layer once.
"""

from typing import Any


def block(tokens: float, dim: int, mlp_ratio: float) -> float:
    """One transformer block: qkv and proj 8 T D², the mlp 4 T D F, attention 4 T² D."""
    return 8 * tokens * dim**2 + 4 * tokens * dim * int(dim * mlp_ratio) + 4 * tokens**2 * dim


def gaussian_interpolation(samples: float, length: int, channels: int) -> float:
    """Cholesky S³/3 and two triangular solves 2 S² C; the Fourier transforms are small beside them."""
    return samples**3 / 3 + 2 * samples**2 * channels + 40 * length * channels


def masked_autoencoder(model: Any, patches: int, visible: float) -> dict[str, float]:
    """FLOP per window with `visible` of `patches` tokens in the encoder; keys encoder, decoder, interpolation, …

    `model` has the fields of a masked autoencoder's config. `features` is the encoder on all tokens, `forward` the
    masked forward pass and `train` forward and backward (without rematerialisation).
    """
    entries = model.patch * model.channels

    def encoder(tokens: float) -> float:
        return 2 * tokens * entries * model.dim + model.depth * block(tokens + 1, model.dim, model.mlp_ratio)

    decoder = (
        2 * (visible + 1) * model.dim * model.decoder_dim
        + model.decoder_depth * block(patches + 1, model.decoder_dim, model.mlp_ratio)
        + 2 * patches * model.decoder_dim * entries
    )
    guess = 0.0
    if model.interpolation == "gaussian":
        guess = gaussian_interpolation(visible * model.patch, patches * model.patch, model.channels)
        decoder += 2 * patches * entries * model.decoder_dim
    forward = encoder(visible) + decoder + guess
    embedding = 2 * visible * entries * model.dim  # its input needs no gradient
    return {
        "encoder": encoder(visible),
        "decoder": decoder,
        "interpolation": guess,
        "forward": forward,
        "train": 3 * forward - embedding - guess,
        "features": encoder(patches),
    }
