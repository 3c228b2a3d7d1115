"""How many samples a token should hold: DreamDiffusion's has 4 of an unstated rate, LaBraM's a second.

    dreamjax sweep --config configs/sweep/patch_length.py --workdir runs/patches --config.base.data.path=runs/shards
    dreamjax report runs/patches

Tokens of 2 to 32 samples (8 to 125 ms at 256 Hz) × two kinds of masks, three seeds: 30 runs. Hidden are pieces of 32
samples whatever a token holds, when runs are scored (`score.patch`) and in training, where a block hides 32 too:
without that a model of short tokens would be asked to fill shorter gaps. Masks anywhere hide single tokens, and are in
the table to show what that does.

Long tokens are cheap: at equal FLOP they see more windows.
"""

from ml_collections import ConfigDict

from dreamjax.sweeps import axes, sweep_config
from dreamjax.systems.masked_presets import preset

PATCHES = (2, 4, 8, 16, 32)
HIDDEN = 32  # samples at once


def get_config(path: tuple[str, ...] = (), steps: int = 1000) -> ConfigDict:
    """Return the config. `path`: dataset folders; `steps`: optimiser steps of a run at equal examples."""
    base = preset("small")
    base.data.update({"path": path, "samples": 256})
    base.model.interpolation = "none"
    base.mask.update({"ratio": 0.75, "kind_weights": ()})
    base.optim.schedule = "constant"
    base.train.update({"steps": steps, "eval_every": 0, "image_every": 0, "tensorboard": False})
    base.train.checkpoint.update({"every": 250, "keep_last": 1})
    blocks = {f"{patch}-blocks": _row(patch, "block", HIDDEN // patch) for patch in PATCHES}
    singles = {f"{patch}-anywhere": _row(patch, "random", 1) for patch in PATCHES}
    tokens = axes.rows("token", **blocks, **singles)
    return sweep_config.config(
        "patch_length", base, [tokens], seeds=(0, 1, 2), together=3, score={"patch": HIDDEN, "windows": 240}
    )


def _row(patch: int, kind: str, span: int) -> dict:
    return {"model.patch": patch, "mask.kind": kind, "mask.span": span}
