"""The shipped settings of DreamDiffusion's stage B, by name; `configs/image/dreamdiffusion_NAME.py` has the recipe."""

import functools
from dataclasses import replace
from typing import Literal

from ml_collections import ConfigDict

from dreamjax import config as configs
from dreamjax.systems import masked_presets
from dreamjax.systems.dreamdiffusion import (
    AlignedLossConfig,
    ConditionedModelConfig,
    DreamDiffusionConfig,
    EncoderConfig,
)
from dreamjax.targets.trials import TargetConfig
from dreamjax.training.checkpoints import CheckpointConfig
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.train_config import TrainConfig

# the demo's: trials of simulated people, the small latent diffusion model that the demo trained
_SHAPES = DreamDiffusionConfig(
    target=TargetConfig(resolution=32, val_share=0.15, test_share=0.2, encode_batch=64),
    model=ConditionedModelConfig(hidden=32),
    loss=AlignedLossConfig(drop_condition=0.1),
    optim=OptimConfig(learning_rate=6e-3, warmup_steps=50, weight_decay=0.05, beta2=0.99, clip=1.0, ema_decay=0.99),
    train=TrainConfig(steps=400, batch_size=32, eval_every=200, checkpoint=CheckpointConfig(every=200)),
)
# the published code at its default: subject 4 of EEG-ImageNet, 27 steps an epoch; its accidental effects are left out
_CODE = DreamDiffusionConfig(
    data=replace(masked_presets.PRESETS["dreamdiffusion_code"].data, divide=1.0),
    target=TargetConfig(resolution=512, resample="bicubic", val_share=0.1, test_share=0.1),
    encoder=EncoderConfig(model=masked_presets.PRESETS["dreamdiffusion_code"].model, cls_token=False),
    model=ConditionedModelConfig(trainable="cross_attention_and_norm", time_condition=True, remat="full"),
    loss=AlignedLossConfig(drop_condition=0.0),
    optim=OptimConfig(learning_rate=5.3e-5, schedule="constant", beta2=0.999, weight_decay=0.01, clip=0.5),
    train=TrainConfig(steps=13_500, batch_size=25, eval_every=540, checkpoint=CheckpointConfig(every=540)),
)
# the paper: an encoder of 297 M parameters, 300 epochs
_PAPER = replace(
    _CODE,
    encoder=replace(_CODE.encoder, model=replace(_CODE.encoder.model, mlp_ratio=4.0)),
    train=replace(_CODE.train, steps=8_100),
)
# ours at that size: the signal as in pretraining, guidance, averaged weights, less weight on steps of little noise
_OURS = DreamDiffusionConfig(
    data=replace(masked_presets.PRESETS["dreamdiffusion"].data, flip_polarity=0.0),  # of a response, it has a meaning
    target=TargetConfig(resolution=512, resample="bicubic", val_share=0.1, test_share=0.1),
    encoder=EncoderConfig(model=masked_presets.PRESETS["dreamdiffusion"].model),
    model=ConditionedModelConfig(dtype="bfloat16", remat="full"),
    loss=AlignedLossConfig(drop_condition=0.1, min_snr_gamma=5.0),
    optim=OptimConfig(learning_rate=1e-4, warmup_steps=500, weight_decay=0.05, beta2=0.99, clip=1.0, ema_decay=0.999),
    train=TrainConfig(steps=10_000, batch_size=64, eval_every=500, checkpoint=CheckpointConfig(every=500)),
)
Pod = Literal["none", "v5e:4x4", "h200-1", "h200-8", "h200-64"]
PODS = {"v5e:4x4": (1, 16), "h200-1": (1, 1), "h200-8": (8, 1), "h200-64": (64, 1)}  # mesh: data, fsdp
PRESETS = {"shapes": _SHAPES, "ours": _OURS, "code": _CODE, "paper": _PAPER}
preset = functools.partial(configs.preset, presets=PRESETS)  # name → its config, to change and to load


def planned(name: str, pod: Pod, per_chip: int) -> ConfigDict:
    """Return `preset(name)`; with a pod, only sizes, on a mesh of its chips, `per_chip` trials each, to be compiled."""
    config = preset(name)
    if pod != "none":
        data, fsdp = PODS[pod]
        config.model.architecture, config.model.dtype = "sd15", "bfloat16"
        config.model.attention = "auto" if pod.startswith("h200") else "pallas"
        config.train.mesh.data, config.train.mesh.fsdp = data, fsdp
        config.train.batch_size = data * fsdp * per_chip
    return config
