"""The shipped settings of DreamDiffusion's stage B, by name; `configs/image/dreamdiffusion_NAME.py` has the recipe."""

from ml_collections import ConfigDict

from dreamjax.config import to_config_dict
from dreamjax.errors import UserError, nearest
from dreamjax.systems.dreamdiffusion import DreamDiffusionConfig, LossConfig, ModelConfig
from dreamjax.targets.trials import TargetConfig
from dreamjax.training.checkpoints import CheckpointConfig
from dreamjax.training.loop import TrainConfig
from dreamjax.training.optimiser import OptimConfig

# the demo's: trials of simulated people, the small latent diffusion model that the demo trained
_SHAPES = DreamDiffusionConfig(
    target=TargetConfig(resolution=32, val_share=0.15, test_share=0.2, encode_batch=64),
    model=ModelConfig(hidden=32),
    loss=LossConfig(drop_condition=0.1, min_snr_gamma=1.0),
    optim=OptimConfig(learning_rate=1e-3, warmup_steps=50, weight_decay=0.05, beta2=0.99, clip=1.0, ema_decay=0.998),
    train=TrainConfig(steps=1500, batch_size=32, eval_every=500, checkpoint=CheckpointConfig(every=500)),
)
PRESETS = {"shapes": _SHAPES}


def preset(name: str) -> ConfigDict:
    """The config of a shipped setting, to change and to load. Raises UserError for an unknown name."""
    if name not in PRESETS:
        guess = nearest(name, list(PRESETS))
        raise UserError(f"there is no preset {name}; did you mean {guess or ', '.join(PRESETS)}?")
    return to_config_dict(PRESETS[name])
