"""The operations that systems count by hand are those of the program that XLA compiles."""

import jax
import pytest

from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.systems import autoencoder, clip, registry
from dreamjax.systems.dreamdiffusion import ConditionedModelConfig, DreamDiffusionConfig, EncoderConfig
from dreamjax.systems.masked_pretraining import MaskedModelConfig
from dreamjax.systems.text_to_image import TextToImageConfig, UNetModelConfig
from dreamjax.targets.images import ImageConfig
from dreamjax.targets.latents import LatentConfig
from dreamjax.targets.trials import TargetConfig

ROWS = 2
ENCODER = MaskedModelConfig(channels=32, dim=64, depth=2, heads=4, patch=4)


def configs():
    yield autoencoder.AutoencoderConfig(data=ImageConfig(resolution=32))
    yield clip.ClipConfig(data=ImageConfig(resolution=32), model=clip.ClipModelConfig(scan_layers=False))
    unet = UNetModelConfig(architecture="shapes", start="random", scan_layers=False)
    yield TextToImageConfig(data=LatentConfig(resolution=32), model=unet)
    yield DreamDiffusionConfig(
        data=DataConfig(samples=128),
        encoder=EncoderConfig(model=ENCODER),
        target=TargetConfig(resolution=32),
        model=ConditionedModelConfig(architecture="shapes", hidden=32, scan_layers=False),
    )


@pytest.mark.parametrize("config", list(configs()), ids=lambda config: config.system)
def test_counted_operations_are_those_of_the_compiled_forward_pass(config):
    """Matrix products and convolutions are counted by hand; norms and activations are a few percent at these widths."""
    task = registry.build(config)
    state = jax.eval_shape(task.init, jax.random.key(0))
    batch = {name: jax.ShapeDtypeStruct((ROWS, *x.shape), x.dtype) for name, x in task.example().items()}
    forward = jax.jit(lambda params, frozen, batch: task.loss(params, frozen, batch, 0, training=True)[0])
    compiled = forward.lower(state.params, state.frozen, batch).cost_analysis()["flops"] / ROWS
    assert task.flops() / 3 == pytest.approx(compiled, rel=0.15)
