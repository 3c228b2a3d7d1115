"""Name table of the masked-signal autoencoder: DreamDiffusion's (and timm's), of its checkpoints and our exports.

Positions are fixed sines and cosines in both and not parameters, but a PyTorch state dict contains them as `pos_embed`
and `decoder_pos_embed` (cls row first, zero). Fine-tuning in DreamDiffusion's stage B trains them by accident: then
`pos_embed` is a parameter here too (`model.positions = "learned"`).
"""

from collections.abc import Mapping

import ml_dtypes
import numpy as np
from jaxtyping import Float

from dreamjax.models.layers import sincos_positions
from dreamjax.storage.checkpoint_files.safetensors_files import Tensor
from dreamjax.weights.table import IDENTITY, Table, layer, layers

POSITION_TOLERANCE = 1e-5  # absolute: NumPy's and torch's sines of the same angle differ by less


_BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")

TABLE = Table(
    ("cls_token", "cls_token", IDENTITY),
    ("pos_embed", "pos_embed", IDENTITY),  # only where positions are learned
    *layer("patch_embed.proj", "patch_embed"),
    *layers("blocks.{i}", "blocks", *_BLOCK),
    *layer("norm", "norm"),
    ("mask_token", "mask_token", IDENTITY),
    *layer("decoder_embed", "decoder_embed"),
    *layers("decoder_blocks.{i}", "decoder_blocks", *_BLOCK),
    *layers("", "", "decoder_norm", "decoder_pred"),
    ("interpolation.log_spectrum", "interpolation/log_spectrum", IDENTITY),  # only where the model has this layer
    ("interpolation.log_noise", "interpolation/log_noise", IDENTITY),
    *layers("interpolation", "interpolation", "adapt", "embed"),
)


def positions(patches: int, dim: int) -> Float[np.ndarray, "1 tokens dim"]:
    """Return the fixed `pos_embed` of a PyTorch state dict: a zero row for the cls token, then one row per patch."""
    return np.concatenate([np.zeros((1, dim), np.float32), sincos_positions(patches, dim)])[None]


def with_positions(tensors: Mapping[str, np.ndarray], patches: int) -> dict[str, np.ndarray]:
    """Return `tensors` and the fixed positions of PyTorch's state dict."""
    state = dict(tensors)
    state.setdefault("pos_embed", positions(patches, tensors["norm.weight"].shape[0]))
    if "decoder_embed.bias" in tensors:
        state["decoder_pos_embed"] = positions(patches, tensors["decoder_embed.bias"].shape[0])
    return state


def is_fixed(stored: Tensor) -> bool:
    """Return whether a stored `pos_embed` (1, 1 + patches, dim) holds the sines and cosines that the model computes."""
    array = np.asarray(stored)
    precision = float(ml_dtypes.finfo(array.dtype).eps) if array.dtype.kind != "i" else 1.0
    expected = positions(array.shape[1] - 1, array.shape[2])
    return bool(np.max(np.abs(array.astype(np.float32) - expected)) <= max(POSITION_TOLERANCE, precision))
