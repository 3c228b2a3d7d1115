"""An autoencoder run → a folder that `diffusers.AutoencoderKL.from_pretrained` opens.

config.json                              its architecture, with the scaling_factor that was measured
diffusion_pytorch_model.safetensors      the weights
parity.safetensors                       images, and what dreamjax makes of them
README.md
"""

import dataclasses
import json
from typing import Any

import jax
import numpy as np
from etils import epath

import dreamjax
from dreamjax.export.comparison import Compare, Library
from dreamjax.export.diffusers_export import TOLERANCE
from dreamjax.storage.checkpoint_files import safetensors_files
from dreamjax.systems import autoencoder, opening
from dreamjax.systems.autoencoder import Autoencoder, AutoencoderConfig
from dreamjax.weights import networks, writing

STEM = "diffusion_pytorch_model"
LIBRARY = Library(
    "diffusers",
    "from diffusers import AutoencoderKL",
    """
vae = AutoencoderKL.from_pretrained(".", torch_dtype=torch.float32)
latents = vae.encode(p["images"]).latent_dist.mode()
found = {"latents": difference(latents, "latents"), "decoded": difference(vae.decode(p["latents"]).sample, "decoded")}
""",
)
CARD = """# An autoencoder of latent diffusion, trained with dreamjax

```python
from diffusers import AutoencoderKL

vae = AutoencoderKL.from_pretrained("FOLDER")
latents = vae.encode(images).latent_dist.sample() * vae.config.scaling_factor     # images in [-1, 1]
```

| | |
|---|---|
| written by | dreamjax {version}, step {step} ({examples:,} examples), {weights} weights |
| images | {images}, {resolution} x {resolution} pixels |
| scaling_factor | {factor:.5f}: 1 / standard deviation of the latents over the training images |

`parity.safetensors` holds `images`, their `latents` (the middle of the posterior) and those `decoded` by dreamjax;
PyTorch's differ by at most {tolerance:g} of the largest magnitude.
"""


def write(folder: epath.Path, run: opening.Run, compare: Compare) -> dict[str, Any]:
    """Every file of the export, in an existing folder; returns what the command says of it."""
    task: Autoencoder = run.task  # type: ignore[assignment]
    config = task.config
    # a step from before the end of training has none yet
    factor = float(opening.extra(run)["scaling_factor"]) or task.scaling_factor(run.params)
    described = config.vae | {"scaling_factor": round(factor, 6), "sample_size": config.data.resolution}
    table = networks.of(described, run.workdir).table
    writing.write_safetensors(folder, STEM, table.to_torch(run.params))
    safetensors_files.write(folder / "parity.safetensors", parity(config, run.params))
    (folder / "README.md").write_text(
        CARD.format(
            version=dreamjax.__version__,
            step=run.step,
            examples=run.examples,
            weights="averaged" if run.averaged else "last",
            images=epath.Path(config.data.folder).name or "unknown",
            resolution=config.data.resolution,
            factor=factor,
            tolerance=TOLERANCE,
        )
    )
    (folder / "config.json").write_text(json.dumps(described, indent=2, sort_keys=True) + "\n")
    return {
        "parameters": opening.parameter_count(run.params),
        "scaling_factor": factor,
        "differences": compare(folder),
    }


def parity(config: AutoencoderConfig, params: Any) -> dict[str, np.ndarray]:
    """Two images of noise in PyTorch's layout, their latents, and those decoded, in float32."""
    exact = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype="float32", attention="auto"))
    size = config.data.resolution
    x = np.random.default_rng(0).uniform(-1, 1, (2, size, size, 3)).astype(np.float32)

    def both(params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        vae = autoencoder.bind(exact, params)
        latents = vae.moments(x)[0]
        return latents, vae.decode(latents)

    with jax.default_matmul_precision("highest"):
        latents, decoded = jax.jit(both)(params, x)
    found = {"images": x, "latents": latents, "decoded": decoded}
    return {name: np.ascontiguousarray(np.asarray(value).transpose(0, 3, 1, 2)) for name, value in found.items()}
