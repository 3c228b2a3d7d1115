"""The shipped settings of text to image, by name; `configs/image/text_to_image_NAME.py` is the recipe of each."""

import functools

from dreamjax import config as configs
from dreamjax.systems.diffusion_base import DiffusionLossConfig
from dreamjax.systems.text_to_image import TextToImageConfig, UNetModelConfig
from dreamjax.targets.latents import LatentConfig
from dreamjax.training.checkpoints import CheckpointConfig
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.train_config import TrainConfig

# the demo's: drawn images of 32 x 32, a U-Net trained from nothing beside its own autoencoder and text encoder
_SHAPES = TextToImageConfig(
    data=LatentConfig(resolution=32, val_share=0.05, encode_batch=64),
    model=UNetModelConfig(architecture="shapes", start="random"),
    # of velocities, all time steps alike: where and what is there is decided under much noise, which counts more so
    loss=DiffusionLossConfig(),
    optim=OptimConfig(
        learning_rate=4e-3, warmup_steps=50, weight_decay=0.01, beta1=0.95, beta2=0.99, clip=1.0, ema_decay=0.99
    ),
    train=TrainConfig(steps=1200, batch_size=32, eval_every=600, checkpoint=CheckpointConfig(every=600)),
)
# fine-tuning, as diffusers' training script has it by default: AdamW (0.9, 0.999), a constant 1e-5
_SD15 = TextToImageConfig(
    data=LatentConfig(resolution=512, flip=0.5, val_share=0.02),
    model=UNetModelConfig(dtype="bfloat16", remat="full"),
    loss=DiffusionLossConfig(drop_condition=0.1),
    optim=OptimConfig(
        learning_rate=1e-5,
        warmup_steps=500,
        schedule="constant",
        beta2=0.999,
        weight_decay=0.01,
        clip=1.0,
        ema_decay=0.9999,
    ),
    train=TrainConfig(steps=15_000, batch_size=64, eval_every=1_000, checkpoint=CheckpointConfig(every=1_000)),
)
PRESETS = {"shapes": _SHAPES, "sd15": _SD15}
preset = functools.partial(configs.preset, presets=PRESETS)  # name → its config, to change and to load
