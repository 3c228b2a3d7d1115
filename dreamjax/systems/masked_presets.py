"""The shipped settings of masked pretraining, by name; `configs/pretrain/NAME.py` is the recipe of each."""

import functools
from dataclasses import replace
from typing import Any

from dreamjax import config as configs
from dreamjax.objectives.masking import MaskConfig
from dreamjax.objectives.reconstruction_loss import ReconstructionConfig
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.systems.masked_pretraining import MaskedModelConfig, MaskedPretrainingConfig
from dreamjax.training.checkpoints import CheckpointConfig
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.train_config import TrainConfig

# ours: 19 electrodes of the 10-20 system, 2 s at 256 Hz, patches of 15.6 ms
_TEMPLATE = DataConfig(montage="1020-19", samples=512, sfreq=256.0, scaling="robust", shift=True, flip_polarity=0.5)


def _vit(encoder: tuple[int, int, int], decoder: tuple[int, int, int], **rest: Any) -> MaskedModelConfig:
    """Return the sizes of a ViT from (width, depth, heads) of encoder and decoder."""
    names = ("dim", "depth", "heads", "decoder_dim", "decoder_depth", "decoder_heads")
    sizes: dict[str, Any] = dict(zip(names, encoder + decoder, strict=True))
    return MaskedModelConfig(**sizes, **rest)


_TINY = MaskedPretrainingConfig(
    data=_TEMPLATE,
    model=_vit((64, 2, 4), (48, 1, 4)),
    optim=OptimConfig(learning_rate=2e-3, warmup_steps=20),
    train=TrainConfig(steps=300, batch_size=32, eval_every=100, checkpoint=CheckpointConfig(every=100)),
)
# the transformer predicts the residual of a learned Gaussian interpolation; gaps and scattered patches, two ratios
# It is small because there are few public recordings: larger ones overfitted their training subjects.
_SMALL = MaskedPretrainingConfig(
    data=replace(_TEMPLATE, reverse_time=0.5, amplitude_jitter=0.2, flip_polarity=0.5, shift=True),
    model=_vit((96, 2, 4), (64, 1, 4), interpolation="gaussian"),
    mask=MaskConfig(
        ratio=(0.5, 0.75), kind=("random", "block"), kind_weights=(2.0, 1.0), span=(8, 16, 32), padding=True
    ),
    loss=ReconstructionConfig(kind="smooth_l1", interpolated_weight=0.0),  # artefacts would dominate a squared error
    optim=OptimConfig(learning_rate=1e-3, warmup_steps=50, weight_decay=0.2, ema_decay=0.998),
    train=TrainConfig(
        steps=5000, batch_size=32, eval_every=500, image_every=1000, checkpoint=CheckpointConfig(every=500)
    ),
)
_BASE = MaskedPretrainingConfig(
    data=_TEMPLATE,
    model=_vit((768, 12, 12), (384, 4, 6), dtype="bfloat16"),
    mask=MaskConfig(ratio=0.75, kind=("random", "block")),
    optim=OptimConfig(learning_rate=6e-4, warmup_steps=5_000, clip=1.0, ema_decay=0.9999),
    train=TrainConfig(steps=200_000, batch_size=1024, eval_every=5_000, checkpoint=CheckpointConfig(every=5_000)),
)
# DreamDiffusion (arXiv 2306.16934): 500 epochs of 120,000 windows in batches of 100, of them 40 of warm-up
_DREAMDIFFUSION_CODE = MaskedPretrainingConfig(
    data=DataConfig(montage="own", mapping="tile", stretch=True, scaling="divide", divide=10.0, clip=0.0),
    model=_vit((1024, 24, 16), (512, 8, 16), channels=128, mlp_ratio=1.0, dtype="bfloat16"),
    mask=MaskConfig(ratio=0.1, padding=False),
    optim=OptimConfig(learning_rate=2.5e-4, warmup_steps=48_000, weight_decay=0.05, clip=0.8),
    train=TrainConfig(steps=600_000, batch_size=100, eval_every=24_000, checkpoint=CheckpointConfig(every=24_000)),
)
_DREAMDIFFUSION_PAPER = replace(
    _DREAMDIFFUSION_CODE,
    model=replace(_DREAMDIFFUSION_CODE.model, mlp_ratio=4.0),
    mask=MaskConfig(ratio=0.75, padding=False),
)
# ours for the trials of EEG-ImageNet: half a second of 128 channels of unknown position, 32 patches of 15.6 ms
_DREAMDIFFUSION = MaskedPretrainingConfig(
    data=DataConfig(montage="own", samples=128, amplitude_jitter=0.2, flip_polarity=0.5),
    model=_vit((768, 12, 12), (384, 4, 6), channels=128, dtype="bfloat16"),
    mask=MaskConfig(ratio=0.75, kind=("random", "block")),
    optim=OptimConfig(learning_rate=6e-4, warmup_steps=1_000, clip=1.0, ema_decay=0.999),
    train=TrainConfig(steps=20_000, batch_size=256, eval_every=1_000, checkpoint=CheckpointConfig(every=1_000)),
)

PRESETS = {
    "tiny": _TINY,
    "small": _SMALL,
    "base": _BASE,
    "dreamdiffusion": _DREAMDIFFUSION,
    "dreamdiffusion_code": _DREAMDIFFUSION_CODE,
    "dreamdiffusion_paper": _DREAMDIFFUSION_PAPER,
}
preset = functools.partial(configs.preset, presets=PRESETS)  # name → its config, to change and to load
