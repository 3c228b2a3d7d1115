"""A text_to_image run → a folder that `StableDiffusionPipeline.from_pretrained` opens.

model_index.json, scheduler/, tokenizer/, text_encoder/, vae/    as they were: copies of the original bytes
unet/                                                            what was trained; frozen tensors are original bytes
parity.safetensors                                               an input of the U-Net and what dreamjax makes of it
README.md                                                        where it comes from and how to use it
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

import dreamjax
from dreamjax.export.comparison import Compare, Library
from dreamjax.export.diffusers_export import TOLERANCE
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.runs.components import Components
from dreamjax.storage.checkpoint_files import safetensors_files
from dreamjax.systems.opening import Run
from dreamjax.systems.text_to_image import CROSS_ATTENTION, TextToImage
from dreamjax.weights import writing
from dreamjax.weights.networks import Network
from dreamjax.weights.pipeline_folder import CONFIGS, INDEX
from dreamjax.weights.table import keep

STEM = "diffusion_pytorch_model"
CLASSES = {
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
}
LIBRARY = Library(
    "diffusers",
    "from diffusers import UNet2DConditionModel",
    """
unet = UNet2DConditionModel.from_pretrained("unet", torch_dtype=torch.float32)
found = {"unet": difference(unet(p["latents"], p["timesteps"], p["context"]).sample, "output")}
""",
)
CARD = """# Text to image, trained with dreamjax

```python
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained("{name}")
pipeline("{caption}").images[0].save("image.png")
```

| | |
|---|---|
| written by | dreamjax {version}, step {step} ({examples:,} examples), {weights} weights |
| trained | {trained} |
| images | {images}, {resolution} x {resolution} pixels |
| the other parts | copies of the original bytes{base} |
| predicts | {predicts} |

`parity.safetensors` holds an input of the U-Net (`latents`, `timesteps`, `context`) and the `output` that dreamjax
computed; PyTorch's differs by at most {tolerance:g} of its largest magnitude.
"""


def write(folder: epath.Path, run: Run, compare: Compare) -> dict[str, Any]:
    """Every file of the export, in an existing folder; returns what the command says of it."""
    task: TextToImage = run.task  # type: ignore[assignment]
    params = task.whole_unet(run.params, meshes.make(MeshConfig()))
    _copy_parts(folder, task.parts)
    _write_unet(folder / "unet", task, params)
    parity = _parity(task, params)
    safetensors_files.write(folder / "parity.safetensors", parity)
    (folder / "README.md").write_text(_card(run))
    differences = compare(folder)
    return {"parameters": sum(leaf.size for leaf in jax.tree.leaves(params)), "differences": differences}


def _copy_parts(folder: epath.Path, parts: Components) -> None:
    """Everything but the U-Net, and the index."""
    kept = parts.pipeline.kept if parts.pipeline is not None else {}
    others = parts.pipeline.components if parts.pipeline is not None else {}
    for name in {**CLASSES, "scheduler": [], **others, **kept}:
        if name != "unet" and (parts.has(name) or name in kept):
            writing.copy_component(parts.path(name), folder / name)
    if not parts.has("scheduler"):
        config = parts.config("scheduler")
        (folder / "scheduler").mkdir(parents=True)
        (folder / "scheduler" / CONFIGS["scheduler"]).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    if parts.pipeline is not None:
        writing.copy_file(parts.pipeline.folder / INDEX, folder / INDEX)
        return
    scheduler = ["diffusers", parts.config("scheduler")["_class_name"]]
    index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False}
    index |= {name: [None, None] for name in ("feature_extractor", "image_encoder", "safety_checker")}
    (folder / INDEX).write_text(
        json.dumps({**index, **CLASSES, "scheduler": scheduler}, indent=2, sort_keys=True) + "\n"
    )


def _write_unet(folder: epath.Path, task: TextToImage, params: Any) -> None:
    network, _ = task.network
    trained = keep(params, CROSS_ATTENTION) if task.config.model.trainable == "cross_attention" else params
    write_unet(folder, task.parts, network, params, trained)


def write_unet(folder: epath.Path, parts: Components, network: Network, params: Any, trained: Any, **new: Any) -> None:
    """Trained tensors in float32; those that were frozen with the type and the bytes that they came with.

    `params`: all parameters; `trained`: those of them that were trained. `new`: fields of its config that differ from
    the source's, whose file is copied where there are none.
    """
    tensors: dict[str, Any] = dict(network.table.to_torch(params))
    slots = network.table.slots(trained)
    if len(slots) < len(tensors):
        original = network.table.named(parts.tensors("unet"))
        tensors = {name: tensor if name in slots else original[name] for name, tensor in tensors.items()}
    folder.mkdir(parents=True)
    if parts.has("unet") and not new:
        writing.copy_file(parts.path("unet") / "config.json", folder / "config.json")
    else:
        config = {"_class_name": "UNet2DConditionModel", **parts.config("unet"), **new}
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    writing.write_safetensors(folder, STEM, tensors)


def _parity(task: TextToImage, params: Any) -> dict[str, np.ndarray]:
    """An input of the U-Net in PyTorch's layout, and its output in float32."""
    network, arguments = task.network
    exact = arguments | {"dtype": jnp.dtype("float32"), "attention": "auto", "remat": "none"}
    example, rng = task.example(), np.random.default_rng(0)
    h, w = (min(side, 32) for side in example["mean"].shape[:2])
    latents = rng.standard_normal((2, arguments["in_channels"], h, w)).astype(np.float32)
    context = rng.standard_normal((2, *example["context"].shape)).astype(np.float32)
    timesteps = np.array([1, task.schedule.num_train_timesteps - 1], np.int64)

    def forward(params: Any, x: jax.Array, t: jax.Array, context: jax.Array) -> jax.Array:
        return network.bind(exact, params)(x, t, context)

    with jax.default_matmul_precision("highest"):
        output = jax.jit(forward)(params, latents.transpose(0, 2, 3, 1), timesteps, context)
    output = np.ascontiguousarray(np.asarray(output).transpose(0, 3, 1, 2))
    return {"latents": latents, "timesteps": timesteps, "context": context, "output": output}


def _card(run: Run) -> str:
    config = run.config
    model: Mapping[str, Any] = dataclasses.asdict(config.model)
    return CARD.format(
        name="FOLDER",
        caption="a caption",
        version=dreamjax.__version__,
        step=run.step,
        examples=run.examples,
        weights="averaged" if run.averaged else "last",
        trained="the whole U-Net" if model["trainable"] == "all" else "the cross-attention of the U-Net",
        images=epath.Path(config.data.folder).name or "unknown",
        resolution=config.data.resolution,
        base=f" of {epath.Path(model['path']).name}" if model["path"] else "",
        predicts=TextToImage(config).schedule.prediction_type,
        tolerance=TOLERANCE,
    )
