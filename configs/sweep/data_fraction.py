"""How much the error falls with more recordings: a power law with its exponent and interval.

    dreamjax sweep --config configs/sweep/data_fraction.py --workdir runs/fractions --config.base.data.path=runs/shards
    dreamjax report runs/fractions

Six shares of the training windows, from 1/32 to all, the smaller ones among the larger, three seeds: 18 runs of the
`small` network without its interpolation layer. All are trained on as many examples, so those of a small share come
again and again: what falls is the error that more recordings would take away, not that of longer training.

Windows are drawn regardless of the person: at the smallest shares a person with few may have none left, and the
exponent then reflects fewer people as well as fewer windows.
"""

from ml_collections import ConfigDict

from dreamjax.sweeps import axes, sweep_config
from dreamjax.systems.masked_presets import preset

SHARES = (0.03125, 0.0625, 0.125, 0.25, 0.5, 1.0)


def get_config(path: tuple[str, ...] = (), steps: int = 2000) -> ConfigDict:
    """Return the config. `path`: dataset folders; `steps`: optimiser steps of a run."""
    base = preset("small")
    base.data.update({"path": path, "samples": 256, "shift": False})
    base.model.interpolation = "none"
    base.mask.update({"ratio": 0.75, "kind": "random", "kind_weights": ()})
    base.train.update({"steps": steps, "eval_every": 0, "image_every": 0, "tensorboard": False})
    base.train.checkpoint.update({"every": 500, "keep_last": 1})
    return sweep_config.config(
        "data_fraction",
        base,
        [axes.values("data.fraction", *SHARES)],
        seeds=(0, 1, 2),
        compare=("examples",),
        scaling="data.fraction",
        together=3,
    )
