"""How much of a window to hide: DreamDiffusion's paper says 0.75, its code 0.1; masks anywhere and in spans.

    dreamjax sweep --config configs/sweep/mask_ratio.py --workdir runs/ratios --config.base.data.path=runs/shards
    dreamjax report runs/ratios

Seven ratios, two kinds of masks, three seeds: 42 runs of the `small` network without its interpolation layer on windows
of 1 s, 1,000 steps of 32 each, at equal examples and at equal FLOP (a constant rate, so that the shorter run is the
beginning of the longer one; 6e-3, as pilots at ratio 0.5 learned most by it in so few steps). Seeds are trained as one.
Scored are held-out people of split val under masks that are the same for all runs.

    smoke   `…/mask_ratio.py:smoke=true`: three ratios, one kind, two seeds, 400 steps; draws no conclusion

docs/mask_ratio.md has what it shows on 12 people's public recordings.
"""

from ml_collections import ConfigDict

from dreamjax.sweeps import axes, sweep_config
from dreamjax.systems.masked_presets import preset

RATIOS = (0.1, 0.25, 0.5, 0.65, 0.75, 0.85, 0.95)


def get_config(path: tuple[str, ...] = (), steps: int | None = None, smoke: bool = False) -> ConfigDict:
    """Return the config. `path`: dataset folders; `steps`: optimiser steps of a run; `smoke`: a check of minutes."""
    base = preset("small")
    base.data.update({"path": path, "samples": 256})
    base.model.interpolation = "none"
    base.mask.update({"ratio": 0.75, "kind": "random", "kind_weights": (), "span": 16})
    base.optim.update({"schedule": "constant", "learning_rate": 6e-3, "ema_decay": 0.99})
    base.train.update({"eval_every": 0, "image_every": 0, "tensorboard": False})
    base.train.steps = steps if steps is not None else 400 if smoke else 1000
    base.train.checkpoint.update({"every": 250, "keep_last": 1})
    ratios, kinds, seeds = (
        ((0.1, 0.5, 0.75), ("random",), (0, 1)) if smoke else (RATIOS, ("random", "block"), (0, 1, 2))
    )
    varied = [axes.values("mask.ratio", *ratios), axes.values("mask.kind", *kinds)]
    return sweep_config.config("mask_ratio", base, varied, seeds=seeds, together=len(seeds), score={"windows": 240})
