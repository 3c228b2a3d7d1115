"""Floating-point operations of the networks, counted analytically, or from the traced program (`products`).

A multiply-add counts 2. Only matrix products and attention count (norms, activations, softmax: under 2 % at these
widths); the backward pass of a matrix product costs twice its forward pass. XLA's count includes a scanned layer once.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.extend.core import Jaxpr
from jax.interpreters import partial_eval


def block(tokens: float, dim: int, mlp_ratio: float) -> float:
    """Return the operations of one transformer block: qkv and proj 8 T D², the mlp 4 T D F, attention 4 T² D."""
    return 8 * tokens * dim**2 + 4 * tokens * dim * int(dim * mlp_ratio) + 4 * tokens**2 * dim


def masked_autoencoder(model: Any, patches: int, visible: float) -> dict[str, float]:
    """Return FLOP per window with `visible` of `patches` tokens in the encoder; keys encoder, decoder, interpolation, …

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
        S = visible * model.patch  # Cholesky S³/3, two triangular solves 2 S² C, and the (small) Fourier transforms
        guess = S**3 / 3 + 2 * S**2 * model.channels + 40 * patches * model.patch * model.channels
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


def attention(tokens: float, keys: float, dim: int, context_dim: int) -> float:
    """Return those of queries and output 4 T D², keys and values 4 S C D, logits and their use 4 T S D."""
    return 4 * tokens * dim**2 + 4 * keys * context_dim * dim + 4 * tokens * keys * dim


def _residual(pixels: int, dim_in: int, dim: int) -> float:
    return 2.0 * pixels * (9 * dim_in * dim + 9 * dim**2 + (dim_in * dim if dim_in != dim else 0))


def unet(arguments: Mapping[str, Any], height: int, width: int, tokens: int) -> float:
    """Return the forward FLOP of `UNet(**arguments)` for height × width latents of an image and `tokens` of context."""
    a = arguments
    widths, last = a["widths"], len(a["widths"]) - 1
    sizes = [(height, width)]
    for _ in widths[1:]:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    pixels = [h * w for h, w in sizes]

    def residual(level: int, dim_in: int, dim: int) -> float:
        return _residual(pixels[level], dim_in, dim) + 8 * widths[0] * dim

    def transformer(level: int, dim: int) -> float:
        T = pixels[level]
        block = attention(T, T, dim, dim) + attention(T, tokens, dim, a["context_dim"]) + 24 * T * dim**2
        return 4 * T * dim**2 + a["depths"][level] * block

    total = 2 * 9 * pixels[0] * widths[0] * (a["in_channels"] + a["out_channels"])
    total += 8 * widths[0] ** 2 + 32 * widths[0] ** 2  # of the time step
    before = widths[0]
    for i, dim in enumerate(widths):
        total += sum(residual(i, before if j == 0 else dim, dim) for j in range(a["layers"][i]))
        total += a["layers"][i] * transformer(i, dim) if a["attends"][i] else 0
        total += 2 * 9 * pixels[i + 1] * dim**2 if i < last else 0
        before = dim
    total += 2 * residual(last, before, before) + transformer(last, before)
    for i in range(last, -1, -1):
        dim, finer = widths[i], widths[max(i - 1, 0)]
        for j in range(a["layers"][i] + 1):
            skip = finer if j == a["layers"][i] else dim
            total += residual(i, (before if j == 0 else dim) + skip, dim)
        total += (a["layers"][i] + 1) * transformer(i, dim) if a["up_attends"][last - i] else 0
        total += 2 * 9 * pixels[i - 1] * dim**2 if i > 0 else 0
        before = dim
    return float(total)


def vision_transformer(dim: int, depth: int, mlp_ratio: float, patches: int, entries: int) -> float:
    """Return the forward FLOP of a ViT with a class token for one image of `patches` patches of `entries` numbers."""
    return 2.0 * patches * entries * dim + depth * block(patches + 1, dim, mlp_ratio)


def text_transformer(dim: int, depth: int, mlp_dim: int, tokens: int) -> float:
    """Return the forward FLOP of a transformer over the tokens of one text."""
    return depth * block(tokens, dim, mlp_dim / dim)


def autoencoder(arguments: Mapping[str, Any], height: int, width: int) -> float:
    """Return the forward FLOP of `AutoencoderKL(**arguments)`, both halves, for an image of height × width pixels."""
    a = arguments
    widths, per_level, latent = a["widths"], a["layers"], a["latent_channels"]
    last = len(widths) - 1
    pixels = [height * width // 4**i for i in range(len(widths))]

    def middle(dim: int) -> float:
        T = pixels[last]
        return 2 * _residual(T, dim, dim) + (attention(T, T, dim, dim) if a.get("mid_attention", True) else 0.0)

    encoder = 2.0 * 9 * pixels[0] * a["in_channels"] * widths[0]
    before = widths[0]
    for i, dim in enumerate(widths):
        encoder += sum(_residual(pixels[i], before if j == 0 else dim, dim) for j in range(per_level))
        encoder += 2.0 * 9 * pixels[i + 1] * dim**2 if i < last else 0.0
        before = dim
    encoder += middle(before) + 2.0 * pixels[last] * (9 * before * 2 * latent + 4 * latent**2)
    decoder = 2.0 * pixels[last] * (latent**2 + 9 * latent * before) + middle(before)
    for i in range(last, -1, -1):
        dim = widths[i]
        decoder += sum(_residual(pixels[i], before if j == 0 else dim, dim) for j in range(per_level + 1))
        decoder += 2.0 * 9 * pixels[i - 1] * dim**2 if i > 0 else 0.0
        before = dim
    return encoder + decoder + 2.0 * 9 * pixels[0] * widths[0] * a["in_channels"]


def products(function: Callable[..., object], *arguments: object) -> float:
    """Return the FLOP of the matrix products and convolutions of a function of arrays or of their shapes; only traced.

    What no result depends on does not count. A scan counts with every trip, a loop of unknown length once, of branches
    the one with most.
    """
    traced = jax.make_jaxpr(function)(*arguments).jaxpr
    return _products(partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))[0])


def _products(jaxpr: Jaxpr) -> float:
    total = 0.0
    for one in jaxpr.eqns:
        name, given = one.primitive.name, one.params
        shapes: list[Any] = [x.aval for x in (*one.outvars, *one.invars)]
        inner = [_products(each) for each in jax.core.jaxprs_in_params(given)]
        if name == "dot_general":
            (axes, _), _ = given["dimension_numbers"]
            total += 2.0 * shapes[0].size * math.prod(shapes[1].shape[axis] for axis in axes)
        elif name == "conv_general_dilated":  # of a dilated input, whose zeros are not multiplied, a share
            kernel, (out, *_) = shapes[2], given["dimension_numbers"].rhs_spec
            taps = kernel.size / kernel.shape[out] / math.prod(given["lhs_dilation"])
            total += 2.0 * shapes[0].size * taps
        elif name == "cond":
            total += max(inner)
        else:
            total += sum(inner) * (given["length"] if name == "scan" else 1)
    return total
