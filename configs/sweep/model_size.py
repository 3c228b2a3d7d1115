"""How large an encoder a corpus supports, at equal examples and at equal FLOP.

    dreamjax sweep --config configs/sweep/model_size.py --workdir runs/sizes --config.base.data.path=runs/shards
    dreamjax report runs/sizes

Five sizes, each with its own learning rate (as 1 / sqrt(width), which keeps updates alike), three seeds: 15 runs. At
equal FLOP the larger ones see fewer windows. A power law is fitted over operations an example.
"""

from ml_collections import ConfigDict

from dreamjax.sweeps import axes, sweep_config
from dreamjax.systems.masked_presets import preset

# name → width, depth, heads of the encoder; width and heads of the decoder, one block deep
SIZES = {
    "32x1": (32, 1, 2, 32, 2),
    "64x2": (64, 2, 4, 48, 4),
    "96x2": (96, 2, 4, 64, 4),
    "128x4": (128, 4, 4, 96, 4),
    "192x6": (192, 6, 6, 128, 4),
}
RATE, AT = 1e-3, 96  # learning rate of this width


def get_config(path: tuple[str, ...] = (), steps: int = 1000) -> ConfigDict:
    """Return the config. `path`: dataset folders; `steps`: optimiser steps of a run at equal examples."""
    base = preset("small")
    base.data.update({"path": path, "samples": 256})
    base.model.interpolation = "none"
    base.mask.update({"ratio": 0.75, "kind": "random", "kind_weights": ()})
    base.optim.schedule = "constant"
    base.train.update({"steps": steps, "eval_every": 0, "image_every": 0, "tensorboard": False})
    base.train.checkpoint.update({"every": 250, "keep_last": 1})
    sizes = axes.rows("size", **{name: _row(*size) for name, size in SIZES.items()})
    return sweep_config.config("model_size", base, [sizes], seeds=(0, 1, 2), scaling="size", together=3)


def _row(dim: int, depth: int, heads: int, decoder_dim: int, decoder_heads: int) -> dict:
    model = {"dim": dim, "depth": depth, "heads": heads, "decoder_dim": decoder_dim, "decoder_heads": decoder_heads}
    keys = {f"model.{name}": value for name, value in model.items()}
    return keys | {"optim.learning_rate": float(f"{RATE * (AT / dim) ** 0.5:.3g}")}
