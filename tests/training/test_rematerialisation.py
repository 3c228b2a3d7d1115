"""What is to be computed again in the backward pass is not kept for it, also where layers are not scanned."""

import jax
import jax.numpy as jnp
import pytest

from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.systems.masked_pretraining import MaskedModelConfig, MaskedPretraining, MaskedPretrainingConfig
from dreamjax.training import program
from dreamjax.training.train_config import TrainConfig

ROWS, DEPTH = 8, 8
SIZES = {"channels": 5, "dim": 32, "depth": DEPTH, "heads": 2, "decoder_dim": 16, "decoder_depth": 1}


def temporaries(remat: str, scan_layers: bool) -> int:
    """Bytes beside the state of a step that is compiled for this machine and not run."""
    model = MaskedModelConfig(**SIZES, decoder_heads=2, remat=remat, scan_layers=scan_layers)
    config = MaskedPretrainingConfig(model=model, train=TrainConfig(microbatches=1))
    shapes = {"signal": (5, config.data.samples), "valid": (config.data.samples,), "channel_ok": (5,), "weight": ()}
    batch = {name: jax.ShapeDtypeStruct((ROWS, *shape), jnp.float32) for name, shape in shapes.items()}
    batch["index"] = jax.ShapeDtypeStruct((ROWS, 2), jnp.uint32)
    mesh = meshes.make(MeshConfig(), jax.devices()[:1])
    with jax.set_mesh(mesh):
        built = program.build(MaskedPretraining(config), mesh)
        compiled = built.step.lower(built.shapes, batch).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.long
@pytest.mark.parametrize("scan_layers", [True, False])
def test_rematerialisation_frees_the_activations_of_a_block(scan_layers):
    """Eight blocks: their activations make most of the temporaries, and with remat those of one are there at a time."""
    assert temporaries("full", scan_layers) < 0.5 * temporaries("none", scan_layers)
